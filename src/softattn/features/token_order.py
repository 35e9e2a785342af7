"""The maps that a model makes of its own stages, against which the order of tokens is compared."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ANOTHER_ORDER", "is_reordered", "own_maps"]

ANOTHER_ORDER = "the tokens stand in another order than in the model's own map of this stage"
"""What errors say of tokens that `is_reordered`."""


def own_maps(
    model: nn.Module, inputs: tuple[Any, ...], names: Collection[str]
) -> dict[str, Tensor]:
    """Give the maps that a model itself makes of its stages, as timm's models can.

    Example:
        >>> import timm, torch
        >>> from softattn.features.token_order import own_maps
        >>> model = timm.create_model("test_vit", img_size=64).eval()
        >>> maps = own_maps(model, (torch.zeros(1, 3, 64, 64),), ["blocks.1", "norm"])
        >>> {name: tuple(values.shape) for name, values in maps.items()}
        {'blocks.1': (1, 64, 4, 4)}

    Args:
        model: it is run as it is: pass a copy, or one that `untouched` guards.
        inputs: its arguments.
        names: of modules.

    Returns:
        From the names that are those of stages to maps (B, C, H, W).
    """
    stages = getattr(model, "feature_info", None)
    infos = stages if isinstance(stages, list) else []
    modules = [info.get("module") for info in infos if isinstance(info, Mapping)]
    known = {name: modules.index(name) for name in names if name in modules}
    give_stages: Any = getattr(model, "forward_intermediates", None)
    if not known or give_stages is None:
        return {}
    # What the model can't give is no evidence.
    with torch.no_grad(), suppress(Exception):
        # In the model's order, in which it gives them.
        ordered = sorted(known, key=lambda name: known[name])
        indices = [known[name] for name in ordered]
        maps = give_stages(*inputs, indices=indices, intermediates_only=True)
        return dict(zip(ordered, maps, strict=True))
    return {}


def is_reordered(maps: Tensor, own: Tensor) -> bool:
    """Tell whether a model's own map has the same values elsewhere: Hiera's are by windows."""
    if maps.is_meta or own.shape != maps.shape or torch.equal(own, maps):
        return False
    return torch.equal(own.flatten().sort().values, maps.flatten().sort().values)
