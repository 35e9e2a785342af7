"""Figures of attention maps. Needs the extra `plot`."""

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

_COLOURS = "magma"  # perceptually uniform, also in grayscale and for colour-blind readers


def plot_maps(image: Tensor, maps: Tensor, title: str | None = None) -> "Figure":
    """Draw an image, the sum of its attention maps laid over it, and every map.

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
        image: (3, H, W), from 0 to 1.
        maps: (K, h, w), the maps of one image as a module or `capture_maps` returns them.
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
    maps = maps.detach().float().cpu()
    summed = relative_to_uniform(maps.sum(dim=0))

    figure = Figure(figsize=(12, 4.6), layout="constrained")
    if title is not None:
        figure.suptitle(title)
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
    return figure


def overlay(image: Tensor, attention: Tensor, opacity: float = 0.7) -> Tensor:
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

    Returns:
        (H, W, 3), from 0 to 1, channels last as matplotlib and PIL expect it.
    """
    attention = attention.detach().float().cpu()
    enlarged = F.interpolate(attention[None, None], image.shape[1:], mode="bilinear")[0, 0]
    scale = _colour_scale(attention)
    coloured = torch.from_numpy(scale.to_rgba(enlarged.numpy()))[..., :3].float()
    covered = opacity * torch.from_numpy(scale.norm(enlarged.numpy()).data).float()
    picture = image.detach().float().cpu().permute(1, 2, 0).clamp(0, 1)
    return torch.lerp(picture, coloured, covered.clamp(0, 1)[..., None])


def relative_to_uniform(attention: Tensor) -> Tensor:
    """Divide attention by its mean over positions, so that uniform attention is 1.

    Example:
        >>> import torch
        >>> from softattn.plot import relative_to_uniform
        >>> relative_to_uniform(torch.tensor([[0.5, 0.25], [0.25, 0.0]]))
        tensor([[2., 1.],
                [1., 0.]])

    Args:
        attention: (..., h, w), maps or their sum.

    Returns:
        The attention at each position in multiples of uniform attention.
    """
    return attention / attention.mean(dim=(-2, -1), keepdim=True)


def _colour_scale(attention: Tensor) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(0, attention.max().item()), _COLOURS)


def _show(axes: Any, picture: Tensor, title: str) -> None:
    axes.imshow(picture.detach().cpu().clamp(0, 1).numpy())
    axes.set_title(title)
    axes.axis("off")


def _check(image: Tensor, maps: Tensor) -> None:
    if image.ndim != 3 or image.shape[0] != 3:
        raise ShapeError(
            f"drawing attention maps: expected an image (3, H, W), found {tuple(image.shape)}."
        )
    if maps.ndim != 3:
        raise ShapeError(
            "drawing attention maps: expected the maps of one image, (K, h, w), "
            f"found {tuple(maps.shape)}. From a batch take maps[i]."
        )
