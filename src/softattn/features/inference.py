"""Inference of a map's layout from its shape: lenient for wrapping, strict for inserting.

A feature map has the aspect ratio of its image. This distinguishes height and width from channels,
and grid tokens from prefix tokens. Shapes do not determine the order of tokens. It is checked
against the values of the model's own map, for models that return one.
"""

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from softattn.errors import ModelError
from softattn.features.dry_run import Inputs, argument_values
from softattn.features.layout import (
    Layout,
    MapLayout,
    Size,
    TokenGrid,
    fit_grid,
    same_aspect,
    strided_size,
)

__all__ = [
    "REORDERED_TOKENS",
    "LayoutHints",
    "ObservedOutput",
    "declared_layout",
    "find_token_grid",
    "follows_positions",
    "infer_layout",
    "infer_layout_strictly",
    "is_reordered",
    "reference_maps",
]

# timm's models have up to 10 prefix tokens. The declared number does not always hold for inner
# blocks: CaiT appends its class token only in the last blocks.
_MAX_PREFIX_TOKENS = 10

# Ratio of the largest to the mean change of a map above which the change counts as localized. With
# random weights, the map of LeViT changes about equally everywhere.
_MIN_PEAK = 2.0

# Places where the image is changed, in eighths of height and width.
_PROBED_PLACES = ((1, 1), (1, 7), (5, 3), (7, 2), (6, 7))

Shape = tuple[int, ...]


def find_token_grid(num_tokens: int, image: Size, preferred: int | None = None) -> TokenGrid | None:
    """Return the grid with a number of tokens that results from some stride over an image.

    Example:
        >>> from softattn.features.inference import find_token_grid
        >>> find_token_grid(64 * 48, (1024, 768))
        TokenGrid(rows=64, columns=48, stride=16, round_up=False)
        >>> find_token_grid(197, (224, 224)) is None
        True

    Args:
        num_tokens: H * W, without prefix tokens.
        image: The size of the image.
        preferred: The stride to try first.

    Returns:
        A grid of at least 2 x 2, or `None`. Strides that divide the size of the image are tried
        before others, since they need no padding or cropping.
    """
    strides = range(1, min(image) + 1)
    exact = [s for s in strides if image[0] % s == 0 and image[1] % s == 0]
    for stride in [*([preferred] if preferred else []), *exact, *strides]:
        for round_up in (False, True):
            rows, columns = strided_size(image, stride, round_up)
            if rows * columns == num_tokens and min(rows, columns) > 1:
                return TokenGrid(rows, columns, stride, round_up)
    return None


def infer_layout(
    value: object,
    image: Size,
    *,
    channels_last: bool = False,
    num_prefix_tokens: int | None = None,
    stride: int | None = None,
) -> MapLayout | None:
    """Return the most likely layout of a map, or `None` if a value can't be a map.

    Example:
        >>> import torch
        >>> from softattn.features.inference import infer_layout
        >>> infer_layout(torch.zeros(1, 7, 7, 768), (224, 224)).layout
        <Layout.NHWC: 'NHWC'>
        >>> infer_layout(torch.zeros(1, 197, 192), (224, 224)).num_prefix_tokens
        1
        >>> infer_layout(torch.zeros(1, 1000), (224, 224)) is None
        True

    Args:
        value: What a module returned. A map has at least 2 x 2 positions.
        image: The size of the model's input.
        channels_last: Interpret shapes that fit both layouts as NHWC.
        num_prefix_tokens: The number that the model declares, tried first.
        stride: Of the grid of tokens, as the model declares it, tried first.
    """
    if not isinstance(value, Tensor):
        return None
    if value.ndim == 4:
        first, last = (min(s) > 1 and same_aspect(s, image) for s in _sizes(tuple(value.shape)))
        if first and not (last and channels_last):
            return MapLayout(Layout.NCHW)
        if last:
            return MapLayout(Layout.NHWC)
        return MapLayout(Layout.NCHW) if min(value.shape[2:]) > 1 else None
    if value.ndim == 3:
        declared = [] if num_prefix_tokens is None else [num_prefix_tokens]
        for count in [*declared, *range(_MAX_PREFIX_TOKENS + 1)]:
            grid = find_token_grid(value.shape[1] - count, image, stride)
            if grid is not None:
                return MapLayout(Layout.NLC, grid, count)
    return None


