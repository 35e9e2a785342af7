"""The notebook runs on synthetic images, and is in sync with its script."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1]
NOTEBOOK, SCRIPT = FOLDER / "notebook.ipynb", FOLDER / "notebook_cells.py"
PLACE = "softattn/softattn/blob/main/examples/ham10000/notebook.ipynb"
UPDATE = "run: python scripts/run_notebook.py examples/ham10000/notebook_cells.py"


def cells(path: Path) -> list[tuple[str, str, Any]]:
    jupytext = pytest.importorskip("jupytext")
    return [
        (cell.cell_type, cell.source, cell.metadata.get("tags", []))
        for cell in jupytext.read(path).cells
    ]


def test_notebook_and_script_are_in_step() -> None:
    assert cells(NOTEBOOK) == cells(SCRIPT), UPDATE


def test_the_notebook_has_small_outputs_and_no_private_paths() -> None:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    run = [cell for cell in code if "skip-execution" not in cell.metadata.get("tags", [])]
    assert [cell.execution_count for cell in run] == list(range(1, len(run) + 1)), UPDATE
    outputs = [output for cell in run for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    text = NOTEBOOK.read_text()
    assert not any(private in text for private in ("/tmp", "/root", "/home", "site-packages"))
    assert "synthetic images" in "".join(output.get("text", "") for output in outputs)
    assert NOTEBOOK.stat().st_size < 300_000


@pytest.mark.parametrize(
    "badge",
    [
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{PLACE})",
        "[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
        f"(https://kaggle.com/kernels/welcome?src=https://github.com/{PLACE})",
    ],
)
def test_the_badges_open_this_notebook(badge: str) -> None:
    assert badge in cells(NOTEBOOK)[0][1]
    assert badge in (FOLDER / "README.md").read_text()


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    pytest.importorskip("nbmake", reason="needs nbmake: pip install nbmake")
    notebook = shutil.copy(NOTEBOOK, tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbmake"]
    done = subprocess.run([*command, notebook], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert (tmp_path / "out" / "report.html").is_file()
    assert len(list((tmp_path / "out" / "maps").glob("*.png"))) == 2
