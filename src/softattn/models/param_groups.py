"""Parameter groups of an optimizer: weight decay, and learning rates by depth."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

from torch import nn

from softattn._validation import check_fraction, check_non_negative

__all__ = ["decays", "groups_by_layer", "layer_ids"]


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Return whether weight decay applies to a parameter.

    It applies to matrices and filters, also parametrized ones, and not to biases, norms, gamma,
    tokens and position embeddings. The last two are recognized by their names, which do not contain
    `weight`.

    Example:
        >>> import torch
        >>> from softattn.models.param_groups import decays
        >>> table = torch.nn.Parameter(torch.zeros(1, 197, 192))
        >>> decays("blocks.0.mlp.fc1.weight", table), decays("pos_embed", table)
        (True, False)
    """
    *path, own = name.split(".")
    if path[-2:-1] == ["parametrizations"]:  # its parameters are called original, original0, ...
        own = path[-1]
    return parameter.ndim > 1 and "weight" in own


def layer_ids(model: nn.Module) -> dict[str, int]:
    """Return the layer of each parameter by name, numbered from the input.

    timm models define their layers (`group_matcher`). In other models, a layer consists of the
    parameters whose names are equal up to the first number (`layer1.0`, `features.3`).

    Example:
        >>> import torch
        >>> from softattn.models.param_groups import layer_ids
        >>> block = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
        >>> layer_ids(torch.nn.Sequential(block, torch.nn.Linear(8, 2)))
        {'0.0.weight': 0, '0.0.bias': 0, '0.1.weight': 0, '0.1.bias': 0, '1.weight': 1, '1.bias': 1}
    """
    matcher: Any = getattr(model, "group_matcher", None)
    if matcher is not None:
        try:
            from timm.models import group_parameters
        except ImportError:
            pass
        else:
            return dict(group_parameters(model, matcher(coarse=False), reverse=True))
    numbers: dict[tuple[str, ...], int] = {}
    ids = {}
    for name, _ in model.named_parameters():
        path = name.split(".")[:-1]
        digits = [place for place, part in enumerate(path) if part.isdigit()]
        layer = tuple(path[: digits[0] + 1] if digits else path[:1])
        ids[name] = numbers.setdefault(layer, len(numbers))
    return ids


def groups_by_layer(
    parameters: Iterable[tuple[str, nn.Parameter]],
    layers: Callable[[str], int],
    without_decay: Collection[str],
    *,
    lr: float,
    head_lr_scale: float,
    weight_decay: float,
    layer_decay: float,
) -> list[dict[str, Any]]:
    """Group the trainable parameters of a `SoftAttentionClassifier`; see its `param_groups`.

    Args:
        parameters: From `named_parameters`.
        layers: From `group_matcher`.
        without_decay: From `no_weight_decay`.
        lr: As in `param_groups`, like the other numbers.
        head_lr_scale: See there.
        weight_decay: See there.
        layer_decay: See there.

    Raises:
        ArgumentError: An argument is out of range.
        ArgumentTypeError: An argument is not a number.
    """
    doing = "making parameter groups"
    lr = check_non_negative(doing, "lr", lr)
    scale = check_non_negative(doing, "head_lr_scale", head_lr_scale)
    layer_decay = check_fraction(doing, "layer_decay", layer_decay)
    weight_decay = check_non_negative(doing, "weight_decay", weight_decay)
    top = layers("head")
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in parameters:
        if parameter.requires_grad:
            layer = layers(name)
            rate = lr * (scale if layer == top else layer_decay ** (top - 1 - layer))
            decay = 0.0 if parameter.ndim <= 1 or name in without_decay else weight_decay
            group = {"params": [], "lr": rate, "weight_decay": decay}
            groups.setdefault((rate, decay), group)["params"].append(parameter)
    return list(groups.values())
