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
]


@pytest.mark.parametrize("module", ["softattn", "softattn.cli"])
def test_importing_brings_no_optional_package(module):
    code = f"import sys, {module}; print([name for name in {OPTIONAL} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
