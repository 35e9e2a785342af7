"""Scores of saliency maps: localization of the lesion, and faithfulness to the model's decision.

Localization compares a map, upsampled to the lesion mask, with the mask: pointing game, energy
inside, IoU. No score has a threshold to choose, and none depends on the scale of the map, so that
soft attention and Grad-CAM are comparable. A constant map scores what a random guess scores: ties
count as if broken at random.

Faithfulness is measured with deletion and insertion curves, as in Petsiuk et al. (RISE, BMVC
2018): positions are ranked by the map, most important first. Deletion replaces them by the mean
colour of the image; the sooner the probability of the predicted class falls, the better the map.
Insertion copies them into a blurred image; the sooner the probability rises, the better. The area
under each curve summarizes it.

The statistics of a model's maps describe them without a mask: how flat they are, how many of them
are different, and how much they depend on the image.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from ham10000.errors import ArgumentError

__all__ = [
    "CURVES",
    "SCORES",
    "STATISTICS",
    "Floats",
    "Scores",
    "blurred",
    "curve_area",
    "energy_inside",
    "faithfulness_curves",
    "iou",
    "localization_scores",
    "map_statistics",
    "pointing_game",
    "rank_positions",
    "upsample",
    "with_intervals",
]

Floats: TypeAlias = npt.NDArray[np.float64]

Scores: TypeAlias = dict[str, dict[str, Floats]]
"""By method, then by score or curve: one row for each image."""

SCORES = ("pointing_game", "energy_inside", "iou")
"""Names of the scores that `localization_scores` returns, in this order."""

STATISTICS = ("entropy", "effective_maps", "constant_maps", "deviation")
"""Names of the values that `map_statistics` returns, in this order."""


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample maps bilinearly to the size of masks, as overlays show them.

    Args:
        maps: (N, h, w).
        size: H and W.

    Returns:
        (N, H, W), float64.
    """
    if tuple(maps.shape[1:]) == tuple(size):
        return maps.double()
    return F.interpolate(maps.double()[:, None], size, mode="bilinear")[:, 0]


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Return whether the maximum of each map is inside the mask (Zhang et al., IJCV 2018).

    Where several positions share the maximum, the result is the fraction of them that is inside.

    Example:
        >>> import torch
        >>> from ham10000.saliency.scores import pointing_game
        >>> maps = torch.tensor([[[0.1, 0.9]], [[0.9, 0.1]], [[0.5, 0.5]]])
        >>> pointing_game(maps, torch.tensor([[[False, True]]] * 3)).tolist()
        [1.0, 0.0, 0.5]

    Args:
        maps: (N, H, W).
        masks: (N, H, W), True on the lesion.

    Returns:
        (N,), from 0 to 1.
    """
    largest = maps == maps.amax(dim=(1, 2), keepdim=True)
    return (largest & masks).sum(dim=(1, 2)) / largest.sum(dim=(1, 2)).double()


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the fraction of each map's sum inside the mask (Wang et al., Score-CAM, CVPR-W 2020).

    A map of zeros counts as a constant map.

    Args:
        maps: (N, H, W), not negative.
        masks: (N, H, W), True on the lesion.

    Returns:
        (N,), from 0 to 1.
    """
    whole = maps.sum(dim=(1, 2))
    zero = whole == 0
    inside = (maps * masks).sum(dim=(1, 2)) / torch.where(zero, 1, whole)
    return torch.where(zero, masks.double().mean(dim=(1, 2)), inside)


