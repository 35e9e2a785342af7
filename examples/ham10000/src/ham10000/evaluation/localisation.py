"""Whether a map looks at the lesion: pointing game, energy inside the mask, and IoU.

All three compare a map, enlarged to the mask, with the mask alone. None has a threshold to choose,
and none depends on the map's scale, so that soft attention and Grad-CAM can be compared. A map that
is the same everywhere gets what a blind guess gets: ties count as if broken at random.
"""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ham10000.errors import ArgumentError

__all__ = ["SCORES", "energy_inside", "enlarge", "iou", "localise", "pointing_game"]

SCORES = ("pointing_game", "energy_inside", "iou")
"""The names that `localise` gives, in this order."""


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge maps to the size of masks, bilinearly, as overlays show them.

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
    """Say whether the largest value of a map is inside the mask (Zhang et al., IJCV 2018).

    Where several positions are the largest, the result is the part of them that is inside.

    Example:
        >>> import torch
        >>> from ham10000.evaluation.localisation import pointing_game
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
    """Say which part of a map's sum is inside the mask (Wang et al., Score-CAM, CVPR-W 2020).

    A map of zeros only is taken as one that is the same everywhere.

    Args:
        maps: (N, H, W), not negative.
        masks: (N, H, W), True on the lesion.

    Returns:
        (N,), from 0 to 1.
    """
    whole = maps.sum(dim=(1, 2))
    nothing = whole == 0
    inside = (maps * masks).sum(dim=(1, 2)) / torch.where(nothing, 1, whole)
    return torch.where(nothing, masks.double().mean(dim=(1, 2)), inside)


def iou(maps: Tensor, masks: Tensor) -> Tensor:
    """Compare the mask with as many of a map's largest positions as the mask has.

    So the threshold isn't chosen but follows from the mask: any order of positions could reach 1,
    and a map isn't blamed for being sharp or flat. Where positions tie at the threshold, each of
    them counts with the part of them that is needed.

    Example:
        >>> import torch
        >>> from ham10000.evaluation.localisation import iou
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


def localise(maps: Tensor, masks: Tensor) -> dict[str, npt.NDArray[np.float64]]:
    """Measure where maps look, image by image.

    Example:
        >>> import torch
        >>> from ham10000.evaluation.localisation import localise
        >>> masks = torch.zeros(1, 8, 8, dtype=torch.bool)
        >>> masks[0, :4, :4] = True
        >>> flat = localise(torch.ones(1, 2, 2), masks)
        >>> {name: round(values.item(), 3) for name, values in flat.items()}
        {'pointing_game': 0.25, 'energy_inside': 0.25, 'iou': 0.143}

    Args:
        maps: (N, h, w), of any size; not negative.
        masks: (N, H, W), True on the lesion; none is empty.

    Returns:
        (N,) for each of `SCORES`, from 0 to 1.

    Raises:
        ArgumentError: shapes don't fit, a map is negative or no number, or a mask is empty.
    """
    masks = masks.bool()
    doing = "measuring where maps look"
    if maps.ndim != 3 or masks.ndim != 3 or len(maps) != len(masks):
        raise ArgumentError(
            f"{doing}: expected maps (N, h, w) and masks (N, H, W), found "
            f"{tuple(maps.shape)} and {tuple(masks.shape)}."
        )
    wrong = ~(torch.isfinite(maps) & (maps >= 0)).all(dim=2).all(dim=1)
    if wrong.any():
        raise ArgumentError(
            f"{doing}: map {int(wrong.int().argmax())} has a value that is negative or no finite "
            "number. Attention and Grad-CAM give none."
        )
    empty = ~masks.any(dim=2).any(dim=1)
    if empty.any():
        raise ArgumentError(
            f"{doing}: mask {int(empty.int().argmax())} is empty. Leave such images out."
        )
    large = enlarge(maps, (masks.shape[1], masks.shape[2]))
    scores = (pointing_game, energy_inside, iou)
    return {name: score(large, masks).numpy() for name, score in zip(SCORES, scores, strict=True)}
