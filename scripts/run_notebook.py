"""Run the scripts of the notebooks, and store them with their outputs as the notebooks.

    python scripts/run_notebook.py [examples/quickstart.py ...]

Cells with the tag `skip-execution` are not run. Warnings and progress bars are left out: they are
about the machine. Wide pictures are reduced.
A notebook is run in a temporary folder, where it may write files.
"""

import base64
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = (EXAMPLES / "quickstart.py", EXAMPLES / "ham10000" / "notebook_cells.py")
KEPT = {"jupytext", "kernelspec"}
"""Metadata that do not depend on the machine."""
WIDTH = 800
"""Width of the widest picture in pixels."""


def main() -> None:
    """Write the notebooks."""
    for script in map(Path, sys.argv[1:]) if sys.argv[1:] else SCRIPTS:
        write_notebook(script)


def write_notebook(script: Path) -> None:
    """Run a script, and write the notebook next to it."""
    notebook = jupytext.read(script)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, record_timing=False, coalesce_streams=True)
        client.execute(cwd=folder)
    notebook.metadata = {key: notebook.metadata[key] for key in KEPT & notebook.metadata.keys()}
    notebook.metadata.jupytext = {"formats": "ipynb,py:percent"}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        if cell.cell_type == "code":
            cell.outputs = [reduced(each) for each in cell.outputs if is_kept(each)]
    # A script named notebook.py would be imported instead of the package notebook, by jupytext too.
    nbformat.write(notebook, script.with_name(f"{script.stem.removesuffix('_cells')}.ipynb"))


def is_kept(output: Any) -> bool:
    """Return whether an output is neither a warning nor a progress bar."""
    data = output.get("data", {})
    return output.get("name") != "stderr" and not ("text/html" in data and "image/png" not in data)


def reduced(output: Any) -> Any:
    """Reduce the picture of an output if it is wide."""
    png = output.get("data", {}).get("image/png")
    if png is not None:
        picture = Image.open(io.BytesIO(base64.b64decode(png)))
        if picture.width > WIDTH:
            picture.thumbnail((WIDTH, WIDTH))
            file = io.BytesIO()
            picture.convert("RGB").quantize(128).save(file, "PNG", optimize=True)
            output["data"]["image/png"] = base64.b64encode(file.getvalue()).decode()
    return output


if __name__ == "__main__":
    main()