def iou(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the IoU of the mask and the map's largest positions, as many as the mask has.

    The threshold follows from the area of the mask, so any map that ranks the mask first scores 1,
    and sharp and smooth maps are treated alike. Positions that tie at the threshold are weighted
    so that the areas are equal.

    Example:
        >>> import torch
        >>> from ham10000.saliency.scores import iou
        >>> maps = torch.tensor([[[0.0, 0.2, 0.9, 0.3]]])
        >>> iou(maps, torch.tensor([[[False, True, True, False]]])).tolist()
        [0.3333333333333333]

    Args:
        maps: (N, H, W).
        masks: (N, H, W), True on the lesion.

    Returns:
        (N,), from 0 to 1.
    """
    values, inside = maps.flatten(1), masks.flatten(1)
    area = inside.sum(dim=1, keepdim=True)
    ordered = values.sort(dim=1, descending=True).values
    threshold = ordered.gather(1, area - 1)
    above, tied = values > threshold, values == threshold
    part = (area - above.sum(dim=1, keepdim=True)) / tied.sum(dim=1, keepdim=True).double()
    common = ((above.double() + tied * part) * inside).sum(dim=1)
    return common / (2 * area[:, 0] - common)


def map_statistics(maps: Tensor) -> dict[str, Floats]:
    """Return statistics of the maps of each image; for uniform maps they are 1, 1, 1 and 0.

    - entropy: of each map, divided by that of a uniform map; mean over the maps.
    - effective_maps: the effective rank of the K maps of an image, the exponential of the entropy
      of their normalized singular values (Roy & Vetterli, EUSIPCO 2007). It is 1 if all maps are
      proportional to one another, and at most the smaller of K and the number of positions.
    - constant_maps: the share of maps that are uniform, as those of the authors' layer are where
      its ReLU is zero at all positions.
    - deviation: total variation distance between the sum of an image's maps and its mean over
      all images, both normalized. It is 0 if the maps do not depend on the image.

    Example:
        >>> import torch
        >>> from ham10000.saliency.scores import map_statistics
        >>> one_hot = torch.eye(4).reshape(1, 4, 2, 2)
        >>> found = map_statistics(one_hot)
        >>> {name: round(values.item(), 3) for name, values in found.items()}
        {'entropy': 0.0, 'effective_maps': 4.0, 'constant_maps': 0.0, 'deviation': 0.0}

    Args:
        maps: (N, K, h, w), not negative. A map of zeros counts as uniform.

    Returns:
        (N,) for each of `STATISTICS`.
    """
    flat = maps.double().flatten(2)
    flat = torch.where(flat.sum(dim=2, keepdim=True) > 0, flat, 1)
    flat = flat / flat.sum(dim=2, keepdim=True)
    largest = np.log(flat.shape[2]) if flat.shape[2] > 1 else 1.0
    values = torch.linalg.svdvals(flat)
    values = values / values.sum(dim=1, keepdim=True)
    looks = flat.mean(dim=1)
    found = {
        "entropy": torch.special.entr(flat).sum(dim=2).mean(dim=1) / largest,
        "effective_maps": torch.special.entr(values).sum(dim=1).exp(),
        "constant_maps": (flat.amax(dim=2) == flat.amin(dim=2)).double().mean(dim=1),
        "deviation": (looks - looks.mean(dim=0)).abs().sum(dim=1) / 2,
    }
    return {name: each.numpy() for name, each in found.items()}


def localization_scores(maps: Tensor, masks: Tensor) -> dict[str, Floats]:
    """Return the localization scores of each map.

    Example:
        >>> import torch
        >>> from ham10000.saliency import localization_scores
        >>> masks = torch.zeros(1, 8, 8, dtype=torch.bool)
        >>> masks[0, :4, :4] = True
        >>> flat = localization_scores(torch.ones(1, 2, 2), masks)
        >>> {name: round(values.item(), 3) for name, values in flat.items()}
        {'pointing_game': 0.25, 'energy_inside': 0.25, 'iou': 0.143}

    Args:
        maps: (N, h, w), of any size; not negative.
        masks: (N, H, W), True on the lesion; none is empty.

    Returns:
        (N,) for each of `SCORES`, from 0 to 1.

    Raises:
        ArgumentError: Shapes do not match, a map has a negative or non-finite value, or a mask is
            empty.
    """
    masks = masks.bool()
    doing = "scoring saliency maps"
    if maps.ndim != 3 or masks.ndim != 3 or len(maps) != len(masks):
        raise ArgumentError(
            f"{doing}: expected maps (N, h, w) and masks (N, H, W), found "
            f"{tuple(maps.shape)} and {tuple(masks.shape)}."
        )
    wrong = ~(torch.isfinite(maps) & (maps >= 0)).all(dim=2).all(dim=1)
    if wrong.any():
        raise ArgumentError(
            f"{doing}: map {int(wrong.int().argmax())} has a negative or non-finite value. "
            "Attention and Grad-CAM return non-negative, finite maps."
        )
    empty = ~masks.any(dim=2).any(dim=1)
    if empty.any():
        raise ArgumentError(
            f"{doing}: mask {int(empty.int().argmax())} is empty. Leave such images out."
        )
    large = upsample(maps, (masks.shape[1], masks.shape[2]))
    scores = (pointing_game, energy_inside, iou)
    return {name: score(large, masks).numpy() for name, score in zip(SCORES, scores, strict=True)}


CURVES = ("deletion", "insertion")
"""Names of the curves that `faithfulness_curves` returns, in this order."""

BLUR = 0.1
"""Sigma of the blur that insertion starts from, as a fraction of the width. It removes all
structure."""


def rank_positions(maps: Tensor, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Rank the positions of each map, largest first; ties are broken at random.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from ham10000.saliency.scores import rank_positions
        >>> rank_positions(torch.tensor([[[0.1, 0.9, 0.5]]]), (1, 3), np.random.default_rng(0))
        tensor([[[2, 0, 1]]])

    Args:
        maps: (N, h, w).
        size: H and W of the images.
        rng: Random generator for ties.

    Returns:
        (N, H, W), 0 for the largest value of a map, 1 for the next, and so on.
    """
    values = upsample(maps, size).flatten(1)
    places = np.tile(np.arange(values.shape[1]), (len(maps), 1))
    shuffled = torch.from_numpy(rng.permuted(places, axis=1))
    order = values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    ranks: Tensor = shuffled.gather(1, order).argsort(dim=1)
    return ranks.reshape(-1, *size)


def blurred(images: Tensor) -> Tensor:
    """Blur images until no structure is left; see `BLUR`."""
    sigma = BLUR * images.shape[-1]
    # The kernel reaches two sigma, or as far as the image can be padded by reflection.
    reach = min(round(2 * sigma), min(images.shape[-2:]) - 1)
    result: Tensor = transforms.gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2)
    return result


