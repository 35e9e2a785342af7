"""Paired comparison of two models on the same images.

Both models use the same bootstrap resamples of lesions, so variation that both share, such as hard
lesions, cancels. The interval of a difference follows from the intervals of the two models and the
correlation of their resamples (MOVER; see `statistics.difference_interval`). It never exceeds the
possible range, and it is not empty even if no resample differs, as for two proportions of 1. The
exception is `ece`, with 1.96 standard errors of the resampled differences: the bias of both models
cancels.

The p-value of a metric comes from the same interval: it is below 0.05 exactly if the interval
excludes 0 (Altman and Bland, BMJ 343 (2011), d2304). McNemar's test is an exact binomial test on
the images where exactly one model is correct. It assumes independent images, which holds per lesion
but not per image. Areas under the ROC curve also have DeLong's test. These are separate tests, and
their p-values can differ from those of the metrics.

p-values are for one metric each, without correction for multiple testing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import binomtest, norm

from ham10000.data import CLASSES
from ham10000.errors import PredictionError
from ham10000.evaluation.bootstrap import RESAMPLES, draw_lesions, summarize_weighted
from ham10000.evaluation.intervals import Interval, intervals_of
from ham10000.evaluation.metrics import absent_classes, metrics_of
from ham10000.evaluation.predictions import Predictions, by_lesion, check_images
from ham10000.statistics import (
    NORMAL,
    AucDifference,
    compare_aucs,
    correlation_matrix,
    critical_value,
    difference_interval,
    standard_error,
)

__all__ = [
    "Comparison",
    "Difference",
    "Differences",
    "McNemar",
    "compare",
    "mcnemar",
    "only_one_right",
    "paired_differences",
]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class McNemar:
    """Counts of images where only one of two models is correct, with McNemar's test."""

    only_a: int
    only_b: int
    p_value: float
    """Exact two-sided p-value of the hypothesis that both counts are equally likely."""


@dataclass(frozen=True)
class Difference:
    """Difference of a metric, B minus A, with its 95 % confidence interval; NaN if undefined."""

    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float
    """Two-sided p-value from the interval: 0.05 if a limit is exactly 0."""


@dataclass(frozen=True)
class Differences:
    """Comparison per image, or per lesion."""

    count: int
    """Number of images or lesions."""
    mcnemar: McNemar
    metrics: dict[str, Difference]
    aucs: dict[str, AucDifference]


@dataclass(frozen=True)
class Comparison:
    """Comparison of model B with model A."""

    a: str
    b: str
    resamples: int
    seed: int
    absent_classes: list[str]
    """Classes without images, which averages leave out."""
    per_image: Differences
    per_lesion: Differences

    def as_dict(self) -> dict[str, object]:
        """Return the comparison as plain dictionaries."""
        return asdict(self)


