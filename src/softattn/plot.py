"""Figures of attention maps of images, volumes and signals. Needs the extra `plot`."""

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from softattn._validation import missing_extra
from softattn.errors import ShapeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["overlay", "plot_maps", "relative_to_uniform"]

_MOST_SLICES = 8
_COLOURS = "magma"  # perceptually uniform, also in grayscale and for colour-blind readers


def plot_maps(image: Tensor, maps: Tensor, title: str | None = None) -> "Figure":
    """Draw an image, the sum of its attention maps laid over it, and every map.

    Of volumes and videos, up to eight slices are drawn; of signals, curves.

    Example:
        >>> import torch
        >>> from softattn.functional import spatial_softmax
        >>> from softattn.plot import plot_maps
        >>> maps = spatial_softmax(torch.randn(1, 16, 7, 7))
        >>> figure = plot_maps(torch.rand(3, 224, 224), maps[0])
        >>> len(figure.axes)
        19

        The 19 axes are the image, the overlay, its colour bar, and 16 maps. Save the figure with
        `figure.savefig("maps.png")`.

    Args:
        image: (3, H, W), from 0 to 1; a volume (3, D, H, W) or (1, D, H, W); or a signal (C, L).
        maps: the maps of one image as a module or `capture_maps` returns them: (K, h, w),
            (K, d, h, w) for a volume, or (K, l) for a signal.
        title: title of the figure.

    Returns:
        A matplotlib figure that is not registered with pyplot and needs no closing.

    Raises:
        ShapeError: `image` or `maps` has another shape.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("drawing attention maps", "matplotlib", "plot") from None
    _check(image, maps)
    image, maps = (tensor.detach().float().cpu() for tensor in (image, maps))
    num_dims = maps.ndim - 1
    summed = relative_to_uniform(maps.sum(dim=0), num_dims)
    columns = min(image.shape[1], _MOST_SLICES)
    sizes = {1: (9.0, 5.0), 2: (12.0, 4.6), 3: (1.3 * columns + 1.5, 1.3 * (len(maps) + 2))}
    figure = Figure(figsize=sizes[num_dims], layout="constrained")
    if title is not None:
        figure.suptitle(title)
    draw = {1: _draw_signal, 2: _draw_image, 3: _draw_volume}[num_dims]
    draw(figure, image, maps, summed)
    return figure


def _draw_image(figure: "Figure", image: Tensor, maps: Tensor, summed: Tensor) -> None:
    halves: Any = figure.subfigures(1, 2, width_ratios=(2.15, 1))
    left, right = halves
    shown, laid_over, bar = left.subplots(1, 3, width_ratios=(1, 1, 0.05))
    _show(shown, image.permute(1, 2, 0), "image")
    _show(laid_over, overlay(image, summed), f"sum of {len(maps)} maps, laid over")
    left.colorbar(_colour_scale(summed), cax=bar, label="attention (1 = uniform)")
    bar.set_box_aspect(20)

    columns = math.ceil(math.sqrt(len(maps)))
    rows = math.ceil(len(maps) / columns)
    grid = right.subplots(rows, columns, squeeze=False)
    right.suptitle(f"each map, {maps.shape[1]} x {maps.shape[2]}")
    for index, cell in enumerate(grid.flat):
        cell.axis("off")
        if index < len(maps):
            cell.imshow(maps[index].numpy(), cmap=_COLOURS)


def _draw_volume(figure: "Figure", image: Tensor, maps: Tensor, summed: Tensor) -> None:
    """Draw a grid: a column for each slice, with the image, the overlay, and every map below."""
    depth = image.shape[1]
    slices = torch.linspace(0, depth - 1, min(depth, _MOST_SLICES)).round().int().tolist()
    image = image.expand(3, -1, -1, -1)
    laid = F.interpolate(summed[None, None], image.shape[1:], mode="trilinear")[0, 0]
    # Maps have fewer slices than the image: the one that covers the centre of the slice.
    below = [(2 * index + 1) * maps.shape[1] // (2 * depth) for index in slices]
    scale = _colour_scale(summed)
    cells = figure.subplots(len(maps) + 2, len(slices), squeeze=False)
    for column, index in zip(cells.T, slices, strict=True):
        _show(column[0], image[:, index].permute(1, 2, 0), f"slice {index}")
        _show(column[1], overlay(image[:, index], laid[index], scale=scale), "")
    for row, each in zip(cells[2:], maps, strict=True):
        for cell, index in zip(row, below, strict=True):
            cell.imshow(each[index].numpy(), cmap=_COLOURS, vmin=0, vmax=each.max().item())
            cell.axis("off")
    label = f"sum of {len(maps)} maps, laid over (1 = uniform)"
    figure.colorbar(scale, ax=cells[:2].ravel().tolist(), label=label)


def _draw_signal(figure: "Figure", signal: Tensor, maps: Tensor, summed: Tensor) -> None:
    """Draw the channels of a signal, the sum of its maps, and every map, as curves."""
    panels = figure.subplots(3, 1, sharex=True)
    centres = (torch.arange(maps.shape[1]) + 0.5) * signal.shape[1] / maps.shape[1] - 0.5
    panels[0].plot(signal.T.numpy())
    panels[1].plot(centres.numpy(), summed.numpy())
    panels[2].plot(centres.numpy(), maps.T.numpy())
    labels = ("signal", f"sum of {len(maps)} maps\n(1 = uniform)", "each map")
    for panel, label in zip(panels, labels, strict=True):
        panel.set_ylabel(label)
    panels[2].set_xlabel("position")


def overlay(image: Tensor, attention: Tensor, opacity: float = 0.7, *, scale: Any = None) -> Tensor:
    """Lay one attention map over its image, resized to the size of the image.

    The opacity of the map is proportional to its value, so that the image stays visible where the
    attention is low.

    Example:
        >>> import torch
        >>> from softattn.plot import overlay
        >>> overlay(torch.rand(3, 224, 224), torch.rand(7, 7)).shape
        torch.Size([224, 224, 3])

    Args:
        image: (3, H, W), from 0 to 1.
        attention: (h, w), not negative. The maximum gets the brightest colour, zero the darkest.
        opacity: opacity of the map at its maximum, from 0 to 1.
        scale: a matplotlib `ScalarMappable` with the colours and the maximum to use instead, for
            several overlays with one colour bar.

    Returns:
        (H, W, 3), from 0 to 1, channels last as matplotlib and PIL expect it.
    """
    attention = attention.detach().float().cpu()
    enlarged = F.interpolate(attention[None, None], image.shape[1:], mode="bilinear")[0, 0]
    scale = _colour_scale(attention) if scale is None else scale
    coloured = torch.from_numpy(scale.to_rgba(enlarged.numpy()))[..., :3].float()
    covered = opacity * torch.from_numpy(scale.norm(enlarged.numpy()).data).float()
    picture = image.detach().float().cpu().permute(1, 2, 0).clamp(0, 1)
    return torch.lerp(picture, coloured, covered.clamp(0, 1)[..., None])


def relative_to_uniform(attention: Tensor, num_dims: int = 2) -> Tensor:
    """Divide attention by its mean over positions, so that uniform attention is 1.

    Example:
        >>> import torch
        >>> from softattn.plot import relative_to_uniform
        >>> relative_to_uniform(torch.tensor([[0.5, 0.25], [0.25, 0.0]]))
        tensor([[2., 1.],
                [1., 0.]])

    Args:
        attention: (..., h, w), maps or their sum.
        num_dims: number of spatial dimensions, the last ones: 3 for volumes, 1 for signals.

    Returns:
        The attention at each position in multiples of uniform attention.
    """
    return attention / attention.mean(dim=tuple(range(-num_dims, 0)), keepdim=True)


def _colour_scale(attention: Tensor) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(0, attention.max().item()), _COLOURS)


def _show(axes: Any, picture: Tensor, title: str) -> None:
    axes.imshow(picture.detach().cpu().clamp(0, 1).numpy())
    axes.set_title(title)
    axes.axis("off")


# By the number of dimensions: the shapes of an image and of its maps, and numbers of channels.
_SHAPES = {
    2: ("a signal (C, L)", "(K, l)", None),
    3: ("an image (3, H, W)", "(K, h, w)", (3,)),
    4: ("a volume (3, D, H, W) or (1, D, H, W)", "(K, d, h, w)", (1, 3)),
}


def _check(image: Tensor, maps: Tensor) -> None:
    # The one with more dimensions is a batch.
    ndim = min(image.ndim, maps.ndim)
    expected, of_maps, channels = _SHAPES.get(ndim, _SHAPES[3])
    if (
        image.ndim != ndim
        or ndim not in _SHAPES
        or (channels is not None and image.shape[0] not in channels)
    ):
        raise ShapeError(
            f"drawing attention maps: expected {expected}, found {tuple(image.shape)}."
        )
    if maps.ndim != image.ndim:
        raise ShapeError(
            f"drawing attention maps: expected the maps of one image, {of_maps}, "
            f"found {tuple(maps.shape)}. From a batch take maps[i]."
        )
