"""The picture of the house in CONTRIBUTING.md is the house."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "CONTRIBUTING.md"
SOURCE = ROOT / "src" / "softattn"

if not PICTURE.exists() or not SOURCE.exists():
    pytest.skip("needs a checkout", allow_module_level=True)

HOUSE = re.findall(r"^        (\w+)\.py ", PICTURE.read_text(), re.MULTILINE)


def imported(path):
    """The modules of softattn that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "softattn":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("softattn."):
            yield node.module.split(".")[1]


def test_every_file_is_in_the_picture_once():
    assert sorted(HOUSE) == sorted(path.stem for path in SOURCE.glob("*.py"))


@pytest.mark.parametrize("name", [name for name in HOUSE if name != "__init__"])
def test_a_file_imports_only_from_files_above_it(name):
    above = HOUSE[1 : HOUSE.index(name)]
    assert set(imported(SOURCE / f"{name}.py")) <= set(above)
