"""Two models on the same images: does one do better, or did it have luck with these lesions?

Everything is paired. Both models get the same drawn lesions, so that what makes a lesion hard for
both cancels. The interval of a difference comes from the two models' own intervals and the
correlation of their draws (MOVER; see `statistics.difference_ends`), so it never leaves what a
difference can be, and where no draw differs, as for two shares of 1, it still says what few lesions
can't tell. Only `ece` has its 1.96 standard errors of the drawn differences: what chance adds to
both models' cancels.

The p-value of a metric comes from the same interval: it is below 0.05 just where that excludes 0
(Altman and Bland, BMJ 343 (2011), d2304). McNemar's test asks only whether one model is right where
the other is wrong as often as the other way round; it is exact (a binomial test), and takes images
as independent, which those of one lesion are not: per lesion that holds. Areas under the ROC curve
have DeLong's test besides. These two are other tests, and may differ from a metric's p-value.

A p-value here is of one metric. Whoever looks at many has to correct them for their number.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, norm

from ham10000.evaluation.bootstrap import RESAMPLES, draw_lesions, summarize_weighted
from ham10000.evaluation.intervals import Interval, intervals_of
from ham10000.evaluation.metrics import METRICS, absent_classes
from ham10000.evaluation.predictions import Predictions, by_lesion, check_images
from ham10000.statistics import (
    NORMAL,
    AreaDifference,
    compare_areas,
    correlation,
    difference_ends,
    reach,
    spread,
)

__all__ = [
    "Comparison",
    "Difference",
    "Differences",
    "McNemar",
    "change_ends",
    "compare",
    "mcnemar",
    "paired_differences",
]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class McNemar:
    """How often only one of two models is right."""

    only_a: int
    only_b: int
    p_value: float
    """Of both being equally likely, two-sided and exact."""


@dataclass(frozen=True)
class Difference:
    """A metric of B less that of A, with its interval; NaN where undefined."""

    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float
    """Of no difference, two-sided, from the interval: 0.05 where that just touches 0."""


@dataclass(frozen=True)
class Differences:
    """What is found per image, or per lesion."""

    count: int
    """How many images or lesions."""
    mcnemar: McNemar
    metrics: dict[str, Difference]
    areas: dict[str, AreaDifference]


@dataclass(frozen=True)
class Comparison:
    """B compared with A."""

    a: str
    b: str
    resamples: int
    seed: int
    absent_classes: list[str]
    """Classes without an image: undefined, and left out of the averages."""
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
        a: of one model.
        b: of the other, of the same images in any order.
        names: what the models are called.
        resamples: how many draws of lesions the intervals come from.
        seed: of the draws.

    Raises:
        PredictionError: the images or their truths differ; the message names some.
    """
    named = replace(b, source=f"comparing {names[0]} with {names[1]}")
    check_images(named, a.table, names[0])
    b = replace(b, table=b.table.set_index("image_id").loc[a.table["image_id"]].reset_index())
    counts = draw_lesions(a.targets, a.lesions, resamples, seed)
    _, first = np.unique(a.lesions, return_index=True)
    return Comparison(
        a=names[0],
        b=names[1],
        resamples=resamples,
        seed=seed,
        absent_classes=absent_classes(a.targets),
        per_image=_differences(a, b, counts),
        per_lesion=_differences(by_lesion(a), by_lesion(b), counts[first]),
    )


def mcnemar(right_a: npt.ArrayLike, right_b: npt.ArrayLike) -> McNemar:
    """Test whether two models are right equally often.

    Example:
        >>> from ham10000.evaluation.compare import mcnemar
        >>> mcnemar([1, 1, 0, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1, 1])
        McNemar(only_a=1, only_b=5, p_value=0.21875)

    Args:
        right_a: (N,), whether the first is right about each image.
        right_b: (N,), whether the second is.
    """
    first, second = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    unequal = only_a + only_b
    p_value = float(binomtest(only_a, unequal, 0.5).pvalue) if unequal else 1.0
    return McNemar(only_a, only_b, p_value)


def paired_differences(
    targets: npt.ArrayLike, a: Floats, b: Floats, lesions: npt.ArrayLike, counts: Floats
) -> dict[str, Difference]:
    """Return the difference of every metric with its interval.

    Args:
        targets: (N,), places in `CLASSES`.
        a: (N, 7), the probabilities of one model.
        b: (N, 7), those of the other.
        lesions: (N,), which lesion each image shows, numbered from 0.
        counts: (N, R), as `draw_lesions` gives them.
    """
    drawn_a, drawn_b = (summarize_weighted(targets, scores, counts) for scores in (a, b))
    first = intervals_of(targets, a, lesions, drawn_a)
    second = intervals_of(targets, b, lesions, drawn_b)
    count = len(np.unique(np.asarray(lesions)))
    return {
        name: _difference(name, (first[name], second[name]), (drawn_a[name], drawn_b[name]), count)
        for name in METRICS
    }


def change_ends(
    name: str,
    a: tuple[float, float, float],
    b: tuple[float, float, float],
    drawn: tuple[Floats, Floats],
    lesions: int,
) -> tuple[float, float]:
    """Return the interval of a metric of B less that of A.

    Args:
        name: of the metric.
        a: value, low and high of A.
        b: those of B.
        drawn: (R,) of A and (R,) of B, on the same draws of lesions.
        lesions: how many there are.
    """
    if name == "ece":
        change = b[0] - a[0]
        half = reach(lesions) * spread(drawn[1] - drawn[0]) if lesions > 1 else 1.0
        return max(change - half, -1.0), min(change + half, 1.0)
    return difference_ends(a, b, float(correlation(np.stack(drawn))[0, 1]))


def _differences(a: Predictions, b: Predictions, counts: Floats) -> Differences:
    truth, scores_a, scores_b = a.targets, a.probabilities, b.probabilities
    return Differences(
        count=len(truth),
        mcnemar=mcnemar(scores_a.argmax(axis=1) == truth, scores_b.argmax(axis=1) == truth),
        metrics=paired_differences(truth, scores_a, scores_b, a.lesions, counts),
        areas=compare_areas(truth, scores_a, scores_b, a.lesions),
    )


def _difference(
    name: str, both: tuple[Interval, Interval], drawn: tuple[Floats, Floats], lesions: int
) -> Difference:
    a, b = both
    change = b.value - a.value
    if not np.isfinite(change):
        return Difference(a.value, b.value, np.nan, np.nan, np.nan, np.nan)
    first, second = ((each.value, each.low, each.high) for each in both)
    low, high = change_ends(name, first, second, drawn, lesions)
    return Difference(a.value, b.value, change, low, high, _p_value(change, low, high))


def _p_value(change: float, low: float, high: float) -> float:
    """Return the p-value at whose level the end of an interval that looks at 0 would be there."""
    if change == 0:
        return 1.0
    side = change - low if change > 0 else high - change
    return 2 * float(norm.sf(NORMAL * abs(change) / side)) if side > 0 else 0.0