@torch.inference_mode()
def faithfulness_curves(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    classes: Tensor,
    ranks: Tensor,
    steps: int = 20,
) -> dict[str, Floats]:
    """Compute the deletion and insertion curves of images.

    Args:
        predict: Returns logits, (N, C).
        images: (N, 3, H, W), normalized.
        classes: (N,), the class whose probability the curves show.
        ranks: (N, H, W), from `rank_positions`.
        steps: Number of equal shares in which positions are deleted or inserted.

    Returns:
        (N, steps + 1) for each of `CURVES`: probabilities after 0, 1, ..., `steps` shares.
    """
    mean = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    blur = blurred(images)
    found: dict[str, list[Tensor]] = {name: [] for name in CURVES}
    for step in range(steps + 1):
        taken = (ranks.to(images.device) < step / steps * ranks[0].numel())[:, None]
        for name, new, old in (("deletion", mean, images), ("insertion", images, blur)):
            probabilities = predict(torch.where(taken, new, old)).double().softmax(dim=1)
            found[name].append(probabilities.gather(1, classes[:, None])[:, 0].cpu())
    return {name: torch.stack(curve, dim=1).numpy() for name, curve in found.items()}


def curve_area(
    curves: npt.NDArray[np.float64] | Sequence[Sequence[float]],
) -> npt.NDArray[np.float64]:
    """Return the area under each curve by the trapezoidal rule, with the x axis from 0 to 1.

    Example:
        >>> from ham10000.saliency import curve_area
        >>> curve_area([[1.0, 0.5, 0.0]]).tolist()
        [0.5]
    """
    values = np.asarray(curves, dtype=np.float64)
    return np.asarray((values[:, 1:] + values[:, :-1]).mean(axis=1) / 2)


def with_intervals(scores: Scores, counts: Floats) -> dict[str, Any]:
    """Average scores over images, with 95 % confidence intervals from resamples of lesions.

    Example:
        >>> import numpy as np
        >>> from ham10000.saliency.scores import with_intervals
        >>> scores = {"attention": {"iou": np.array([0.25, 0.75])}}
        >>> with_intervals(scores, np.array([[1.0, 1.0], [1.0, 1.0]]))["methods"]
        {'attention': {'iou': {'value': 0.5, 'low': 0.5, 'high': 0.5}}}

    Args:
        scores: (N,) for each method and score.
        counts: (N, R), how often each image counts in each resample.

    Returns:
        "methods": value, low and high of each score; "differences": the same for attention minus
        each other method, if attention is among the methods.
    """
    return {
        "methods": {
            method: {name: _interval(values, counts) for name, values in found.items()}
            for method, found in scores.items()
        },
        "differences": {
            method: {
                name: _interval(scores["attention"][name] - values, counts)
                for name, values in found.items()
            }
            for method, found in scores.items()
            if "attention" in scores and method != "attention"
        },
    }


def _interval(values: Floats, counts: Floats) -> dict[str, float]:
    means = values @ counts / counts.sum(axis=0)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}
