import os
from pathlib import Path

import pytest
import torch

# For other interpreters, in processes of their own.
collect_ignore = ["data", "keras_reference.py"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def fresh_compiler() -> None:
    """Forget compiled code: torch allows a function few recompilations, and tests share ours."""
    torch.compiler.reset()


@pytest.fixture(scope="session")
def ham10000() -> Path:
    """The folder of the real images."""
    folder = os.environ.get("HAM10000_DIR")
    if not folder:
        pytest.skip("set HAM10000_DIR to a folder with the public download of HAM10000")
    return Path(folder)
