"""The notebook runs, and is in sync with the script."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK, SCRIPT = EXAMPLES / "quickstart.ipynb", EXAMPLES / "quickstart.py"

if not NOTEBOOK.exists():
    pytest.skip("needs a checkout", allow_module_level=True)


def cells(path):
    jupytext = pytest.importorskip("jupytext")
    return [
        (cell.cell_type, cell.source, cell.metadata.get("tags", []))
        for cell in jupytext.read(path).cells
    ]


def test_notebook_and_script_are_in_step():
    assert cells(NOTEBOOK) == cells(SCRIPT), "run: python scripts/run_notebook.py"


def test_the_notebook_shows_its_outputs():
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    run = [cell for cell in code if "skip-execution" not in cell.metadata.get("tags", [])]
    message = "run: python scripts/run_notebook.py"
    assert [cell.execution_count for cell in run] == list(range(1, len(run) + 1)), message
    for cell in run:
        last = cell.source.splitlines()[-1].strip()
        shows = "print(" in cell.source or last.startswith(("plt.", "plot_maps("))
        assert bool(cell.outputs) == shows, f"{message}: {cell.source}"
    outputs = [output for cell in run for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    assert NOTEBOOK.stat().st_size < 800_000


def test_the_badge_opens_this_notebook():
    project = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text())["project"]
    place = project["urls"]["Homepage"].removeprefix("https://github.com/")
    path = NOTEBOOK.relative_to(EXAMPLES.parent).as_posix()
    address = f"https://colab.research.google.com/github/{place}/blob/main/{path}"
    badge = (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({address})"
    )
    assert badge in cells(NOTEBOOK)[0][1]
    assert badge in (EXAMPLES.parent / "README.md").read_text()
    install = next(source for kind, source, _ in cells(NOTEBOOK) if kind == "code")
    assert re.fullmatch(r'%pip install -q "softattn\[(.+)\]"', install)[1] == "timm,plot"


@pytest.mark.slow
def test_it_runs():
    for package in ("timm", "matplotlib"):
        pytest.importorskip(package, reason="the notebook needs softattn[timm,plot]")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbmake", NOTEBOOK]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
