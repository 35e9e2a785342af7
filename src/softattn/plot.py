"""Figures of attention maps of images, volumes and signals. Needs the extra `plot`."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from softattn._validation import check_fraction, closest, describe, missing_extra, picture_pairs
from softattn.capture import capture_maps
from softattn.errors import ArgumentError, ArgumentTypeError, MissingExtraError, ShapeError

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = ["log_maps", "maps_callback", "overlay", "plot_batch", "plot_maps", "relative_to_uniform"]

_Images = Image | np.ndarray | Tensor | Sequence[Image | np.ndarray | Tensor]
_Maps = np.ndarray | Tensor | Sequence[np.ndarray | Tensor]
_NamedMaps = _Maps | Mapping[str, Tensor]
_DRAWING = "drawing attention maps"
_MAX_SLICES = _MAX_COLUMNS = 8
_COLOURS = "magma"  # perceptually uniform, also in grayscale and for colour-blind readers


def plot_maps(
    image: _Images,
    maps: _Maps,
    title: str | None = None,
    *,
    cmap: "str | Colormap" = _COLOURS,
    opacity: float = 0.7,
) -> "Figure":
    """Draw an image, the sum of its attention maps laid over it, and every map.

    Of volumes and videos, up to eight slices are drawn; of signals, curves.

    Example:
        >>> import torch
        >>> from softattn.functional import spatial_softmax
        >>> from softattn.plot import plot_maps
        >>> maps = spatial_softmax(torch.randn(1, 16, 7, 7))
        >>> figure = plot_maps(torch.rand(3, 224, 224), maps[0])
        >>> len(figure.axes)  # the image, the overlay, its colour bar, and 16 maps
        19
        >>> figure.savefig("maps.png")  # doctest: +SKIP

    Args:
        image: One image, or several, as for `overlay`; a volume (3, D, H, W) or (1, D, H, W) of
            uint8, or of floats from 0 to 1; or a signal (C, L).
        maps: The maps as a module or `capture_maps` returns them: (K, h, w), or (B, K, h, w) of
            several images; (K, d, h, w) of a volume; (K, l) of a signal.
        title: Title of the figure.
        cmap: Matplotlib colour map, or its name.
        opacity: Opacity of the overlay, as for `overlay`.

    Returns:
        A matplotlib figure that is not registered with pyplot and needs no closing.

    Raises:
        ShapeError: `image` or `maps` has another shape.
        ArgumentError: An image is not from 0 to 1, attention is negative or not finite, `opacity`
            is not from 0 to 1, or `cmap` is unknown.
        ArgumentTypeError: An argument has the wrong type.
        MissingExtraError: Matplotlib is not installed.
    """
    style, drawn = _Style(cmap, opacity), picture_pairs(_DRAWING, image, maps, also_others=True)
    (picture, attention), num_dims = drawn[0], drawn[0][1].ndim - 1
    volume = (1.3 * min(picture.shape[1], _MAX_SLICES) + 1.5, 1.3 * (len(attention) + 2))
    figure = style.figure(figsize={1: (9.0, 5.0), 2: (12.0, 4.6 * len(drawn)), 3: volume}[num_dims])
    draw = {1: _draw_signal, 2: _draw_image, 3: _draw_volume}[num_dims]
    rows: Any = figure.subfigures(len(drawn), 1, squeeze=False)
    for row, (picture, attention) in zip(rows.flat, drawn, strict=True):
        draw(row, picture, attention, style)
    if title is not None:
        figure.suptitle(title)
    return figure


def _draw_image(figure: Any, picture: Tensor, maps: Tensor, style: "_Style") -> None:
    left, right = figure.subfigures(1, 2, width_ratios=(2.15, 1))
    shown, laid_over, bar = left.subplots(1, 3, width_ratios=(1, 1, 0.05))
    summed = _summed(maps)
    scale = style.scale([summed])
    _show(shown, picture.permute(1, 2, 0), "image")
    _show(laid_over, style.lay(picture, summed, scale), f"sum of {len(maps)} maps, laid over")
    left.colorbar(scale, cax=bar, label="attention (1 = uniform)")
    bar.set_box_aspect(20)
    columns = math.ceil(math.sqrt(len(maps)))
    rows = math.ceil(len(maps) / columns)
    grid = right.subplots(rows, columns, squeeze=False)
    right.suptitle(f"each map, {maps.shape[1]} x {maps.shape[2]}")
    for index, cell in enumerate(grid.flat):
        cell.axis("off")
        if index < len(maps):
            style.show(cell, maps[index], maps[index])


def _draw_volume(figure: Any, image: Tensor, maps: Tensor, style: "_Style") -> None:
    """Draw a grid: a column for each slice, with the image, the overlay, and every map below."""
    depth = image.shape[1]
    slices = torch.linspace(0, depth - 1, min(depth, _MAX_SLICES)).round().int().tolist()
    summed = _summed(maps)
    laid = F.interpolate(summed[None, None], image.shape[1:], mode="trilinear")[0, 0]
    # Maps have fewer slices than the image: the one that covers the centre of the slice.
    below = [(2 * index + 1) * maps.shape[1] // (2 * depth) for index in slices]
    scale = style.scale([summed])
    cells = figure.subplots(len(maps) + 2, len(slices), squeeze=False)
    for column, index in zip(cells.T, slices, strict=True):
        _show(column[0], image[:, index].permute(1, 2, 0), f"slice {index}")
        _show(column[1], style.lay(image[:, index], laid[index], scale), "")
    for row, each in zip(cells[2:], maps, strict=True):
        for cell, index in zip(row, below, strict=True):
            style.show(cell, each[index], each)
    label = f"sum of {len(maps)} maps, laid over (1 = uniform)"
    figure.colorbar(scale, ax=cells[:2].ravel().tolist(), label=label)


def _draw_signal(figure: Any, signal: Tensor, maps: Tensor, _: "_Style") -> None:
    """Draw the channels of a signal, the sum of its maps, and every map, as curves."""
    panels = figure.subplots(3, 1, sharex=True)
    centres = (torch.arange(maps.shape[1]) + 0.5) * signal.shape[1] / maps.shape[1] - 0.5
    panels[0].plot(signal.T.numpy())
    panels[1].plot(centres.numpy(), _summed(maps).numpy())
    panels[2].plot(centres.numpy(), maps.T.numpy())
    labels = ("signal", f"sum of {len(maps)} maps\n(1 = uniform)", "each map")
    for panel, label in zip(panels, labels, strict=True):
        panel.set_ylabel(label)
    panels[2].set_xlabel("position")


def plot_batch(
    images: _Images,
    maps: _Maps,
    titles: Sequence[str] | None = None,
    *,
    cmap: "str | Colormap" = _COLOURS,
    opacity: float = 0.7,
) -> "Figure":
    """Draw images, and below each the sum of its attention maps laid over it, on one scale.

    Example:
        >>> import torch
        >>> from softattn.plot import plot_batch
        >>> figure = plot_batch(torch.rand(2, 3, 64, 64), torch.rand(2, 16, 7, 7), ["cat", "dog"])
        >>> len(figure.axes)  # two images, two overlays, a colour bar
        5

    Args:
        images: Images as for `overlay`. Those of a list may differ in size.
        maps: (B, K, h, w), or (B, h, w) for one map or a sum.
        titles: A title for each image.
        cmap: Matplotlib colour map, or its name.
        opacity: Opacity of the overlays, as for `overlay`.

    Raises:
        SoftAttnError: As raised by `plot_maps`, or the number of titles is not that of images.
    """
    style, drawn = _Style(cmap, opacity), picture_pairs(_DRAWING, images, maps)
    summed = [_summed(each) for _, each in drawn]
    titles = [""] * len(drawn) if titles is None else titles
    if len(titles) != len(drawn):
        raise ArgumentError(f"{_DRAWING}: found {len(titles)} titles for {len(drawn)} images.")
    columns = min(len(drawn), _MAX_COLUMNS)
    rows = math.ceil(len(drawn) / columns)
    tallest = max(picture.shape[1] / picture.shape[2] for picture, _ in drawn)
    figure = style.figure(figsize=(1.9 * columns + 1.2, rows * (3.8 * tallest + 0.4)))
    cells = figure.subplots(2 * rows, columns, squeeze=False)
    for cell in cells.flat:
        cell.axis("off")
    scale = style.scale(summed)
    for index, (picture, _) in enumerate(drawn):
        row, column = divmod(index, columns)
        _show(cells[2 * row, column], picture.permute(1, 2, 0), titles[index])
        _show(cells[2 * row + 1, column], style.lay(picture, summed[index], scale), "")
    figure.colorbar(scale, ax=cells.ravel().tolist(), label="attention (1 = uniform)", aspect=40)
    return figure


def log_maps(
    writer: Any, tag: str, images: _Images, maps: _NamedMaps, step: int, **options: Any
) -> None:
    """Log the figure of `plot_batch` to TensorBoard or to Weights & Biases.

    Example:
        >>> from softattn.plot import log_maps
        >>> writer = SummaryWriter("runs/1")  # doctest: +SKIP
        >>> log_maps(writer, "attention", images, maps, step=100)  # doctest: +SKIP

    Args:
        writer: A `SummaryWriter`, a W&B run, or one of Lightning's loggers for them.
        tag: Name of the picture.
        images: Images as for `plot_batch`.
        maps: Maps as for `plot_batch`; those that `capture_maps` returns are logged as `tag/name`.
        step: Training step.
        options: `titles`, `cmap` and `opacity` of `plot_batch`.

    Raises:
        SoftAttnError: As raised by `plot_batch`, or `writer` has another type.
    """
    write = _picture_writer(writer)
    if write is None:
        raise ArgumentTypeError(
            f"logging attention maps: found {describe(writer)}. Pass a SummaryWriter, a W&B run, "
            "or one of Lightning's loggers for them."
        )
    if isinstance(maps, Mapping):
        for name, each in maps.items():
            log_maps(writer, f"{tag}/{name}", images, each, step, **options)
        return
    figure = plot_batch(images, maps, **options)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    write(tag, np.asarray(canvas.buffer_rgba())[..., :3], step)


def _picture_writer(writer: Any) -> Callable[[str, np.ndarray, int], object] | None:
    """Return a function that logs pixels (H, W, 3) with a name and a step."""
    wandb: Any = sys.modules.get("wandb")
    if hasattr(writer, "experiment"):  # a logger of Lightning
        if hasattr(writer, "log_image"):  # W&B; its steps are not those of the run
            return lambda tag, pixels, step: writer.log_image(tag, [pixels], step)
        writer = writer.experiment
    if hasattr(writer, "add_image"):
        return lambda tag, pixels, step: writer.add_image(tag, pixels, step, dataformats="HWC")
    if wandb is not None and isinstance(writer, wandb.Run):
        return lambda tag, pixels, step: writer.log({tag: wandb.Image(pixels)}, step=step)
    return None


def maps_callback(
    images: Callable[[Any], _Images] = itemgetter(0),
    *,
    tag: str = "attention",
    count: int = 8,
    **options: Any,
) -> "Callback":
    """Return a Lightning callback that logs the maps of the first validation batch.

    They are captured in each validation and in the sanity check before training, without another
    forward pass, and logged with `log_maps` to the TensorBoard and W&B loggers of the trainer.

    Example:
        >>> from softattn.plot import maps_callback
        >>> callback = maps_callback(lambda batch: batch[0] * 0.5 + 0.5)
        >>> trainer = lightning.Trainer(callbacks=[callback])  # doctest: +SKIP

    Args:
        images: Function that returns the images of a batch, as for `plot_batch`, by default
            `batch[0]`. The one above undoes a normalization by a mean and std of 0.5.
        tag: Name of the pictures, which `/name of the module` follows.
        count: Number of images.
        options: `cmap` and `opacity` of `plot_batch`.

    Raises:
        MissingExtraError: lightning is not installed.
    """
    try:
        from lightning.pytorch.callbacks import LambdaCallback
    except ImportError:
        raise MissingExtraError(
            "maps_callback needs lightning. Install it with: pip install lightning"
        ) from None
    log = _FirstBatch(images, tag, count, options)
    return LambdaCallback(
        on_validation_batch_start=log.start, on_validation_batch_end=log.end, on_exception=log.stop
    )


class _FirstBatch:
    # Methods and not local functions, which cannot be pickled.
    def __init__(self, images: Any, tag: str, count: int, options: dict[str, Any]) -> None:
        self.images, self.tag, self.count, self.options = images, tag, count, options
        self.capture = ExitStack()

    def start(self, trainer: Any, module: Any, batch: Any, index: int, loader: int = 0) -> None:
        if trainer.is_global_zero and index == loader == 0:
            self.maps = self.capture.enter_context(capture_maps(module))

    def end(self, trainer: Any, _: Any, out: Any, batch: Any, index: int, loader: int = 0) -> None:
        if trainer.is_global_zero and index == loader == 0:
            self.capture.close()
            maps = {name: each[: self.count] for name, each in self.maps.items()}
            images, step = self.images(batch)[: self.count], trainer.global_step
            for logger in filter(_picture_writer, trainer.loggers):
                log_maps(logger, self.tag, images, maps, step, **self.options)

    def stop(self, *_: Any) -> None:
        self.capture.close()


def overlay(
    image: _Images, attention: _Maps, opacity: float = 0.7, *, cmap: "str | Colormap" = _COLOURS
) -> Tensor:
    """Lay attention over its image, resized to the size of the image.

    The opacity depends on the attention in multiples of uniform attention: it is 0 up to 1, half
    of `opacity` at 2, and 90 % of `opacity` at 10. Uniform attention leaves the image as it is.

    Example:
        >>> import torch
        >>> from softattn.plot import overlay
        >>> overlay(torch.rand(3, 224, 224), torch.rand(7, 7)).shape
        torch.Size([224, 224, 3])

    Args:
        image: A PIL image; a tensor (3, H, W) or (1, H, W); or an array of this shape, (H, W, 3),
            (H, W, 1) or (H, W); of uint8, or of floats from 0 to 1. Several images of one size:
            a list, or one more dimension at the start.
        attention: (h, w), or maps (K, h, w), which are summed; not negative. One more dimension
            for several images.
        opacity: Opacity of infinite attention, from 0 to 1.
        cmap: Matplotlib colour map, or its name. Colours follow the square root of the attention,
            up to the maximum over all images, or to twice uniform attention if that is more.

    Returns:
        (H, W, 3), or (B, H, W, 3), from 0 to 1, channels last as matplotlib and PIL expect it.

    Raises:
        SoftAttnError: As raised by `plot_maps`, or images differ in size.
    """
    style, drawn = _Style(cmap, opacity), picture_pairs(_DRAWING, image, attention)
    scale = style.scale([_summed(maps) for _, maps in drawn])
    laid = [style.lay(picture, _summed(maps), scale) for picture, maps in drawn]
    if len(sizes := sorted({(each.shape[0], each.shape[1]) for each in laid})) > 1:
        raise ShapeError(f"{_DRAWING}: expected images of one size, found {sizes}.")
    is_one = isinstance(image, Image) or getattr(image, "ndim", 4) < 4
    return laid[0] if is_one else torch.stack(laid)


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
        num_dims: Number of spatial dimensions, the last ones: 3 for volumes, 1 for signals.
    """
    return attention / attention.mean(dim=tuple(range(-num_dims, 0)), keepdim=True)


