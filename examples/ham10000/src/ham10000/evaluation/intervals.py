"""95 % confidence intervals of all metrics, and the choice of method for each.

The standard error of each metric is estimated from bootstrap resamples of lesions (`draw_lesions`).
The interval follows from it by the method that suits the metric:

- Proportions of one class (`recall`, `precision`, `specificity`, `f1`, and the sensitivity at a
  specificity): Wilson's interval. The number of trials is the number of independent images with the
  same standard error, at most the number of images; images of one lesion count as fewer. If all
  resamples are equal, as for a proportion of 1, it is the number of lesions. Trials of a precision
  are the images predicted as the class; trials of `f1` are these and the images of the class.
- AUC of one class: on the probit scale, with a variance that accounts for errors which few lesions
  rarely show (`statistics.auc_interval`).
- Means over classes (`balanced_accuracy`, every `_macro`, and `auc_weighted`): from the intervals
  of the classes and the correlations of their resamples (MOVER). The rarest class dominates such
  a mean, and resampling six lesions underestimates its variation.
- Other proportions of all images, and average precision: 1.96 standard errors (more for few
  lesions) on the logit scale. Good models are near 1, where the sampling distribution is skewed and
  bootstrap percentiles are too narrow. `brier` and `log_loss`: the same on the log scale.
- `ece` is biased upward, more so for fewer images, and resampling adds the bias a second time. The
  interval is centred on the bias-corrected value, so the value itself can be above its interval.
  For a perfectly calibrated model the centre remains slightly above 0.

Coverage of these intervals in simulation: `benchmarks/interval_coverage.py`. `BINORMAL_LESIONS` and
`CORRECTION` of `statistics.intervals` were chosen to improve it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ham10000.data import CLASSES
from ham10000.evaluation.bootstrap import summarize_weighted
from ham10000.evaluation.metrics import LOWER_IS_BETTER, metrics_of, summarize, upper_bound
from ham10000.statistics import (
    auc_interval,
    bias_corrected_interval,
    correlation_matrix,
    critical_value,
    log_interval,
    logit_interval,
    mean_interval,
    standard_error,
    wilson,
)

__all__ = ["Interval", "intervals", "intervals_of"]

Method = Literal["logit", "log", "wilson", "probit", "mover", "corrected", "anything", "undefined"]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_MEANS = {
    "balanced_accuracy": "recall",
    "precision_macro": "precision",
    "recall_macro": "recall",
    "f1_macro": "f1",
    "specificity_macro": "specificity",
    "auc_macro": "auc",
    "auc_weighted": "auc",
    "average_precision_macro": "average_precision",
}


@dataclass(frozen=True)
class Interval:
    """A metric with its 95 % confidence interval; NaN if undefined."""

    value: float
    low: float
    high: float
    method: Method


def intervals(
    targets: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    lesions: npt.ArrayLike,
    counts: Floats,
    classes: Sequence[str] = CLASSES,
) -> dict[str, Interval]:
    """Compute all metrics of predictions with their confidence intervals.

    Example:
        >>> import numpy as np
        >>> from ham10000.evaluation.intervals import intervals
        >>> from ham10000.evaluation.bootstrap import draw_lesions
        >>> targets, lesions = np.repeat([4, 5], 50), np.arange(100)
        >>> sure = np.eye(7)[np.where(lesions % 10, targets, 4)]
        >>> counts = draw_lesions(targets, lesions, resamples=100)
        >>> found = intervals(targets, sure, lesions, counts)["recall/nv"]
        >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
        (0.9, 0.786, 0.957)

    Args:
        targets: (N,), indices into `classes`.
        probabilities: (N, C); each row sums to 1.
        lesions: (N,), lesion index of each image, from 0.
        counts: (N, R), from `draw_lesions`.
        classes: Names of the C classes.

    Returns:
        The interval of each of `metrics_of(classes)`.
    """
    drawn = summarize_weighted(targets, probabilities, counts, classes)
    return intervals_of(targets, probabilities, lesions, drawn, classes)


def intervals_of(
    targets: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    lesions: npt.ArrayLike,
    drawn: Mapping[str, Floats],
    classes: Sequence[str] = CLASSES,
) -> dict[str, Interval]:
    """Compute `intervals` from the resamples of each metric, (R,), if they are known already."""
    values = summarize(targets, probabilities, classes)
    truth, lesion = np.asarray(targets), np.asarray(lesions)
    predicted = np.asarray(probabilities).argmax(axis=1)
    whole, label = _Size.of(lesion), {name: number for number, name in enumerate(classes)}
    found: dict[str, Interval] = {}
    for name in metrics_of(classes):
        metric, _, dx = name.partition("/")
        if not np.isfinite(values[name]):
            found[name] = Interval(values[name], np.nan, np.nan, "undefined")
        elif not dx:
            found[name] = _overall(name, values[name], drawn[name], whole)
        else:
            own, taken = (each == label[dx] for each in (truth, predicted))
            sizes = (_Size.of(lesion[own]), _Size.of(lesion[~own]), _Size.of(lesion[taken]))
            found[name] = _of_class(metric, values[name], drawn[name], sizes)
    support = np.bincount(truth, minlength=len(classes)).astype(np.float64)
    for name, metric in _MEANS.items():
        weights = support if name == "auc_weighted" else np.ones(len(classes))
        if found[name].method != "undefined":
            names = [f"{metric}/{dx}" for dx in classes]
            found[name] = _mean(values[name], names, found, drawn, weights)
    return found


@dataclass(frozen=True)
class _Size:
    images: float
    lesions: float

    @classmethod
    def of(cls, lesion: Ints) -> "_Size":
        return cls(len(lesion), len(np.unique(lesion)))


def _overall(name: str, value: float, drawn: Floats, size: _Size) -> Interval:
    if name in LOWER_IS_BETTER and size.lesions < 2:
        return Interval(value, 0.0, upper_bound(name), "anything")
    if name == "ece":
        return Interval(
            value, *bias_corrected_interval(value, drawn, int(size.lesions)), "corrected"
        )
    if name in ("brier", "log_loss"):
        return Interval(
            value,
            *log_interval(value, critical_value(int(size.lesions)) * standard_error(drawn)),
            "log",
        )
    return _smooth(value, drawn, size)


def _of_class(
    metric: str, value: float, drawn: Floats, sizes: tuple[_Size, _Size, _Size]
) -> Interval:
    # Sizes of the class, of the other classes, and of the images predicted as the class.
    own, others, taken = sizes
    if metric == "auc":
        limits = auc_interval(value, standard_error(drawn), int(own.lesions), int(others.lesions))
        return Interval(value, *limits, "probit")
    if metric == "average_precision":
        return _smooth(value, drawn, own)
    size = {
        "specificity": others,
        "precision": taken,
        # A true positive counts in both.
        "f1": _Size(own.images + taken.images, (own.lesions + taken.lesions) / 2),
    }.get(metric, own)
    return Interval(value, *wilson(value, _trials(value, drawn, size)), "wilson")


def _smooth(value: float, drawn: Floats, size: _Size) -> Interval:
    error = standard_error(drawn)
    if error == 0 or value * (1 - value) < 1e-12:
        return Interval(value, *wilson(min(max(value, 0.0), 1.0), size.lesions), "wilson")
    return Interval(
        value, *logit_interval(value, critical_value(int(size.lesions)) * error), "logit"
    )


def _trials(value: float, drawn: Floats, size: _Size) -> float:
    # Number of independent images with the same standard error.
    error, variance = standard_error(drawn), value * (1 - value)
    if error == 0 or variance < 1e-12:
        return size.lesions
    return min(variance / error**2, size.images)


def _mean(
    value: float,
    names: Sequence[str],
    found: Mapping[str, Interval],
    drawn: Mapping[str, Floats],
    weights: Floats,
) -> Interval:
    # Mean over the classes where the metric is defined.
    known = np.array([found[name].method != "undefined" for name in names])
    names = [name for name, there in zip(names, known, strict=True) if there]
    values = np.array([found[name].value for name in names])
    limits = np.array([(found[name].low, found[name].high) for name in names])
    shares = weights[known] / weights[known].sum()
    correlations = correlation_matrix(np.stack([drawn[name] for name in names]))
    return Interval(value, *mean_interval(values, limits, shares, correlations), "mover")
