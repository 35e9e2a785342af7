"""Bootstrap resamples of lesions, and the metrics of all resamples at once.

Lesions are resampled, not images: the images of one lesion are nearly the same, so predictions for
them are usually all correct or all wrong. Each class keeps its number of lesions, since the test
sets are stratified.

A resample is a count for each image. Every metric of `summarize` is computed from such counts for
all resamples together, in float64, and equals scikit-learn's value on the images repeated as often
as they count.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ham10000.data import CLASSES
from ham10000.errors import ArgumentError
from ham10000.evaluation.metrics import (
    MAX_FALSE_POSITIVE_RATE,
    NUM_BINS,
    averages,
    bin_of,
    metrics_of,
)

__all__ = ["RESAMPLES", "draw_lesions", "summarize_weighted"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RESAMPLES = 2000
"""Default number of resamples. The Monte Carlo error of a limit is about 1.5 % of the width."""

_CHUNK = 128
"""Number of resamples computed at once, so that the arrays stay in the cache of a core."""


def draw_lesions(
    targets: npt.ArrayLike,
    lesions: npt.ArrayLike,
    resamples: int = RESAMPLES,
    seed: int | Sequence[int] = 0,
) -> npt.NDArray[np.float64]:
    """Draw bootstrap resamples of lesions within each class.

    Example:
        >>> from ham10000.evaluation.bootstrap import draw_lesions
        >>> counts = draw_lesions([4, 4, 5, 5], [0, 0, 1, 2], resamples=3)
        >>> counts.shape, counts.sum(axis=0).tolist()
        ((4, 3), [4.0, 4.0, 4.0])

    Args:
        targets: (N,), the class of each image.
        lesions: (N,), lesion index of each image, from 0. A lesion has one class.
        resamples: Number of resamples, R.
        seed: Random seed, or several integers. Resamples depend only on the seed and the images,
            so they are the same for all models.

    Returns:
        (N, R), how often each image counts in each resample.

    Raises:
        ArgumentError: `resamples` is less than 1.
    """
    if resamples < 1:
        raise ArgumentError(f"drawing lesions: {resamples} resamples. Expected at least 1.")
    truth, lesion = np.asarray(targets), np.asarray(lesions)
    names, first = np.unique(lesion, return_index=True)
    classes = truth[first]
    counts = np.zeros((len(names), resamples))
    rng = np.random.default_rng(seed)
    draws = np.arange(resamples)
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        for chosen in rng.choice(members, (len(members), resamples)):
            counts[chosen, draws] += 1
    return np.asarray(counts[np.searchsorted(names, lesion)])


def summarize_weighted(
    targets: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    weights: npt.ArrayLike,
    classes: Sequence[str] = CLASSES,
) -> dict[str, Floats]:
    """Compute all metrics once for each column of weights.

    Example:
        >>> import numpy as np
        >>> from ham10000.evaluation.bootstrap import summarize_weighted
        >>> sure = np.eye(7)[[4, 5, 5]]
        >>> summarize_weighted([4, 5, 4], sure, [[1, 3], [1, 1], [1, 1]])["recall/mel"].tolist()
        [0.5, 0.75]

    Args:
        targets: (N,), indices into `classes`.
        probabilities: (N, C); each row sums to 1.
        weights: (N, R), how often each image counts in each resample.
        classes: Names of the C classes.

    Returns:
        (R,) for each of `metrics_of(classes)`; NaN if undefined.
    """
    truth = np.asarray(targets, dtype=np.int64)
    scores = np.asarray(probabilities, dtype=np.float64)
    counts = np.asarray(weights)
    sums = _sums(truth, scores)
    ranks = [_Ranks.of(truth == label, scores[:, label]) for label in range(len(classes))]
    found = [
        _measure(
            classes,
            sums,
            ranks,
            np.ascontiguousarray(counts[:, start : start + _CHUNK], np.float64),
        )
        for start in range(0, counts.shape[1], _CHUNK)
    ]
    return {name: np.concatenate([part[name] for part in found]) for name in metrics_of(classes)}


@dataclass(frozen=True)
class _Ranks:
    """Images sorted by decreasing score of one class, images of the class first within ties.

    The sensitivity changes only at images of the class, so only groups of equal scores with such
    images are kept: start of the group, end of its images of the class, end of the group.
    """

    order: Ints
    start: Ints
    middle: Ints
    end: Ints

    @classmethod
    def of(cls, is_positive: npt.NDArray[np.bool_], score: Floats) -> "_Ranks":
        order = np.lexsort((~is_positive, -score))
        ordered = score[order]
        start = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        end = np.append(start[1:], len(order))
        own = np.append(0, np.cumsum(is_positive[order]))
        own = own[end] - own[start]
        return cls(order, start[own > 0], (start + own)[own > 0], end[own > 0])

    def measure(self, weights: Floats) -> dict[str, Floats]:
        """Return the metrics that depend on the ranking of the scores, (R,) each."""
        below = np.zeros((len(weights) + 1, weights.shape[1]))
        np.cumsum(weights[self.order], axis=0, out=below[1:])
        gained = below[self.middle] - below[self.start]
        true = np.cumsum(gained, axis=0)
        everyone = below[self.end]
        false = everyone - true
        false_before = below[self.start] - (true - gained)
        positives = gained.sum(axis=0)
        negatives = below[-1] - positives
        precision = np.divide(true, everyone, out=np.zeros_like(true), where=everyone > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            area = (gained * (false_before + false)).sum(axis=0) / (2 * positives * negatives)
            allowed = false / negatives <= MAX_FALSE_POSITIVE_RATE
            sensitivity = np.where(allowed, true, 0.0).max(axis=0, initial=0.0) / positives
            return {
                "auc": 1 - area,
                "average_precision": (gained * precision).sum(axis=0) / positives,
                "sensitivity_at_95_specificity": np.where(negatives > 0, sensitivity, np.nan),
            }


def _sums(truth: Ints, scores: Floats) -> Floats:
    # Contribution of each image to every sum that metrics need: (cells + bins + 2, N).
    count, classes = scores.shape
    predicted, confidence = scores.argmax(axis=1), scores.max(axis=1)
    own = scores[np.arange(count), truth] / scores.sum(axis=1)
    sums = np.zeros((classes * classes + NUM_BINS + 2, count))
    image = np.arange(count)
    sums[truth * classes + predicted, image] = 1
    sums[classes * classes + bin_of(confidence), image] = (predicted == truth) - confidence
    sums[-2] = ((scores - np.eye(classes)[truth]) ** 2).sum(axis=1)
    sums[-1] = -np.log(np.clip(own, np.finfo(np.float64).eps, 1.0))
    return sums


def _measure(
    names: Sequence[str], sums: Floats, ranks: list[_Ranks], weights: Floats
) -> dict[str, Floats]:
    classes = len(names)
    totals = (sums @ weights).T
    cells = totals[:, : classes * classes].reshape(-1, classes, classes)
    size = weights.sum(axis=0)
    support, predicted = cells.sum(axis=2), cells.sum(axis=1)
    right = np.diagonal(cells, axis1=1, axis2=2)
    others = size[:, None] - support
    by_rank = [rank.measure(weights) for rank in ranks]
    with np.errstate(invalid="ignore", divide="ignore"):
        per_class = {
            "recall": right / support,
            "precision": np.where(predicted > 0, right / predicted, 0.0),
            "f1": 2 * right / (support + predicted),
            "specificity": 1 - (predicted - right) / others,
            **{name: np.stack([of[name] for of in by_rank], axis=1) for name in by_rank[0]},
        }
    for values in per_class.values():
        values[support == 0] = np.nan
    calibration = totals[:, classes * classes : -2]
    found = {
        "accuracy": right.sum(axis=1) / size,
        **averages(per_class, support),
        "ece": np.abs(calibration).sum(axis=1) / size,
        "brier": totals[:, -2] / size,
        "log_loss": totals[:, -1] / size,
    }
    for metric, values in per_class.items():
        found |= {f"{metric}/{name}": values[:, label] for label, name in enumerate(names)}
    return found
