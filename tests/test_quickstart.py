"""The notebook runs, and is in sync with the script."""

import subprocess
import sys
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
    assert cells(NOTEBOOK) == cells(SCRIPT), "run: jupytext --sync examples/quickstart.py"


def test_the_notebook_holds_no_outputs():
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)


def test_it_runs():
    for package in ("timm", "matplotlib"):
        pytest.importorskip(package, reason="the notebook needs softattn[timm,plot]")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbmake", NOTEBOOK]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
