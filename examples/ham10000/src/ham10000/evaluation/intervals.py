"""Intervals of 95 %: which method for which metric, and why.

The draws of `resampling` give each metric's standard error. What an interval makes of it:

- Most metrics lie between 0 and 1, and good models near 1, where chance is lopsided: percentiles of
  the draws are too narrow there. So the interval is symmetric on the logit scale, which never
  leaves 0 to 1; on the logarithm's scale for `brier` and `log_loss`, which have no upper end. It
  reaches 1.96 standard errors to each side, and more for a class of few lesions, which know their
  own spread badly (Student's distribution).
- The recall of a class, and its sensitivity at a specificity, are shares of few images: Wilson's
  interval, with the number of independent images that would have the draws' standard error (at most
  as many as there are; the images of one lesion count as fewer). Where all draws are equal and show
  no error, as for a share of 1, every metric has Wilson's interval with the number of lesions.
- Balanced accuracy is the mean of the recalls, and its interval that of theirs (MOVER): the rarest
  class decides it, and from six lesions draws learn too little.
- `ece` is too large by chance alone, the more so the fewer images, and a draw adds as much again:
  the percentiles of the draws are mirrored at the value, which takes both out. So the value may be
  above its interval: that much of it is chance. For a model that is calibrated to the last digit
  even the lower end stays a little above 0.

How often these intervals hold the truth in a simulation: `python -m ham10000.evaluation.coverage`.

Sources: Wilson, JASA 22 (1927); Korn and Graubard, Analysis of Health Surveys (1999), for the
effective number; Zou and Donner, Statistics in Medicine 27 (2008), doi:10.1002/sim.3095, for MOVER.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import norm, t

from ham10000.data.facts import CLASSES
from ham10000.evaluation.metrics import METRICS, summarize
from ham10000.evaluation.weighted import summarize_weighted

__all__ = ["LEVEL", "Interval", "intervals", "reach", "spread", "wilson"]

LEVEL = 0.95
"""How often the truth is to be in an interval."""

Method = Literal["logit", "log", "wilson", "mover", "mirrored percentiles", "undefined"]
Floats = npt.NDArray[np.float64]

_SHARES = ("recall/", "sensitivity_at_95_specificity/")


@dataclass(frozen=True)
class Interval:
    """A metric with its interval of 95 %; NaN where it is undefined."""

    value: float
    low: float
    high: float
    method: Method


def intervals(
    targets: npt.ArrayLike, probabilities: npt.ArrayLike, lesions: npt.ArrayLike, counts: Floats
) -> dict[str, Interval]:
    """Measure predictions, and say how sure each number is.

    Example:
        >>> import numpy as np
        >>> from ham10000.evaluation.intervals import intervals
        >>> from ham10000.evaluation.resampling import draw_lesions
        >>> targets, lesions = np.repeat([4, 5], 50), np.arange(100)
        >>> sure = np.eye(7)[np.where(lesions % 10, targets, 4)]
        >>> counts = draw_lesions(targets, lesions, resamples=100)
        >>> found = intervals(targets, sure, lesions, counts)["recall/nv"]
        >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
        (0.9, 0.786, 0.957)

    Args:
        targets: (N,), places in `CLASSES`.
        probabilities: (N, 7); each row sums to 1.
        lesions: (N,), which lesion each image shows, numbered from 0.
        counts: (N, R), as `draw_lesions` gives them.

    Returns:
        An interval for each of `METRICS`.
    """
    values = summarize(targets, probabilities)
    drawn = summarize_weighted(targets, probabilities, counts)
    truth, lesion = np.asarray(targets), np.asarray(lesions)
    whole = _Size(len(truth), len(np.unique(lesion)))
    sizes = {
        name: _Size(int((truth == label).sum()), len(np.unique(lesion[truth == label])))
        for label, name in enumerate(CLASSES)
    }
    found = {
        name: _interval(name, values[name], drawn[name], sizes.get(name.partition("/")[2], whole))
        for name in METRICS
    }
    mean = _mean([found[f"recall/{name}"] for name in CLASSES])
    return {**found, "balanced_accuracy": mean, "recall_macro": mean}


def wilson(share: float, trials: float) -> tuple[float, float]:
    """Return Wilson's interval of a share.

    Example:
        >>> from ham10000.evaluation.intervals import wilson
        >>> low, high = wilson(1.0, 10)
        >>> round(low, 3), round(high, 3)
        (0.722, 1.0)

    Args:
        share: what was found, from 0 to 1.
        trials: of how many; a fraction where they are not independent.
    """
    square = norm.ppf((1 + LEVEL) / 2) ** 2 / trials
    centre = (share + square / 2) / (1 + square)
    half = np.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def reach(lesions: int) -> float:
    """Return how many standard errors of the draws an interval reaches to each side.

    The draws of n lesions spread less than n lesions do, by a share of 1 / n in variance.

    Example:
        >>> from ham10000.evaluation.intervals import reach
        >>> round(reach(1000), 2), round(reach(6), 2)
        (1.96, 2.82)
    """
    if lesions < 2:
        return float(norm.ppf((1 + LEVEL) / 2))
    return float(t.ppf((1 + LEVEL) / 2, lesions - 1) * np.sqrt(lesions / (lesions - 1)))


def spread(drawn: Floats) -> float:
    """Return the standard deviation of draws: 0 where it is nothing but rounding."""
    error = float(np.std(drawn, ddof=1)) if len(drawn) > 1 else 0.0
    return error if error > 1e-12 else 0.0


@dataclass(frozen=True)
class _Size:
    images: int
    lesions: int


def _interval(name: str, value: float, drawn: Floats, size: _Size) -> Interval:
    if not np.isfinite(value):
        return Interval(value, np.nan, np.nan, "undefined")
    if name == "ece":
        low, high = 2 * value - np.quantile(drawn, ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
        return Interval(value, max(0.0, float(low)), min(1.0, float(high)), "mirrored percentiles")
    error = spread(drawn)
    if name in ("brier", "log_loss"):
        factor = np.exp(reach(size.lesions) * error / value) if value > 0 else 1.0
        return Interval(value, float(value / factor), float(value * factor), "log")
    variance = value * (1 - value)
    if error == 0 or variance < 1e-12:
        return Interval(value, *wilson(min(max(value, 0.0), 1.0), size.lesions), "wilson")
    if name.startswith(_SHARES):
        return Interval(value, *wilson(value, min(variance / error**2, size.images)), "wilson")
    low, high = expit(logit(value) + np.array([-1, 1]) * reach(size.lesions) * error / variance)
    return Interval(value, float(low), float(high), "logit")


def _mean(recalls: list[Interval]) -> Interval:
    """Return the mean of independent shares, without those that are undefined."""
    known = np.array([(each.value, each.low, each.high) for each in recalls])
    value, low, high = known[np.isfinite(known[:, 0])].T
    mean, count = float(value.mean()), len(value)
    below = float(np.linalg.norm(value - low)) / count
    above = float(np.linalg.norm(high - value)) / count
    return Interval(mean, mean - below, mean + above, "mover")
