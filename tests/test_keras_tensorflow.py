"""The authors' layer compared with TensorFlow, which `make parity` installs."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_keras import assert_equals_tensorflow

REFERENCE = Path(__file__).with_name("keras_reference.py")
SIZES = ["5,6,8", "9,7,4", "7,7,32", "8,8,192", "3,5,13", "6,6,2", "1,4,1"]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    # A separate process: TensorFlow and torch contain two versions of LLVM, which crash when
    # loaded in the same process.
    python = os.environ.get("KERAS_PYTHON", sys.executable)
    if python == sys.executable and importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs TensorFlow: `make parity` installs it and runs this test")
    file = tmp_path_factory.mktemp("keras") / "arrays.npz"
    subprocess.run([python, REFERENCE, file, *SIZES], check=True, capture_output=True)
    return np.load(file)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("concat", [True, False])
def test_equals_tensorflow(arrays, size, aggregate, concat):
    prefix = f"{size} {aggregate:d} {concat:d}/"
    case = {n.removeprefix(prefix): arrays[n] for n in arrays.files if n.startswith(prefix)}
    assert_equals_tensorflow(case, aggregate, concat)
