"""Predict a data set, with bit-identical results on any number of processes, or image files.

The data set is cut into batches once for all ranks, and each rank predicts some of the batches. If
each rank cut its own part, the last, short batch would hold other images, and kernels for a short
batch can add in another order.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ham10000.data import HAM10000, Augment, Batch, Batches, SequentialShard, read_image, resize
from ham10000.errors import ArgumentError, TrainingError
from ham10000.evaluation import Predictions, make_predictions, round_probabilities
from ham10000.recipe import Recipe
from ham10000.training.processes import all_gather
from ham10000.utils import in_order

__all__ = ["VIEWS", "grid_crops", "normalize", "predict", "predict_files", "read_pixels"]

VIEWS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x,
    lambda x: x.flip(3),
    lambda x: x.flip(2),
    lambda x: x.flip(2, 3),
    lambda x: x.transpose(2, 3),
    lambda x: x.transpose(2, 3).flip(3),
    lambda x: x.transpose(2, 3).flip(2),
    lambda x: x.transpose(2, 3).flip(2, 3),
)
"""The eight symmetries of a square, (B, C, H, W) each; a lesion has no upright orientation."""


def grid_crops(images: Tensor, crops: int, scale: float) -> Iterator[Tensor]:
    """Yield crops at the positions of a square grid, row by row, resized to the size of the images.

    Example:
        >>> import torch
        >>> from ham10000.training.predict import grid_crops
        >>> crops = list(grid_crops(torch.randn(2, 3, 32, 32), crops=4, scale=0.75))
        >>> len(crops), crops[0].shape
        (4, torch.Size([2, 3, 32, 32]))

    Args:
        images: (B, C, S, S).
        crops: Number of crops, a square. With 1, the whole image is the crop.
        scale: Side of a crop, as a share of the side of the image.

    Yields:
        (B, C, S, S).

    Source: ordered multi-crop evaluation of Gessert et al., Skin Lesion Classification Using CNNs
    with Patch-Based Attention and Diagnosis-Guided Loss Weighting, arXiv:1905.02793. Their crops
    have the size of the input, and the image is larger.
    """
    if crops == 1:
        yield images
        return
    size, steps = images.shape[-1], math.isqrt(crops) - 1
    side = max(1, round(scale * size))
    places = [round(step * (size - side) / steps) for step in range(steps + 1)]
    for top in places:
        for left in places:
            crop = images[..., top : top + side, left : left + side]
            yield F.interpolate(crop, (size, size), mode="bilinear")


@torch.no_grad()
def predict(
    model: nn.Module,
    data: HAM10000,
    recipe: Recipe,
    *,
    split: str,
    device: torch.device | str = "cpu",
    rank: int = 0,
    replicas: int = 1,
    tta: int = 1,
    crops: int = 1,
) -> Predictions:
    """Predict every image of a data set in eval mode; a collective operation.

    Args:
        model: A model of `ham10000.models.build_model`; its mode is restored.
        data: The images to predict.
        recipe: The recipe of the model, for batch size, normalization and precision.
        split: Name of the split, for the column `split` of the predictions.
        device: Device of the model.
        rank: Rank of this process.
        replicas: Number of processes, which all call this with the same weights.
        tta: Number of views of an image whose probabilities are averaged: 1, 2, 4 or 8.
        crops: Number of crops of a view whose logits are averaged; see `grid_crops`.

    Returns:
        The predictions of all ranks, on every rank, in the order of the data set, with five
        significant digits.

    Raises:
        ArgumentError: `tta` is another number.
    """
    _check_views(tta)
    device = torch.device(device)
    training = model.training
    model.eval()
    try:
        found: dict[str, list[float]] = {}
        for batch in _own_batches(data, recipe, rank, replicas):
            rows = _probabilities(model, batch.images, batch.metadata, recipe, device, tta, crops)
            names = data.table["image_id"].iloc[batch.positions.tolist()]
            found |= dict(zip(names, rows, strict=True))
    finally:
        model.train(training)
    everywhere: dict[str, list[float]] = {}
    for part in all_gather(found):
        everywhere |= part
    order = data.table["image_id"]
    lacking = [name for name in order if name not in everywhere]
    if lacking:
        raise TrainingError(f"gathering predictions: no rank predicted {lacking[0]}.")
    known = data.table[["image_id", "lesion_id", "dx"]].assign(split=split)
    shares = round_probabilities([everywhere[name] for name in order])
    return make_predictions(known, shares, "predicting", data.classes)


def read_pixels(paths: Sequence[Path], size: int) -> Iterator[Tensor]:
    """Read and resize image files on threads, as `prepare` does, and yield them in order.

    Args:
        paths: JPEG or PNG files.
        size: Width and height in pixels; `data.size` of the recipe.

    Yields:
        (3, size, size), uint8.

    Raises:
        MissingDataError: A file does not exist or cannot be read.
        DataError: A file is not an image, or is damaged.
    """
    return in_order(lambda path: resize(read_image(path), size), paths, "Reading images")


def normalize(pixels: Tensor, recipe: Recipe) -> Tensor:
    """Normalize images with the mean and standard deviation of a recipe.

    Args:
        pixels: (B, 3, S, S), uint8.
        recipe: The recipe of the model.

    Returns:
        (B, 3, S, S), float32.
    """
    augment = Augment("none", mean=recipe.model.mean, std=recipe.model.std)
    return augment(pixels, torch.arange(len(pixels)), epoch=0)


@torch.no_grad()
def predict_files(
    model: nn.Module,
    paths: Sequence[Path],
    recipe: Recipe,
    *,
    metadata: Tensor | None = None,
    device: torch.device | str = "cpu",
    tta: int = 1,
    crops: int = 1,
) -> list[list[float]]:
    """Predict image files, as `predict` does the images of a data set.

    Args:
        model: A model of `ham10000.models.build_model`, in eval mode.
        paths: JPEG or PNG files.
        recipe: See `predict`.
        metadata: Metadata features of each file, (N, M), if the model needs them.
        device: See `predict`.
        tta: See `predict`.
        crops: See `predict`.

    Returns:
        The probability of each class for each file, unrounded.

    Raises:
        ArgumentError: `tta` is another number.
        MissingDataError: A file does not exist or cannot be read.
        DataError: A file is not an image, or is damaged.
    """
    _check_views(tta)
    device, rows = torch.device(device), list[list[float]]()
    images = read_pixels(paths, recipe.data.size)
    while batch := list(islice(images, recipe.training.eval_batch_size)):
        inputs = normalize(torch.stack(batch), recipe)
        known = None if metadata is None else metadata[len(rows) : len(rows) + len(batch)]
        rows += _probabilities(model, inputs, known, recipe, device, tta, crops)
    return rows


def _check_views(tta: int) -> None:
    if tta not in (1, 2, 4, 8):
        raise ArgumentError(f"predicting: tta must be 1, 2, 4 or 8, found {tta}.")


def _own_batches(data: HAM10000, recipe: Recipe, rank: int, replicas: int) -> Iterator[Batch]:
    augment = Augment("none", mean=recipe.model.mean, std=recipe.model.std)
    whole = SequentialShard(len(data))
    batches = Batches(data, whole, recipe.training.eval_batch_size, augment)
    # Without workers: without augmentation a batch takes little time, and a worker that is forked
    # while a run has threads (for its log, for the queues of its workers) can inherit a held lock
    # and deadlock.
    return map(batches.__getitem__, SequentialShard(len(batches), rank, replicas))


def _probabilities(
    model: nn.Module,
    images: Tensor,
    metadata: Tensor | None,
    recipe: Recipe,
    device: torch.device,
    tta: int,
    crops: int,
) -> list[list[float]]:
    images = images.to(device)
    metadata = metadata.to(device) if metadata is not None else None
    if recipe.training.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    total = torch.zeros((), dtype=torch.float64)
    for view in VIEWS[:tta]:
        logits = torch.zeros((), dtype=torch.float64)
        for crop in grid_crops(view(images), crops, recipe.training.crop_scale):
            with _autocast(recipe, device):
                found = model(crop) if metadata is None else model(crop, metadata)
            logits = logits + found.double()
        total = total + (logits / crops).softmax(1).cpu()
    rows: list[list[float]] = (total / tta).tolist()
    return rows


def _autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """Return the autocast context of the recipe's precision."""
    kind = torch.float16 if recipe.training.precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, kind, enabled=recipe.training.precision != "32")
