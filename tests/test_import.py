import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import softattn

OPTIONAL = [
    "h5py",
    "huggingface_hub",
    "lightning",
    "matplotlib",
    "onnxruntime",
    "safetensors",
    "timm",
    "transformers",
    "wandb",
]


def test_importing_brings_no_optional_package():
    code = (
        "import sys; from softattn import *; import softattn.cli.explain, softattn.cli.info\n"
        f"print([name for name in {OPTIONAL} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["errors", "functional", "hub", "keras", "plot"])
def test_submodules_are_there_after_importing_the_package(name):
    code = f"import softattn; print(softattn.{name}.__name__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"softattn.{name}"


def test_type_checkers_see_the_names_that_are_imported_at_their_first_use():
    tree = ast.parse(Path(softattn.__file__).read_text())
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("softattn")
        for alias in node.names
    }
    modules = {"functional", "hub", "keras", "plot"}
    assert {name for name in seen if name not in modules} == set(softattn.__all__) - modules
    for name in softattn.__all__:
        value = getattr(softattn, name)
        if name not in modules:
            assert value is getattr(import_module(seen[name]), name)
            assert value.__module__.startswith(seen[name])
        assert name in dir(softattn)


def test_a_name_that_does_not_exist():
    with pytest.raises(AttributeError, match="module 'softattn' has no attribute 'SoftAtention'"):
        softattn.SoftAtention  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'SoftAtention'"):
        from softattn import SoftAtention  # noqa: F401
