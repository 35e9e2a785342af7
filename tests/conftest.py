import os
from pathlib import Path

import pytest
import torch

# For subprocesses.
collect_ignore = ["data", "keras_reference.py"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def fresh_compiler() -> None:
    """Reset torch.compile, since the tests together would exceed its limit of recompilations."""
    torch.compiler.reset()


@pytest.fixture(scope="session")
def ham10000() -> Path:
    """The folder of the real images."""
    folder = os.environ.get("HAM10000_DIR")
    if not folder:
        pytest.skip("set HAM10000_DIR to a folder with the public download of HAM10000")
    return Path(folder)