def compare(
    a: Predictions,
    b: Predictions,
    names: tuple[str, str] = ("A", "B"),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two models' predictions of the same images.

    Args:
        a: Predictions of the first model.
        b: Predictions of the second model for the same images, in any order.
        names: Names of the models.
        resamples: Number of bootstrap resamples of lesions.
        seed: Seed of the resamples.

    Raises:
        PredictionError: The images or their true classes differ; the message names some.
    """
    b = _in_order_of(a, b, names)
    counts = draw_lesions(a.targets, a.lesions, resamples, seed)
    _, first = np.unique(a.lesions, return_index=True)
    return Comparison(
        a=names[0],
        b=names[1],
        resamples=resamples,
        seed=seed,
        absent_classes=absent_classes(a.targets, a.classes),
        per_image=_differences(a, b, counts),
        per_lesion=_differences(by_lesion(a), by_lesion(b), counts[first]),
    )


def mcnemar(right_a: npt.ArrayLike, right_b: npt.ArrayLike) -> McNemar:
    """Test whether two models are correct equally often.

    Example:
        >>> from ham10000.evaluation.compare import mcnemar
        >>> mcnemar([1, 1, 0, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1, 1])
        McNemar(only_a=1, only_b=5, p_value=0.21875)

    Args:
        right_a: (N,), whether the first model is correct on each image.
        right_b: (N,), the same for the second model.
    """
    first, second = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    unequal = only_a + only_b
    p_value = float(binomtest(only_a, unequal, 0.5).pvalue) if unequal else 1.0
    return McNemar(only_a, only_b, p_value)


def only_one_right(
    a: Predictions, b: Predictions, names: tuple[str, str] = ("A", "B")
) -> pd.DataFrame:
    """Return the images that one model classifies correctly and the other incorrectly.

    Example:
        >>> import numpy as np
        >>> from ham10000.evaluation import make_predictions, only_one_right
        >>> images = [("I1", "L1", "nv", "test"), ("I2", "L2", "mel", "test")]
        >>> a, b = (make_predictions(images, np.eye(7)[rows]) for rows in ([5, 4], [5, 0]))
        >>> only_one_right(a, b)[["image_id", "dx", "right", "predicted_b"]].values.tolist()
        [['I2', 'mel', 'A', 'akiec']]

    Args:
        a: Predictions of the first model.
        b: Predictions of the second model for the same images, in any order.
        names: Names of the models.

    Returns:
        A row for each such image, in the order of `a`, with the columns image_id, lesion_id, dx,
        right (the name of the model that is), predicted_a and predicted_b.

    Raises:
        PredictionError: The images or their true classes differ; the message names some.
    """
    b = _in_order_of(a, b, names)
    found = [each.probabilities.argmax(axis=1) for each in (a, b)]
    right_a, right_b = (predicted == a.targets for predicted in found)
    table = a.table[["image_id", "lesion_id", "dx"]].assign(right=np.where(right_a, *names))
    for name, predicted in zip(("predicted_a", "predicted_b"), found, strict=True):
        table[name] = [a.classes[index] for index in predicted]
    differing: pd.DataFrame = table[right_a != right_b].reset_index(drop=True)
    return differing


def paired_differences(
    targets: npt.ArrayLike,
    a: Floats,
    b: Floats,
    lesions: npt.ArrayLike,
    counts: Floats,
    classes: Sequence[str] = CLASSES,
) -> dict[str, Difference]:
    """Return the difference of every metric with its interval.

    Args:
        targets: (N,), indices into `classes`.
        a: (N, C), probabilities of the first model.
        b: (N, C), probabilities of the second model.
        lesions: (N,), lesion index of each image, from 0.
        counts: (N, R), from `draw_lesions`.
        classes: Names of the C classes.
    """
    drawn_a, drawn_b = (summarize_weighted(targets, scores, counts, classes) for scores in (a, b))
    first = intervals_of(targets, a, lesions, drawn_a, classes)
    second = intervals_of(targets, b, lesions, drawn_b, classes)
    count = len(np.unique(np.asarray(lesions)))
    return {
        name: _difference(name, (first[name], second[name]), (drawn_a[name], drawn_b[name]), count)
        for name in metrics_of(classes)
    }


def _in_order_of(a: Predictions, b: Predictions, names: tuple[str, str]) -> Predictions:
    named = replace(b, source=f"comparing {names[0]} with {names[1]}")
    if a.classes != b.classes:
        raise PredictionError(
            f"{named.source}: the classes of {names[0]} are {', '.join(a.classes)}, and those of "
            f"{names[1]} {', '.join(b.classes)}. Compare predictions for one data set."
        )
    check_images(named, a.table, names[0])
    return replace(b, table=b.table.set_index("image_id").loc[a.table["image_id"]].reset_index())


def _differences(a: Predictions, b: Predictions, counts: Floats) -> Differences:
    truth, scores_a, scores_b = a.targets, a.probabilities, b.probabilities
    return Differences(
        count=len(truth),
        mcnemar=mcnemar(scores_a.argmax(axis=1) == truth, scores_b.argmax(axis=1) == truth),
        metrics=paired_differences(truth, scores_a, scores_b, a.lesions, counts, a.classes),
        aucs=compare_aucs(truth, scores_a, scores_b, a.lesions, classes=a.classes),
    )


def _difference(
    name: str, both: tuple[Interval, Interval], drawn: tuple[Floats, Floats], lesions: int
) -> Difference:
    a, b = both
    change = b.value - a.value
    if not np.isfinite(change):
        return Difference(a.value, b.value, np.nan, np.nan, np.nan, np.nan)
    first, second = ((each.value, each.low, each.high) for each in both)
    low, high = _change_interval(name, first, second, drawn, lesions)
    return Difference(a.value, b.value, change, low, high, _p_value(change, low, high))


def _p_value(change: float, low: float, high: float) -> float:
    # 1 - p is the level at which the limit nearer to 0 would be 0, with normal quantiles.
    if change == 0:
        return 1.0
    side = change - low if change > 0 else high - change
    return 2 * float(norm.sf(NORMAL * abs(change) / side)) if side > 0 else 0.0


def _change_interval(
    name: str,
    a: tuple[float, float, float],
    b: tuple[float, float, float],
    drawn: tuple[Floats, Floats],
    lesions: int,
) -> tuple[float, float]:
    # B minus A. `drawn`: values on the same resamples, (R,) each.
    if name == "ece":
        change = b[0] - a[0]
        half = critical_value(lesions) * standard_error(drawn[1] - drawn[0]) if lesions > 1 else 1.0
        return max(change - half, -1.0), min(change + half, 1.0)
    return difference_interval(a, b, float(correlation_matrix(np.stack(drawn))[0, 1]))
