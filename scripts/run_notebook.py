"""Run the script examples/quickstart.py as a notebook, and store its outputs in the notebook.

python scripts/run_notebook.py

Cells with the tag `skip-execution` are not run. Warnings are left out: they are about the machine.
"""

from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK, SCRIPT = EXAMPLES / "quickstart.ipynb", EXAMPLES / "quickstart.py"
KEPT = {"jupytext", "kernelspec"}
"""Metadata that do not depend on the machine."""


def main() -> None:
    """Write the notebook."""
    notebook = jupytext.read(SCRIPT)
    NotebookClient(notebook, record_timing=False, coalesce_streams=True).execute(cwd=str(EXAMPLES))
    notebook.metadata = {key: notebook.metadata[key] for key in KEPT & notebook.metadata.keys()}
    notebook.metadata.jupytext = {"formats": "ipynb,py:percent"}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
