"""Feature maps in the outputs of modules, their layouts, and conversions to channels first."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import StrEnum
from typing import Any

from torch import Tensor

from softattn.errors import ModelError, ShapeError

__all__ = [
    "Layout",
    "MapLayout",
    "Size",
    "TokenGrid",
    "declared_map",
    "find_map",
    "fit_grid",
    "from_nchw",
    "replace_map",
    "same_aspect",
    "strided_size",
    "tensors_in",
    "to_nchw",
]

Size = tuple[int, int]
"""Height and width."""


# Output fields in which transformers models and DINOv2 return features. The last map of a tuple is
# that of the last stage.
_FIELDS = ("last_hidden_state", "feature_maps", "x_norm_patchtokens")


def declared_map(output: object) -> Tensor | None:
    """Return the features in the output of a model: the tensor, or the field that holds them.

    Example:
        >>> import torch
        >>> from softattn.features.layout import declared_map
        >>> output = {"pooler_output": torch.zeros(2, 8), "last_hidden_state": torch.zeros(2, 5, 8)}
        >>> declared_map(output).shape
        torch.Size([2, 5, 8])
        >>> declared_map({"logits": torch.zeros(2, 8, 7, 7)}) is None
        True
    """
    if isinstance(output, Tensor):
        return output
    key = _declared_key(_parts(output))
    return None if key is None else _last(_parts(output)[key])


def find_map(output: object) -> Tensor | None:
    """Return the feature map in the output of a module, which may hold other values too.

    This is the field that conventionally holds features, such as `last_hidden_state`, or else the
    first floating-point tensor with three or more dimensions in a tuple, a mapping or a data class.

    Example:
        >>> import torch
        >>> from softattn.features.layout import find_map
        >>> find_map((torch.zeros(2, 8, 7, 7), None)).shape
        torch.Size([2, 8, 7, 7])
    """
    if isinstance(output, Tensor):
        return output
    key = _map_key(output)
    return None if key is None else _last(_parts(output)[key])


def replace_map(output: Any, x: Tensor) -> Any:
    """Return an output with its feature map replaced by x, and the rest unchanged.

    Example:
        >>> import torch
        >>> from softattn.features.layout import replace_map
        >>> replace_map((torch.zeros(1, 1, 1), "rest"), torch.ones(1, 1, 1))
        (tensor([[[1.]]]), 'rest')
    """
    key = _map_key(output)
    if isinstance(output, Tensor) or key is None:
        return x
    part = _parts(output)[key]
    new = x if isinstance(part, Tensor) else type(part)([*part[:-1], x])
    if is_dataclass(output) and not isinstance(output, type):
        return replace(output, **{key: new})
    if isinstance(output, Mapping):
        return type(output)({**output, key: new})  # type: ignore[call-arg]
    parts = [*output[:key], new, *output[key + 1 :]]
    return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)


def tensors_in(output: object) -> Iterator[Tensor]:
    """Yield the tensors in a model's output, also inside tuples, lists and mappings.

    >>> import torch
    >>> from softattn.features.layout import tensors_in
    >>> [tuple(x.shape) for x in tensors_in({"out": [torch.zeros(2), torch.zeros(3)]})]
    [(2,), (3,)]
    """
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, list | tuple | Mapping):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from tensors_in(part)


def _parts(output: Any) -> dict[Any, Any]:
    """Return the values in a tuple, a mapping or a data class by index or name."""
    if is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    if isinstance(output, Mapping):
        return dict(output)
    return dict(enumerate(output)) if isinstance(output, tuple) else {}


def _declared_key(parts: Mapping[Any, Any]) -> Any:
    return next((name for name in _FIELDS if _last(parts.get(name)) is not None), None)


def _map_key(output: object) -> Any:
    parts = _parts(output)
    declared = _declared_key(parts)
    maps = (k for k, x in parts.items() if isinstance(x, Tensor) and _can_be_map(x))
    return declared if declared is not None else next(maps, None)


def _can_be_map(x: Tensor) -> bool:
    return x.ndim > 2 and x.is_floating_point()


def _last(part: Any) -> Tensor | None:
    """Return a tensor, or the last one of a tuple or list of tensors."""
    part = part[-1] if isinstance(part, tuple | list) and part else part
    return part if isinstance(part, Tensor) else None


class Layout(StrEnum):
    """Order of the dimensions of a feature map."""

    NCHW = "NCHW"
    """(B, C, H, W), as in convolutional networks."""
    NHWC = "NHWC"
    """(B, H, W, C), as in Swin, MambaOut and Hiera."""
    NLC = "NLC"
    """Tokens after P prefix tokens, as in ViT, (B, P + H * W, C)."""
    NCDHW = "NCDHW"
    """(B, C, D, H, W), as in convolutional networks on volumes and videos."""
    NDHWC = "NDHWC"
    """(B, D, H, W, C), as in Video Swin."""

    @property
    def num_dims(self) -> int:
        """Number of spatial dimensions."""
        return 3 if self in (Layout.NCDHW, Layout.NDHWC) else 2


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
            image: The size of the image that the tokens are computed from, if it is known.

        Raises:
            ShapeError: The grid for this number of tokens is unknown.
        """
        if image is not None and self.stride is not None:
            rows, columns = strided_size(image, self.stride, self.round_up)
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


