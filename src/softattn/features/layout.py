"""Layouts of a feature map in a tensor, and the conversion to and from (B, C, H, W)."""

import math
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from softattn.errors import ShapeError

__all__ = [
    "Layout",
    "MapLayout",
    "Size",
    "TokenGrid",
    "fit_grid",
    "from_nchw",
    "same_aspect",
    "strided",
    "to_nchw",
]

Size = tuple[int, int]
"""Height and width."""


class Layout(StrEnum):
    """Order of the dimensions of a feature map."""

    NCHW = "NCHW"
    """(B, C, H, W), as in convolutional networks."""
    NHWC = "NHWC"
    """(B, H, W, C), as in Swin, MambaOut and Hiera."""
    NLC = "NLC"
    """Tokens after P prefix tokens, as in ViT, (B, P + H * W, C)."""


def same_aspect(size: Size, image: Size) -> bool:
    """Return whether a map can have an image's aspect ratio, up to rounding by a stride.

    Example:
        >>> from softattn.features.layout import same_aspect
        >>> same_aspect((7, 7), (224, 224)), same_aspect((7, 14), (224, 224))
        (True, False)
    """
    # A stride rounds height and width by less than one position each.
    return _aspect_error(size, image) < max(image)


def _aspect_error(size: Size, image: Size) -> int:
    return abs(size[0] * image[1] - size[1] * image[0])


def fit_grid(count: int, image: Size) -> Size | None:
    """Return the grid with a number of positions and an image's aspect ratio.

    Example:
        >>> from softattn.features.layout import fit_grid
        >>> fit_grid(196, (224, 224)), fit_grid(3072, (1024, 768)), fit_grid(197, (224, 224))
        ((14, 14), (64, 48), None)

    Returns:
        (H, W), or `None` if there is none or it has fewer than two positions.
    """
    if count < 2:
        return None
    near = math.isqrt(count * image[0] // image[1])
    # Rounding of height and width can change the height by this much.
    far = image[0] // (2 * image[1]) + 2
    heights = [h for h in range(max(near - far, 1), near + far + 1) if count % h == 0]
    fitting = [(h, count // h) for h in heights if same_aspect((h, count // h), image)]
    return min(fitting, key=lambda grid: _aspect_error(grid, image), default=None)


@dataclass(frozen=True)
class TokenGrid:
    """Grid of tokens: its size for one image, and the stride from which other sizes follow.

    Example:
        >>> from softattn.features.layout import TokenGrid
        >>> grid = TokenGrid(16, 16, stride=14)
        >>> grid.size(count=27 * 16, image=(384, 224))
        (27, 16)
    """

    rows: int
    columns: int
    stride: int | None = None
    """Number of image pixels per position; `None` if the grid does not follow from a stride."""
    round_up: bool = False
    """Whether the size of the image over the stride is rounded up."""

    def size(self, count: int, image: Size | None) -> Size:
        """Return (H, W) for a number of tokens.

        Args:
            count: H * W.
            image: the size of the image that the tokens are computed from, if it is known.

        Raises:
            ShapeError: the grid for this number of tokens is unknown.
        """
        if image is not None and self.stride is not None:
            rows, columns = strided(image, self.stride, self.round_up)
            if rows * columns == count:
                return rows, columns
        if count == self.rows * self.columns:
            return self.rows, self.columns
        # Other numbers fit several grids; only the image size determines which.
        fitting = fit_grid(count, image) if image is not None else None
        if fitting is not None:
            return fitting
        of = "unknown size" if image is None else f"{image[0]} x {image[1]}"
        raise ShapeError(
            f"arranging tokens on a grid: found {count} tokens of an image of {of}, expected a "
            f"grid of {self.rows} x {self.columns} or of the image's aspect ratio. Call the whole "
            "model on images, or insert attention with an example= of the size in use."
        )


def strided(image: Size, stride: int, round_up: bool) -> Size:
    """Return an image's size over a stride.

    >>> from softattn.features.layout import strided
    >>> strided((100, 64), 16, round_up=True)
    (7, 4)
    """
    if round_up:
        return -(-image[0] // stride), -(-image[1] // stride)
    return image[0] // stride, image[1] // stride


@dataclass(frozen=True)
class MapLayout:
    """How to read a tensor of one model as a feature map (B, C, H, W).

    Example:
        >>> import torch
        >>> from softattn.features.layout import Layout, MapLayout, TokenGrid
        >>> layout = MapLayout(Layout.NLC, TokenGrid(14, 14, stride=16), num_prefix_tokens=1)
        >>> layout.to_nchw(torch.zeros(2, 1 + 14 * 14, 192), (224, 224)).shape
        torch.Size([2, 192, 14, 14])
    """

    layout: Layout
    grid: TokenGrid | None = None
    """Grid of the tokens, for `Layout.NLC`."""
    num_prefix_tokens: int = 0
    """Number of leading tokens that are not positions, such as the class token."""

    def to_nchw(self, x: Tensor, image: Size | None = None) -> Tensor:
        """Return a tensor as (B, C, H, W).

        Args:
            x: in this layout.
            image: the size of the image that it is computed from, for tokens.

        Raises:
            ShapeError: x has the wrong number of dimensions, or tokens that fit no known grid.
        """
        size = None
        if self.grid is not None and x.ndim == 3:
            size = self.grid.size(x.shape[1] - self.num_prefix_tokens, image)
        return to_nchw(x, self.layout, size, self.num_prefix_tokens)


def to_nchw(
    x: Tensor, layout: Layout, grid: Size | None = None, num_prefix_tokens: int = 0
) -> Tensor:
    """Convert a feature map from a layout to (B, C, H, W), without a copy.

    Example:
        >>> import torch
        >>> from softattn.features.layout import Layout, to_nchw
        >>> to_nchw(torch.zeros(2, 1 + 14 * 14, 192), Layout.NLC, (14, 14), 1).shape
        torch.Size([2, 192, 14, 14])

    Args:
        x: (B, C, H, W), (B, H, W, C) or (B, P + H * W, C).
        layout: the layout of x.
        grid: (H, W) of tokens.
        num_prefix_tokens: P. These tokens are left out.

    Raises:
        ShapeError: x isn't in this layout, or has other than P + H * W tokens.
    """
    if layout is Layout.NLC:
        height, width = grid if grid is not None else (0, 0)
        if x.ndim != 3 or x.shape[1] != num_prefix_tokens + height * width:
            raise ShapeError(
                f"arranging tokens on a grid: expected (B, {num_prefix_tokens} + {height} * "
                f"{width}, C), found {tuple(x.shape)}."
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
    """Convert a feature map (B, C, H, W) to a layout.

    Example:
        >>> import torch
        >>> from softattn.features.layout import Layout, from_nchw
        >>> from_nchw(torch.zeros(2, 192, 14, 14), Layout.NLC, torch.zeros(2, 1, 192)).shape
        torch.Size([2, 197, 192])

    Args:
        x: (B, C, H, W).
        layout: the layout of the result.
        prefix: (B, P, C), tokens to prepend.
    """
    if layout is Layout.NCHW:
        return x
    if layout is Layout.NHWC:
        return x.permute(0, 2, 3, 1)
    tokens = x.flatten(2).transpose(1, 2)
    return tokens if prefix is None else torch.cat([prefix, tokens], dim=1)