def declared_layout(model: nn.Module, last: bool) -> dict[str, Any]:
    """Return what a model declares in timm's attributes, as arguments of `infer_layout`.

    Args:
        model: The model.
        last: Include attributes that apply only to the last map.
    """
    info: Any = getattr(model, "feature_info", None)
    declared: dict[str, Any] = {
        "channels_last": str(getattr(model, "output_fmt", "")).endswith("NHWC"),
        "num_prefix_tokens": getattr(model, "num_prefix_tokens", None),
    }
    if last and info:
        declared["stride"] = info[-1]["reduction"]
    return declared


@dataclass(frozen=True)
class LayoutHints:
    """Layout given by the caller, used instead of inference."""

    layout: Layout | None = None
    grid: Size | None = None
    num_prefix_tokens: int | None = None


@dataclass(frozen=True)
class ObservedOutput:
    """Shape of a module's output in a dry run, with hints to its layout from the model."""

    shape: Shape
    image: Size | None
    """Height and width of the model's input."""
    channels: frozenset[int] = frozenset()
    """Numbers of channels that the module's own parameters suggest."""
    num_prefix_tokens: int | None = None
    """Number that the model declares. It holds for the last block, but not for all others."""
    shape_of_half: Callable[[], Shape | None] = lambda: None
    """Returns the shape for an image of half the height, if the model runs on one."""
    is_volume: bool = False
    """Whether the model's input is (B, C, D, H, W)."""


def infer_layout_strictly(output: ObservedOutput, hints: LayoutHints) -> MapLayout:
    """Return the layout of an output; raise an error if it is ambiguous.

    Example:
        >>> from softattn.features.inference import LayoutHints, ObservedOutput
        >>> from softattn.features.inference import infer_layout_strictly
        >>> output = ObservedOutput((2, 7, 7, 768), (224, 224))
        >>> infer_layout_strictly(output, LayoutHints()).layout.value
        'NHWC'
        >>> tokens = ObservedOutput((2, 197, 192), (224, 224))
        >>> infer_layout_strictly(tokens, LayoutHints()).num_prefix_tokens
        1

    Raises:
        ModelError: The output is not a map, or several layouts fit.
    """
    layouts = _candidates(output)
    if hints.layout is not None:
        layouts = tuple(layout for layout in layouts if layout is hints.layout)
    if not layouts:
        expected = "(B, C, H, W), (B, H, W, C), or tokens (B, P + H * W, C)"
        if output.is_volume:
            expected = "(B, C, D, H, W), (B, D, H, W, C), (B, C, H, W), or (B, H, W, C)"
        if hints.layout is not None:
            expected = f"layout={hints.layout.value!r}, as given"
        raise ModelError(f"its output {output.shape} is not a feature map: expected {expected}.")
    if layouts == (Layout.NLC,):
        return _infer_tokens(output, hints)
    if hints.grid is not None or hints.num_prefix_tokens is not None:
        raise ModelError(
            f"its output {output.shape} has no tokens, and grid and num_prefix_tokens apply to "
            "tokens only. Insert attention after this module in a call without them."
        )
    layout = layouts[0] if len(layouts) == 1 else _infer_channels(output, layouts)
    positions = output.shape[2:] if _channel(layout) == 1 else output.shape[1:-1]
    if math.prod(positions) < 2:
        raise ModelError(
            f"its output {output.shape} is not a feature map: it has "
            f"{' x '.join(map(str, positions))} positions, and attention needs two or more. Name a "
            "module before the pooling."
        )
    return MapLayout(layout)