def strided_size(image: Size, stride: int, round_up: bool) -> Size:
    """Return an image's size over a stride.

    >>> from softattn.features.layout import strided_size
    >>> strided_size((100, 64), 16, round_up=True)
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
        """Return a tensor as (B, C, H, W), or (B, C, D, H, W) if it is a volume.

        Args:
            x: In this layout.
            image: The size of the image that it is computed from, for tokens.

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
    """Convert a feature map from a layout to channels first, without a copy.

    Example:
        >>> import torch
        >>> from softattn.features.layout import Layout, to_nchw
        >>> to_nchw(torch.zeros(2, 1 + 14 * 14, 192), Layout.NLC, (14, 14), 1).shape
        torch.Size([2, 192, 14, 14])

    Args:
        x: The feature map, in this layout.
        layout: The layout of x.
        grid: (H, W) of tokens.
        num_prefix_tokens: P. These tokens are left out.

    Returns:
        (B, C, H, W), or (B, C, D, H, W) for the layouts of volumes.

    Raises:
        ShapeError: x isn't in this layout, or has other than P + H * W tokens.
        ModelError: x is quantized.
    """
    if x.is_quantized:
        raise ModelError(
            f"reading a feature map as {layout.value}: found a quantized tensor ({x.dtype}), and "
            "attention needs floating-point numbers. Quantize the model first, then add attention "
            "after a module that returns floating-point numbers, such as a DeQuantStub."
        )
    if layout is Layout.NLC:
        height, width = grid if grid is not None else (0, 0)
        if x.ndim != 3 or x.shape[1] != num_prefix_tokens + height * width:
            raise ShapeError(
                f"arranging tokens on a grid: expected (B, {num_prefix_tokens} + {height} * "
                f"{width}, C), found {tuple(x.shape)}."
            )
        tokens = x.narrow(1, num_prefix_tokens, height * width)
        return tokens.transpose(1, 2).reshape(x.shape[0], x.shape[2], height, width)
    if x.ndim != layout.num_dims + 2:
        raise ShapeError(
            f"reading a feature map as {layout.value}: expected {layout.num_dims + 2} dimensions, "
            f"found {tuple(x.shape)}."
        )
    return x.movedim(-1, 1) if layout in (Layout.NHWC, Layout.NDHWC) else x


def from_nchw(x: Tensor, layout: Layout) -> Tensor:
    """Convert a feature map from channels first to a layout.

    Example:
        >>> import torch
        >>> from softattn.features.layout import Layout, from_nchw
        >>> from_nchw(torch.zeros(2, 192, 14, 14), Layout.NLC).shape
        torch.Size([2, 196, 192])

    Args:
        x: (B, C, H, W), or (B, C, D, H, W) for the layouts of volumes.
        layout: The layout of the result.
    """
    if layout in (Layout.NCHW, Layout.NCDHW):
        return x
    if layout in (Layout.NHWC, Layout.NDHWC):
        return x.movedim(1, -1)
    return x.flatten(2).transpose(1, 2)
