"""How a map lies in a module's output: found out from shapes, once, or said by the caller.

A picture that is H times W gives maps of the same proportions. That tells the height and the width
from the channels, and the grid of tokens from the tokens in front of it. What stays open is an
error, never a guess.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from softattn.errors import ModelError
from softattn.features.layout import Layout

__all__ = ["Hints", "Output", "Reading", "fit_grid", "read_map"]

Grid = tuple[int, int]
Shape = tuple[int, ...]


def _unknown() -> Shape | None:
    return None


@dataclass(frozen=True)
class Hints:
    """What the caller says about an output, instead of having it found out."""

    layout: Layout | None = None
    grid: Grid | None = None
    num_prefix_tokens: int | None = None


@dataclass(frozen=True)
class Output:
    """What a module gave in a dry run, and what the network says about it."""

    shape: Shape
    picture: Grid | None
    """The height and width of the network's input."""
    channels: frozenset[int] = frozenset()
    """What the channels may be, by the module's own parameters; empty if it has none."""
    num_prefix_tokens: int | None = None
    """As the network declares them: of its last tokens, not of those inside."""
    halve: Callable[[], Shape | None] = _unknown
    """Gives the shape for a picture half as high, if the network runs on it."""


@dataclass(frozen=True)
class Reading:
    """How the map lies in the output."""

    layout: Layout
    grid: Grid | None = None
    """Of tokens, at the size of the dry run."""
    num_prefix_tokens: int = 0


def read_map(output: Output, hints: Hints) -> Reading:
    """Find how the map lies in an output.

    Example:
        >>> from softattn.features.reading import Hints, Output, read_map
        >>> read_map(Output((2, 7, 7, 768), (224, 224)), Hints()).layout.value
        'NHWC'
        >>> tokens = read_map(Output((2, 197, 192), (224, 224)), Hints())
        >>> tokens.grid, tokens.num_prefix_tokens
        ((14, 14), 1)

    Args:
        output: what is known of it.
        hints: what the caller says; it isn't questioned where it is possible.

    Raises:
        ModelError: it is no map, or could be one in several ways.
    """
    layouts = {3: (Layout.NLC,), 4: (Layout.NCHW, Layout.NHWC)}.get(len(output.shape), ())
    if hints.layout is not None:
        layouts = tuple(layout for layout in layouts if layout is hints.layout)
    if not layouts:
        expected = (
            "(B, C, H, W), (B, H, W, C), or tokens (B, P + H * W, C)"
            if hints.layout is None
            else f"the layout {hints.layout.value} that was given"
        )
        raise ModelError(f"its output {output.shape} is no spatial map: expected {expected}.")
    if layouts == (Layout.NLC,):
        return _read_tokens(output, hints)
    layout = layouts[0] if len(layouts) == 1 else _read_layout(output)
    height, width = _positions(output.shape, layout)
    if height * width < 2:
        raise ModelError(
            f"its output {output.shape} is no spatial map: it has {height} x {width} "
            "positions, and attention chooses among several. Name a module before the pooling."
        )
    return Reading(layout)


def _positions(shape: Shape, layout: Layout) -> Grid:
    return (shape[2], shape[3]) if layout is Layout.NCHW else (shape[1], shape[2])


def _read_layout(output: Output) -> Layout:
    """Tell NCHW from NHWC by proportions, and by more where these leave it open."""
    fitting = [
        layout
        for layout in (Layout.NCHW, Layout.NHWC)
        if output.picture and _off(_positions(output.shape, layout), output.picture) is not None
    ]
    if len(fitting) != 1:
        lower = output.halve() or output.shape
        channels = {Layout.NCHW: 1, Layout.NHWC: 3}
        height = {Layout.NCHW: 2, Layout.NHWC: 1}
        fitting = [
            layout
            for layout in channels
            if lower[height[layout]] < output.shape[height[layout]]
            and lower[channels[layout]] == output.shape[channels[layout]]
        ] or [layout for layout in channels if output.shape[channels[layout]] in output.channels]
    if len(fitting) != 1:
        raise ModelError(
            f"its output {output.shape} may be (B, C, H, W), (B, H, W, C), or no map at "
            f"all{_of(output)}. Pass layout='NCHW' or layout='NHWC' if it is one."
        )
    return fitting[0]


def _read_tokens(output: Output, hints: Hints) -> Reading:
    """Tell the tokens in front from those on the grid."""
    _, count, channels = output.shape
    found = f"its output {output.shape}"
    if hints.grid is not None:
        prefix = hints.num_prefix_tokens
        positions = math.prod(hints.grid)
        prefix = count - positions if prefix is None else prefix
        if prefix < 0 or prefix + positions != count:
            raise ModelError(
                f"{found} has {count} tokens, not {max(prefix, 0)} in front and a grid of "
                f"{hints.grid[0]} x {hints.grid[1]}."
            )
        return Reading(Layout.NLC, hints.grid, prefix)
    if count in output.channels and channels not in output.channels:
        raise ModelError(f"{found} has its channels before its tokens, which is no known layout.")
    if output.picture is None:
        raise ModelError(f"{found} may be tokens of any grid. Pass grid=(height, width).")
    declared = output.num_prefix_tokens
    choices = {0, 1 if declared is None else declared}
    if hints.num_prefix_tokens is not None:
        choices = {hints.num_prefix_tokens}
    grids = {prefix: fit_grid(count - prefix, output.picture) for prefix in sorted(choices)}
    fitting = {prefix: grid for prefix, grid in grids.items() if grid is not None}
    if len(fitting) != 1:
        tried = " or ".join(f"{count} - {prefix}" for prefix in grids)
        problem = "is no spatial map: no grid" if not fitting else "is open: more than one grid"
        raise ModelError(
            f"{found} {problem}{_of(output)} has {tried} tokens. Pass grid=(height, width), and "
            "num_prefix_tokens= for those in front, if there is one."
        )
    [(prefix, grid)] = fitting.items()
    return Reading(Layout.NLC, grid, prefix)


def _of(output: Output) -> str:
    if output.picture is None:
        return ""
    return f" of a picture of {output.picture[0]} x {output.picture[1]}"


def _off(size: Grid, picture: Grid) -> int | None:
    """Say how far a size is from the proportions of a picture; `None`: more than by rounding."""
    off = abs(size[0] * picture[1] - size[1] * picture[0])
    return off if off < max(picture) else None


def fit_grid(count: int, picture: Grid) -> Grid | None:
    """Find the grid of so many positions that has the proportions of a picture.

    Example:
        >>> from softattn.features.reading import fit_grid
        >>> fit_grid(196, (224, 224)), fit_grid(3072, (1024, 768)), fit_grid(197, (224, 224))
        ((14, 14), (64, 48), None)

    Returns:
        (height, width), or `None` if there is none, or if it has fewer than two positions.
    """
    if count < 2:
        return None
    near = math.isqrt(count * picture[0] // picture[1])
    # How far the height can be off when height and width are rounded, and one more.
    far = picture[0] // (2 * picture[1]) + 2
    heights = [h for h in range(max(near - far, 1), near + far + 1) if count % h == 0]
    offs = {(h, count // h): _off((h, count // h), picture) for h in heights}
    fitting = {grid: off for grid, off in offs.items() if off is not None}
    return min(fitting, key=lambda grid: fitting[grid]) if fitting else None
