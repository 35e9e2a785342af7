"""How a feature map lies in a tensor: the three layouts of image models, and the way between."""

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from softattn.errors import ShapeError

__all__ = ["Layout", "TokenGrid", "find_grid", "from_nchw", "to_nchw"]


class Layout(StrEnum):
    """How a feature map lies in a tensor."""

    NCHW = "NCHW"
    """(B, C, H, W), as in convolutional networks."""
    NHWC = "NHWC"
    """(B, H, W, C), as in Swin, MambaOut and Hiera."""
    NLC = "NLC"
    """(B, P + H * W, C), tokens with P prefix tokens in front, as in ViT and its kin."""


@dataclass(frozen=True)
class TokenGrid:
    """Which grid the tokens of an input lie on: its size over a stride, rounded down or up.

    Example:
        >>> from softattn.features.layout import TokenGrid
        >>> TokenGrid(stride=14).size(384, 224)
        (27, 16)
    """

    stride: int
    round_up: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return H and W of the grid for an input of this height and width."""
        if self.round_up:
            return -(-height // self.stride), -(-width // self.stride)
        return height // self.stride, width // self.stride


def find_grid(
    num_tokens: int, height: int, width: int, stride: int | None = None
) -> TokenGrid | None:
    """Find the grid that an input of this size has, given how many tokens there are.

    Example:
        >>> from softattn.features.layout import find_grid
        >>> find_grid(64 * 48, height=1024, width=768)
        TokenGrid(stride=16, round_up=False)
        >>> find_grid(197, 224, 224) is None
        True

    Args:
        num_tokens: H * W of the grid, without prefix tokens.
        height: of the input.
        width: of the input.
        stride: the one to prefer, where the model says one.

    Returns:
        The grid, of at least 2 x 2; or `None` if no stride gives as many tokens. Strides that
        divide the input come first, since nothing is cut off or padded with them.
    """
    strides = range(1, min(height, width) + 1)
    exact = [s for s in strides if height % s == 0 and width % s == 0]
    for candidate in [*([stride] if stride else []), *exact, *strides]:
        for round_up in (False, True):
            grid = TokenGrid(candidate, round_up)
            rows, columns = grid.size(height, width)
            if rows * columns == num_tokens and min(rows, columns) > 1:
                return grid
    return None


def to_nchw(
    x: Tensor, layout: Layout, grid: tuple[int, int] | None = None, num_prefix_tokens: int = 0
) -> Tensor:
    """Bring a feature map from a layout to (B, C, H, W), without a copy.

    Example:
        >>> import torch
        >>> from softattn.features.layout import Layout, to_nchw
        >>> to_nchw(torch.zeros(2, 1 + 14 * 14, 192), Layout.NLC, (14, 14), 1).shape
        torch.Size([2, 192, 14, 14])

    Args:
        x: (B, C, H, W), (B, H, W, C) or (B, P + H * W, C).
        layout: which of these.
        grid: H and W, which tokens don't show.
        num_prefix_tokens: P, the tokens in front that are no position; they are left out.

    Raises:
        ShapeError: x isn't of this layout, or has other than P + H * W tokens.
    """
    if layout is Layout.NLC:
        height, width = grid if grid is not None else (0, 0)
        if x.ndim != 3 or x.shape[1] != num_prefix_tokens + height * width:
            raise ShapeError(
                f"putting tokens on a grid: expected (B, {num_prefix_tokens} + {height} * {width},"
                f" C), found {tuple(x.shape)}."
            )
        tokens = x.narrow(1, num_prefix_tokens, height * width)
        return tokens.transpose(1, 2).reshape(x.shape[0], x.shape[2], height, width)
    if x.ndim != 4:
        raise ShapeError(
            f"reading a feature map as {layout.value}: expected 4 dimensions, "
            f"found {tuple(x.shape)}."
        )
    return x.permute(0, 3, 1, 2) if layout is Layout.NHWC else x


def from_nchw(x: Tensor, layout: Layout, prefix: Tensor | None = None) -> Tensor:
    """Bring a feature map (B, C, H, W) back into a layout.

    Example:
        >>> import torch
        >>> from softattn.features.layout import Layout, from_nchw
        >>> from_nchw(torch.zeros(2, 192, 14, 14), Layout.NLC, torch.zeros(2, 1, 192)).shape
        torch.Size([2, 197, 192])

    Args:
        x: (B, C, H, W).
        layout: which is wanted.
        prefix: (B, P, C), the tokens to put in front again.
    """
    if layout is Layout.NCHW:
        return x
    if layout is Layout.NHWC:
        return x.permute(0, 2, 3, 1)
    tokens = x.flatten(2).transpose(1, 2)
    return tokens if prefix is None else torch.cat([prefix, tokens], dim=1)