class _Style:
    def __init__(self, cmap: "str | Colormap", opacity: float) -> None:
        try:
            from matplotlib import cm, colormaps, colors
            from matplotlib.figure import Figure
        except ImportError:
            raise missing_extra(_DRAWING, "matplotlib", "plot") from None
        if not isinstance(cmap, str | colors.Colormap):
            raise ArgumentTypeError(f"{_DRAWING}: cmap must be a colour map, found {cmap!r}.")
        if isinstance(cmap, str) and cmap not in colormaps:
            raise ArgumentError(f"{_DRAWING}: no colour map {cmap!r}. {closest(cmap, colormaps)}")
        self.cmap, self.opacity = cmap, check_fraction(_DRAWING, "opacity", opacity)
        self.figure = partial(Figure, layout="constrained")
        # By the square root, since the darkest colours look like a part of the image.
        self._scale: Any = lambda high: cm.ScalarMappable(colors.PowerNorm(0.5, 0, high), cmap)

    def scale(self, summed: Sequence[Tensor]) -> Any:
        # Up to twice uniform at least, so that small differences look small.
        return self._scale(max(2.0, *(each.max().item() for each in summed)))

    def lay(self, picture: Tensor, summed: Tensor, scale: Any) -> Tensor:
        enlarged = F.interpolate(summed[None, None], picture.shape[1:], mode="bilinear")[0, 0]
        coloured = torch.from_numpy(scale.to_rgba(enlarged.numpy()))[..., :3].float()
        covered = self.opacity * (1 - 1 / enlarged.clamp(min=1))
        return torch.lerp(picture.permute(1, 2, 0), coloured, covered[..., None])

    def show(self, axes: Any, attention: Tensor, whole: Tensor) -> None:
        brightest = max(whole.max().item(), 2 * whole.mean().item())
        axes.imshow(attention.numpy(), self.cmap, vmin=0, vmax=brightest)
        axes.axis("off")


def _summed(maps: Tensor) -> Tensor:
    # Without any attention, 0 / 0.
    return relative_to_uniform(maps.sum(dim=0), maps.ndim - 1).nan_to_num(0)


def _show(axes: Any, picture: Tensor, title: str) -> None:
    axes.imshow(picture.numpy())
    axes.set_title(title)
    axes.axis("off")
