"""Faithfulness of saliency maps to the model's decision: deletion and insertion curves.

As in Petsiuk et al. (RISE, BMVC 2018): positions are ranked by the map, most important first.
Deletion replaces them by the mean colour of the image; the sooner the probability of the predicted
class falls, the better the map. Insertion copies them into a blurred image; the sooner the
probability rises, the better. The area under each curve summarizes it.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ham10000.saliency.localization import upsample

__all__ = ["CURVES", "blurred", "curve_area", "faithfulness_curves", "rank_positions"]

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
        >>> from ham10000.saliency.faithfulness import rank_positions
        >>> rank_positions(torch.tensor([[[0.1, 0.9, 0.5]]]), (1, 3), np.random.default_rng(0))
        tensor([[[2, 0, 1]]])

    Args:
        maps: (N, h, w).
        size: H and W of the images.
        rng: random generator for ties.

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
    result: Tensor = F.gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2)
    return result


@torch.inference_mode()
def faithfulness_curves(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    classes: Tensor,
    ranks: Tensor,
    steps: int = 20,
) -> dict[str, npt.NDArray[np.float64]]:
    """Compute the deletion and insertion curves of images.

    Args:
        predict: returns logits, (N, C).
        images: (N, 3, H, W), normalized.
        classes: (N,), the class whose probability the curves show.
        ranks: (N, H, W), from `rank_positions`.
        steps: number of equal shares in which positions are deleted or inserted.

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
