"""Where the positions of a feature map are in a tensor, told from its shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from softattn.features.layout import Layout, TokenGrid, find_grid, to_nchw

__all__ = ["Place", "find_place"]

# timm's models have up to 10 prefix tokens. Not each says how many, and some have none inside that
# come in at the end (CaiT).
_MOST_PREFIX_TOKENS = 10


@dataclass(frozen=True)
class Place:
    """How to bring a tensor of one model to (B, C, H, W)."""

    layout: Layout
    grid: TokenGrid | None = None
    num_prefix_tokens: int = 0

    def to_nchw(self, features: Tensor, height: int, width: int) -> Tensor:
        """Bring what the model gives for an input of this size to (B, C, H, W)."""
        size = self.grid.size(height, width) if self.grid is not None else None
        return to_nchw(features, self.layout, size, self.num_prefix_tokens)


def find_place(
    value: object,
    height: int,
    width: int,
    *,
    channels_last: bool = False,
    num_prefix_tokens: int | None = None,
    stride: int | None = None,
) -> Place | None:
    """Tell how a map lies in what a model gave for an input of this size.

    Example:
        >>> import torch
        >>> from softattn.features.places import find_place
        >>> find_place(torch.zeros(1, 7, 7, 768), 224, 224).layout
        <Layout.NHWC: 'NHWC'>
        >>> find_place(torch.zeros(1, 197, 192), 224, 224).num_prefix_tokens
        1
        >>> find_place(torch.zeros(1, 1000), 224, 224) is None
        True

    Args:
        value: anything that a module returned.
        height: of the input.
        width: of the input.
        channels_last: how a shape that fits both ways is to be read.
        num_prefix_tokens: how many tokens are no positions, where the model says so; what it says
            is tried first.
        stride: of the grid of tokens, where the model says so.

    Returns:
        The place, or `None` where there is no map of at least 2 x 2 positions.
    """
    if not isinstance(value, Tensor):
        return None
    if value.ndim == 4:
        first = _is_map(value.shape[2:], height, width)
        last = _is_map(value.shape[1:3], height, width)
        if first and not (last and channels_last):
            return Place(Layout.NCHW)
        if last:
            return Place(Layout.NHWC)
        return Place(Layout.NCHW) if min(value.shape[2:]) > 1 else None
    if value.ndim == 3:
        declared = [] if num_prefix_tokens is None else [num_prefix_tokens]
        for count in [*declared, *range(_MOST_PREFIX_TOKENS + 1)]:
            grid = find_grid(value.shape[1] - count, height, width, stride)
            if grid is not None:
                return Place(Layout.NLC, grid, count)
    return None


def _is_map(shape: Sequence[int], height: int, width: int) -> bool:
    """Tell whether two dimensions have the ratio of the input's."""
    rows, columns = shape
    # A stride rounds each of the two by less than one position.
    return min(shape) > 1 and abs(rows * width - columns * height) < max(height, width)


def model_facts(model: Any, last: bool) -> dict[str, Any]:
    """Return what a model says of itself in timm's words, for `find_place`."""
    info = getattr(model, "feature_info", None)
    facts: dict[str, Any] = {
        "channels_last": str(getattr(model, "output_fmt", "")).endswith("NHWC"),
        "num_prefix_tokens": getattr(model, "num_prefix_tokens", None),
    }
    if last and info:
        facts["stride"] = info[-1]["reduction"]
    return facts
