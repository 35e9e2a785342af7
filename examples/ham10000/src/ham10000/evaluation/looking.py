"""Where a model looks, image by image: attention and Grad-CAM, beside two that look blindly."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ham10000.data import read_mask, resize
from ham10000.errors import MissingDataError, some
from ham10000.evaluation.attribution import (
    attention_maps,
    feature_size,
    gaussian_map,
    grad_cam_maps,
    random_maps,
)
from ham10000.evaluation.faithfulness import CURVES, fade, importance
from ham10000.evaluation.localisation import SCORES, localise

__all__ = ["METHODS", "Masks", "Scores", "follow", "image_network", "look", "read_masks"]

METHODS = ("attention", "grad_cam", "gaussian", "random")
"""What is measured: the sum of the attention maps, Grad-CAM of the predicted class at the same
feature map, a Gaussian in the middle, and noise of the feature map's resolution."""

Read: TypeAlias = Callable[[Sequence[int]], Tensor]
"""From the numbers of images to the images, (B, 3, S, S), normalized."""

Scores: TypeAlias = dict[str, dict[str, npt.NDArray[np.float64]]]
"""By method, then by what was measured: a row for each image."""


class Masks(NamedTuple):
    """The lesions' outlines, and what had to be left out."""

    masks: Tensor
    """(M, S, S), True on the lesion."""
    kept: list[int]
    """Which images they are of."""
    missing: int
    """How many images have no mask."""
    empty: int
    """How many have one without a lesion on it."""


def read_masks(paths: Mapping[str, Path], image_ids: Sequence[str], size: int) -> Masks:
    """Read the masks of images, and count those that have none to compare with.

    Args:
        paths: of the masks, by image_id; `masks` of `open_folder`.
        image_ids: of the images.
        size: masks become size x size.

    Raises:
        MissingDataError: no image has a mask.
        DataError: a mask can't be decoded; the message names the file.
    """
    there = [row for row, name in enumerate(image_ids) if name in paths]
    read = [resize(read_mask(paths[image_ids[row]]), size, mask=True)[0].bool() for row in there]
    marked = [place for place, mask in enumerate(read) if mask.any()]
    if not marked:
        raise MissingDataError(
            f"reading masks: none of the {len(image_ids)} images has one with a lesion on it "
            f"({some(image_ids)}). Get them with: ham10000 download --parts masks"
        )
    masks = torch.stack([read[place] for place in marked])
    kept = [there[place] for place in marked]
    return Masks(masks, kept, len(image_ids) - len(there), len(there) - len(marked))


def image_network(model: nn.Module) -> nn.Module:
    """Return the part of a model that sees the image; metadata moves no map."""
    network: nn.Module = getattr(model, "network", model)
    return network


def look(
    model: nn.Module,
    read: Read,
    rows: Sequence[int],
    masks: Tensor,
    *,
    methods: Sequence[str] = METHODS,
    batch_size: int = 32,
    seed: int = 0,
) -> Scores:
    """Measure where each method looks.

    Args:
        model: in evaluation, of the image alone; see `image_network`.
        read: gives images by their numbers.
        rows: which images.
        masks: (M, S, S), theirs.
        methods: which of `METHODS`; those without attention can't do "attention".
        batch_size: of images.
        seed: of the random maps.

    Returns:
        (M,) for each method and each of `localisation.SCORES`.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, list[npt.NDArray[np.float64]]]] = {
        method: {score: [] for score in SCORES} for method in methods
    }
    for start in range(0, len(rows), batch_size):
        part = slice(start, start + batch_size)
        images = read(rows[part])
        classes = _predicted(model, images)
        for method, maps in _maps(model, images, classes, methods, rng).items():
            for score, values in localise(maps, masks[part]).items():
                found[method][score].append(values)
    return _joined(found)


def follow(
    model: nn.Module,
    read: Read,
    rows: Sequence[int],
    *,
    methods: Sequence[str] = METHODS,
    steps: int = 20,
    batch_size: int = 32,
    seed: int = 0,
) -> Scores:
    """Take images apart and put them together in the order of each method.

    Args:
        model: in evaluation, of the image alone; see `image_network`.
        read: gives images by their numbers.
        rows: which images.
        methods: which of `METHODS`.
        steps: how many points a curve has, beside its beginning.
        batch_size: of images.
        seed: of the random maps, and of the order of ties.

    Returns:
        (M, steps + 1) for each method and each of `faithfulness.CURVES`.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, list[npt.NDArray[np.float64]]]] = {
        method: {curve: [] for curve in CURVES} for method in methods
    }
    for start in range(0, len(rows), batch_size):
        images = read(rows[start : start + batch_size])
        classes = _predicted(model, images)
        for method, maps in _maps(model, images, classes, methods, rng).items():
            order = importance(maps, (images.shape[2], images.shape[3]), rng)
            for curve, values in fade(model, images, classes, order, steps).items():
                found[method][curve].append(values)
    return _joined(found)


@torch.inference_mode()
def _predicted(model: nn.Module, images: Tensor) -> Tensor:
    classes: Tensor = model(images).argmax(dim=1)
    return classes


def _maps(
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    methods: Sequence[str],
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    size = feature_size(model, images[0])
    middle = gaussian_map((images.shape[2], images.shape[3]))
    make: dict[str, Callable[[], Tensor]] = {
        "attention": lambda: attention_maps(model, images),
        "grad_cam": lambda: grad_cam_maps(model, images, classes),
        "gaussian": lambda: middle.expand(len(images), *middle.shape),
        "random": lambda: random_maps(len(images), size, rng),
    }
    return {method: make[method]() for method in methods}


def _joined(found: dict[str, dict[str, list[npt.NDArray[np.float64]]]]) -> Scores:
    return {
        method: {name: np.concatenate(parts) for name, parts in scores.items()}
        for method, scores in found.items()
    }
