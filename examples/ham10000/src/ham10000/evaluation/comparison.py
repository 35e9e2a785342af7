"""Two models on the same images: does one do better, or did it have luck with these lesions?

Everything is paired. Both models get the same drawn lesions, so that what makes a lesion hard for
both cancels. The draws give the standard error of a difference, and the interval is 1.96 of them to
each side, more for a class of few lesions (see `intervals`): differences of two models are nearly
symmetric, and in simulation this holds the truth more often than percentiles of the draws do
(`python -m ham10000.evaluation.coverage`). Where both models are right about the same images of a
class, no draw differs in its recall; then it could still differ by as much as Wilson's interval
gives to none of its lesions.

McNemar's test asks only whether one model is right where the other is wrong as often as the other
way round; it is exact (a binomial test), and takes images as independent, which those of one lesion
are not: per lesion that holds. Areas under the ROC curve have DeLong's test besides.

A p-value here is of one metric. Whoever looks at many has to correct them for their number.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, t

from ham10000.data.facts import CLASSES
from ham10000.evaluation.delong import AreaDifference, compare_areas
from ham10000.evaluation.intervals import reach, spread, wilson
from ham10000.evaluation.metrics import METRICS, absent_classes, summarize
from ham10000.evaluation.predictions import Predictions, by_lesion, check_images
from ham10000.evaluation.resampling import RESAMPLES, draw_lesions
from ham10000.evaluation.weighted import summarize_weighted

__all__ = [
    "Comparison",
    "Difference",
    "Differences",
    "McNemar",
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
    """Of no difference, two-sided: 0.05 where the interval of 95 % just touches 0."""


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
        >>> from ham10000.evaluation.comparison import mcnemar
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
    truth, lesion = np.asarray(targets), np.asarray(lesions)
    first, second = summarize(truth, a), summarize(truth, b)
    drawn_a, drawn_b = (summarize_weighted(truth, scores, counts) for scores in (a, b))
    whole = len(np.unique(lesion))
    of_class = {name: len(np.unique(lesion[truth == label])) for label, name in enumerate(CLASSES)}
    return {
        name: _difference(
            name,
            (first[name], second[name]),
            drawn_b[name] - drawn_a[name],
            of_class.get(name.partition("/")[2], whole),
        )
        for name in METRICS
    }


def _differences(a: Predictions, b: Predictions, counts: Floats) -> Differences:
    truth, scores_a, scores_b = a.targets, a.probabilities, b.probabilities
    return Differences(
        count=len(truth),
        mcnemar=mcnemar(scores_a.argmax(axis=1) == truth, scores_b.argmax(axis=1) == truth),
        metrics=paired_differences(truth, scores_a, scores_b, a.lesions, counts),
        areas=compare_areas(truth, scores_a, scores_b, a.lesions),
    )


def _difference(name: str, values: tuple[float, float], drawn: Floats, lesions: int) -> Difference:
    a, b = values
    if not np.isfinite(b - a):
        return Difference(a, b, np.nan, np.nan, np.nan, np.nan)
    difference, error = b - a, spread(drawn)
    if error == 0:
        half = wilson(0.0, lesions)[1] if name.startswith("recall/") else 0.0
        return Difference(a, b, difference, difference - half, difference + half, 1.0)
    half = reach(lesions) * error
    # The p-value at which the interval would just touch 0.
    ratio = abs(difference) / error * np.sqrt((lesions - 1) / lesions)
    p_value = 2 * float(t.sf(ratio, lesions - 1))
    return Difference(a, b, difference, difference - half, difference + half, p_value)