def _candidates(output: ObservedOutput) -> tuple[Layout, ...]:
    match len(output.shape):
        case 3 if not output.is_volume:  # the grid of a volume's tokens is unknown
            return (Layout.NLC,)
        case 4:
            return (Layout.NCHW, Layout.NHWC)
        case 5 if output.is_volume:  # otherwise heads or groups, before or after the channels
            return (Layout.NCDHW, Layout.NDHWC)
    return ()


def _sizes(shape: Shape) -> tuple[Size, Size]:
    """Return (H, W) with the channels first and with the channels last."""
    return (shape[-2], shape[-1]), (shape[-3], shape[-2])


def _channel(layout: Layout) -> int:
    return 1 if layout in (Layout.NCHW, Layout.NCDHW) else -1


def _infer_channels(output: ObservedOutput, layouts: tuple[Layout, ...]) -> Layout:
    """Choose channels first or last by aspect ratio, image of half height, then parameters."""
    shape = output.shape
    fitting = [
        layout
        for layout, size in zip(layouts, _sizes(shape), strict=True)
        if output.image is not None and same_aspect(size, output.image)
    ]
    if len(fitting) != 1:
        lower = output.shape_of_half() or shape
        channel = {layout: _channel(layout) for layout in layouts}
        height = dict(zip(layouts, (-2, -3), strict=True))
        fitting = [
            layout
            for layout in layouts
            if lower[height[layout]] < shape[height[layout]]
            and lower[channel[layout]] == shape[channel[layout]]
        ] or [layout for layout in layouts if shape[channel[layout]] in output.channels]
    if len(fitting) != 1:
        letters = [f"({', '.join(layout.value.replace('N', 'B'))})" for layout in layouts]
        raise ModelError(
            f"its output {shape} may be {', '.join(letters)}, or not a feature map{_of(output)}. "
            f"Pass layout={layouts[0].value!r} or layout={layouts[1].value!r} if it is one."
        )
    return fitting[0]


def _infer_tokens(output: ObservedOutput, hints: LayoutHints) -> MapLayout:
    """Determine the numbers of prefix tokens and grid tokens."""
    _, count, channels = output.shape
    found = f"its output {output.shape}"
    if hints.grid is not None:
        prefix = hints.num_prefix_tokens
        positions = math.prod(hints.grid)
        prefix = count - positions if prefix is None else prefix
        if prefix < 0 or prefix + positions != count:
            raise ModelError(
                f"{found} has {count} tokens, expected {max(prefix, 0)} prefix tokens and a grid "
                f"of {hints.grid[0]} x {hints.grid[1]}."
            )
        return MapLayout(Layout.NLC, _with_stride(hints.grid, output.image), prefix)
    if count in output.channels and channels not in output.channels:
        raise ModelError(f"{found} has its channels before its tokens, which is not supported.")
    if output.image is None:
        raise ModelError(f"{found} may be tokens of any grid. Pass grid=(height, width).")
    declared = output.num_prefix_tokens
    choices = {0, 1 if declared is None else declared}
    if hints.num_prefix_tokens is not None:
        choices = {hints.num_prefix_tokens}
    grids = {prefix: fit_grid(count - prefix, output.image) for prefix in sorted(choices)}
    fitting = {prefix: grid for prefix, grid in grids.items() if grid is not None}
    if len(fitting) != 1:
        tried = " or ".join(f"{count} - {prefix}" for prefix in grids)
        problem = "is not a feature map: no grid" if not fitting else "is ambiguous: several grids"
        raise ModelError(
            f"{found} {problem}{_of(output)} can have {tried} tokens. Pass grid=(height, width), "
            "and num_prefix_tokens= if there are any."
        )
    [(prefix, grid)] = fitting.items()
    return MapLayout(Layout.NLC, _with_stride(grid, output.image), prefix)


def _with_stride(grid: Size, image: Size | None) -> TokenGrid:
    found = find_token_grid(math.prod(grid), image) if image is not None else None
    if found is not None and (found.rows, found.columns) == grid:
        return found
    return TokenGrid(*grid)


def _of(output: ObservedOutput) -> str:
    return f" of an image of {output.image[0]} x {output.image[1]}" if output.image else ""


