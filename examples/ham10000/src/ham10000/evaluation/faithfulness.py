"""Whether the model decides by what a map shows: deletion and insertion curves.

As Petsiuk et al. (RISE, BMVC 2018): positions are taken in the order of the map, most important
first. Deletion replaces them by the mean colour of the image, and a good map makes the probability
of the predicted class fall soon. Insertion puts them into a blurred image, and a good map makes it
rise soon. The area under a curve says how soon.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ham10000.evaluation.localisation import enlarge

__all__ = ["CURVES", "area", "blurred", "fade", "importance"]

CURVES = ("deletion", "insertion")
"""The names that `fade` gives, in this order."""

BLUR = 0.1
"""Sigma of the blur that insertion starts from, as a part of the width: no structure is left."""


def importance(maps: Tensor, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Return in which order positions are taken; those that tie in a random one.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from ham10000.evaluation.faithfulness import importance
        >>> importance(torch.tensor([[[0.1, 0.9, 0.5]]]), (1, 3), np.random.default_rng(0))
        tensor([[[2, 0, 1]]])

    Args:
        maps: (N, h, w).
        size: H and W, of the images.
        rng: of the order of ties.

    Returns:
        (N, H, W), 0 for the largest value of a map, 1 for the next, and so on.
    """
    values = enlarge(maps, size).flatten(1)
    places = np.tile(np.arange(values.shape[1]), (len(maps), 1))
    shuffled = torch.from_numpy(rng.permuted(places, axis=1))
    order = values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    ranks: Tensor = shuffled.gather(1, order).argsort(dim=1)
    return ranks.reshape(-1, *size)


def blurred(images: Tensor) -> Tensor:
    """Blur images until no structure is left; see `BLUR`."""
    sigma = BLUR * images.shape[-1]
    # As far as two sigma, or as far as an image can be mirrored.
    reach = min(round(2 * sigma), min(images.shape[-2:]) - 1)
    result: Tensor = F.gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2)
    return result


@torch.inference_mode()
def fade(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    classes: Tensor,
    order: Tensor,
    steps: int = 20,
) -> dict[str, npt.NDArray[np.float64]]:
    """Follow the probability of a class while an image goes, and while it comes.

    Args:
        predict: gives class scores, (N, C), before the softmax.
        images: (N, 3, H, W), normalized.
        classes: (N,), whose probability is followed.
        order: (N, H, W), from `importance`.
        steps: how often a share of the positions is taken.

    Returns:
        (N, steps + 1) for each of `CURVES`, probabilities after 0, 1, ..., `steps` shares.
    """
    mean = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    blur = blurred(images)
    found: dict[str, list[Tensor]] = {name: [] for name in CURVES}
    for step in range(steps + 1):
        taken = (order.to(images.device) < step / steps * order[0].numel())[:, None]
        for name, new, old in (("deletion", mean, images), ("insertion", images, blur)):
            scores = predict(torch.where(taken, new, old)).double().softmax(dim=1)
            found[name].append(scores.gather(1, classes[:, None])[:, 0].cpu())
    return {name: torch.stack(curve, dim=1).numpy() for name, curve in found.items()}


def area(curves: npt.NDArray[np.float64] | Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    """Return the area under each curve by the trapezoidal rule, from 0 to 1.

    Example:
        >>> from ham10000.evaluation.faithfulness import area
        >>> area([[1.0, 0.5, 0.0]]).tolist()
        [0.5]
    """
    values = np.asarray(curves, dtype=np.float64)
    return np.asarray((values[:, 1:] + values[:, :-1]).mean(axis=1) / 2)
