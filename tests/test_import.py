import subprocess
import sys

import pytest

OPTIONAL = [
    "h5py",
    "huggingface_hub",
    "matplotlib",
    "onnxruntime",
    "safetensors",
    "timm",
    "transformers",
]


@pytest.mark.parametrize("module", ["softattn", "softattn.cli"])
def test_importing_brings_no_optional_package(module):
    code = f"import sys, {module}; print([name for name in {OPTIONAL} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["functional", "hub", "keras", "plot"])
def test_submodules_are_there_after_importing_the_package(name):
    code = f"import softattn; print(softattn.{name}.__name__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"softattn.{name}"