def follows_positions(read: Callable[[Tensor], Tensor], image: Tensor, size: Size) -> bool:
    """Return whether local changes of the image change the map at the same position.

    Maps that change about equally everywhere pass. Permuted tokens, tokens read with the wrong
    grid, and maps that differ between passes of the same image do not.

    Example:
        >>> import torch
        >>> from softattn.features.inference import follows_positions
        >>> image = torch.randn(1, 3, 12, 12)
        >>> follows_positions(lambda x: x, image, (12, 12))
        True
        >>> follows_positions(lambda x: x.mT, image, (12, 12))
        False

    Args:
        read: Computes the map (B, C, H, W) of a batch of images.
        image: (1, C, H', W').
        size: (H, W) of the map.
    """
    if image.is_meta:
        return True
    images = image.repeat(len(_PROBED_PLACES) + 2, 1, 1, 1)  # the first two are not changed
    cells = [
        tuple(at * count // 8 for at, count in zip(place, size, strict=True))
        for place in _PROBED_PLACES
    ]
    for changed, cell in zip(images[2:], cells, strict=True):
        rows, columns = (
            slice(at * length // count, (at + 1) * length // count)
            for at, count, length in zip(cell, size, image.shape[2:], strict=True)
        )
        changed[:, rows, columns] *= -3  # large, so that it exceeds rounding errors in deep models
    with torch.no_grad():
        maps = read(images).float()
    change = (maps[1:] - maps[:1]).norm(dim=1)
    # The first one is of an unchanged image, and only rounding errors if the model is not random.
    if change[0].mean() > change[1:].mean() / 10:
        return False
    relative = change[1:] / change[1:].mean((1, 2), keepdim=True)
    at_cell = torch.stack([each[cell] for each, cell in zip(relative, cells, strict=True)]).median()
    peak = relative.amax((1, 2)).median()
    # Receptive fields overlap, so the largest change may be next to the cell.
    return not bool(peak > _MIN_PEAK and at_cell < peak / 2)


REORDERED_TOKENS = "its tokens are not in the order of the model's own map of this stage"
"""Error text for tokens that `is_reordered`."""


def reference_maps(model: nn.Module, inputs: Inputs, names: Collection[str]) -> dict[str, Tensor]:
    """Return a model's own maps of its stages, from timm's `forward_intermediates`.

    Example:
        >>> import timm, torch
        >>> from softattn.features.inference import reference_maps
        >>> model = timm.create_model("test_vit", img_size=64).eval()
        >>> maps = reference_maps(model, (torch.zeros(1, 3, 64, 64),), ["blocks.1", "norm"])
        >>> {name: tuple(values.shape) for name, values in maps.items()}
        {'blocks.1': (1, 64, 4, 4)}

    Args:
        model: The model. It is run directly, so pass a copy.
        inputs: Arguments of the model.
        names: Names of modules.

    Returns:
        Maps (B, C, H, W) by name, for the names that are stages of the model.
    """
    stages = getattr(model, "feature_info", None)
    infos = stages if isinstance(stages, list) else []
    modules = [info.get("module") for info in infos if isinstance(info, Mapping)]
    known = {name: modules.index(name) for name in names if name in modules}
    read_stages: Any = getattr(model, "forward_intermediates", None)
    if not known or read_stages is None:
        return {}
    # If this fails, the order of tokens can't be checked.
    with torch.no_grad(), suppress(Exception):
        # The model returns them in its own order.
        ordered = sorted(known, key=lambda name: known[name])
        indices = [known[name] for name in ordered]
        maps = read_stages(*argument_values(inputs), indices=indices, intermediates_only=True)
        return dict(zip(ordered, maps, strict=True))
    return {}


def is_reordered(maps: Tensor, own: Tensor) -> bool:
    """Return whether two maps hold the same values at other positions, as in Hiera's windows."""
    if maps.is_meta or own.shape != maps.shape or torch.equal(own, maps):
        return False
    return torch.equal(own.flatten().sort().values, maps.flatten().sort().values)
