"""A backbone's weights, from a file or from an installed package."""

from collections.abc import Callable, Mapping
from pathlib import Path

from timm.models import load_state_dict
from torch import Tensor, nn

from ham10000.errors import MissingDataError, RecipeError, some
from ham10000.models import lite0

__all__ = ["PACKAGED", "load_weights"]

PACKAGED: dict[str, Callable[[], Mapping[str, Tensor]]] = {"efficientnet-lite0": lite0.weights}
"""The weights that come with a package, by name."""


def load_weights(model: nn.Module, weights: str, name: str) -> None:
    """Give a model the weights of a file, or those that a package has.

    Args:
        model: the whole of it, with its own head.
        weights: a file with a state dict, of PyTorch or safetensors; or a name of `PACKAGED`.
        name: what the model is called, for messages.

    Raises:
        MissingDataError: there is no such file.
        MissingPackageError: the package is not installed.
        RecipeError: the weights are of another model, or not to be read.
    """
    doing = f"giving {name} the weights {weights}"
    if weights in PACKAGED:
        state = PACKAGED[weights]()
    elif not Path(weights).is_file():
        raise MissingDataError(
            f"{doing}: there is no such file. With an installed package come {', '.join(PACKAGED)}."
        )
    else:
        state = _read(Path(weights), doing)
    own = model.state_dict()
    wrong = [key for key in own if key not in state or own[key].shape != state[key].shape]
    wrong += [key for key in state if key not in own]
    if wrong:
        raise RecipeError(
            f"{doing}: they are of another model. Missing, of another shape, or too much are "
            f"{some(wrong)}."
        )
    model.load_state_dict(dict(state))


def _read(path: Path, doing: str) -> Mapping[str, Tensor]:
    try:
        state: Mapping[str, Tensor] = load_state_dict(str(path), weights_only=True)
    except Exception as error:
        raise RecipeError(
            f"{doing}: the file is no state dict ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]})."
        ) from error
    return state
