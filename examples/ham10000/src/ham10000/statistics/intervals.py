"""Formulas of 95 % confidence intervals: from an estimate and its standard error to two limits.

`ham10000.evaluation.intervals` chooses a formula for each metric.

Sources: Wilson, JASA 22 (1927); Korn and Graubard, Analysis of Health Surveys (1999), for
proportions with an effective sample size; Zou and Donner, Statistics in Medicine 27 (2008),
doi:10.1002/sim.3095, and Newcombe, Statistics in Medicine 17 (1998), 2635, for means and paired
differences (MOVER); Metz, Seminars in Nuclear Medicine 8 (1978), for the binormal curve.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, ndtr, ndtri, owens_t
from scipy.stats import norm, t

__all__ = [
    "LEVEL",
    "NORMAL",
    "auc_interval",
    "bias_corrected_interval",
    "correlation_matrix",
    "critical_value",
    "difference_interval",
    "log_interval",
    "logit_interval",
    "mean_interval",
    "standard_error",
    "wilson",
]

LEVEL = 0.95
"""Nominal coverage of the intervals."""

NORMAL = float(norm.ppf((1 + LEVEL) / 2))
"""Half-width in standard errors: 1.96."""

BINORMAL_LESIONS = 40
"""Weight of the binormal model in `auc_interval`, as a number of lesions."""

CORRECTION = 1.1
"""Ratio of the standard deviation of a bias-corrected value to that of its resamples."""

Floats = npt.NDArray[np.float64]
Limits = tuple[float, float]


def wilson(share: float, trials: float) -> Limits:
    """Return Wilson's interval of a proportion.

    Example:
        >>> from ham10000.statistics import wilson
        >>> low, high = wilson(1.0, 10)
        >>> round(low, 3), round(high, 3)
        (0.722, 1.0)

    Args:
        share: The observed proportion, from 0 to 1.
        trials: Effective number of independent trials. With 0, the interval is (0, 1).
    """
    if trials <= 0:
        return 0.0, 1.0
    square = NORMAL**2 / trials
    centre = (share + square / 2) / (1 + square)
    half = np.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def logit_interval(value: float, half: float) -> Limits:
    """Return the interval of a value between 0 and 1 with half-width `half`, on the logit scale."""
    far = half / (value * (1 - value))
    return float(expit(logit(value) - far)), float(expit(logit(value) + far))


def log_interval(value: float, half: float) -> Limits:
    """Return the interval of a value with half-width `half`, on the log scale; (0, 0) for 0."""
    factor = float(np.exp(half / value)) if value > 0 else 1.0
    return value / factor, value * factor


def auc_interval(value: float, error: float, positives: int, negatives: int) -> Limits:
    """Return the interval of an area under the ROC curve (AUC), on the probit scale.

    Near 1, most lesions of a class outrank all others, and the loss is due to one or two. A sample
    without these has both a large AUC and a small bootstrap error. The variance is therefore a
    geometric mean of the bootstrap variance and of the variance under the equal-variance binormal
    model with the same AUC. The weights are the number of lesions of the smaller group and
    `BINORMAL_LESIONS`.

    Example:
        >>> from ham10000.statistics import auc_interval
        >>> low, high = auc_interval(0.99, 0.005, positives=30, negatives=1000)
        >>> round(low, 3), round(high, 3)
        (0.971, 0.997)

    Args:
        value: The AUC.
        error: Bootstrap standard error of the AUC.
        positives: Number of lesions of the class.
        negatives: Number of lesions of the other classes.
    """
    half_pair = 0.5 / (positives * negatives)
    inside = min(max(value, half_pair), 1 - half_pair)
    probit = float(ndtri(inside))
    # Probability that two images of the class both outrank the same image of another class.
    both = float(ndtr(probit) - 2 * owens_t(probit, 1 / np.sqrt(3)))
    variance = (both - inside**2) * (1 / positives + 1 / negatives)
    fewer = min(positives, negatives)
    if error > 0 and fewer > 1:
        share = fewer / (fewer + BINORMAL_LESIONS)
        variance = (error**2 * fewer / (fewer - 1)) ** share * variance ** (1 - share)
    far = NORMAL * np.sqrt(variance) / norm.pdf(probit)
    return min(value, float(ndtr(probit - far))), max(value, float(ndtr(probit + far)))


def bias_corrected_interval(value: float, drawn: Floats, lesions: int) -> Limits:
    """Return the interval of a value with positive bias, centred on the bias-corrected value.

    Resampling adds the bias a second time, so the bias is the mean of the resamples minus the
    value.
    """
    centre = 2 * value - float(drawn.mean())
    half = CORRECTION * critical_value(lesions) * standard_error(drawn)
    return min(max(centre - half, 0.0), 1.0), min(max(centre + half, 0.0), 1.0)


def mean_interval(values: Floats, limits: Floats, weights: Floats, correlations: Floats) -> Limits:
    """Return the interval of a weighted mean from the intervals of its parts (MOVER).

    Args:
        values: (C,), the parts.
        limits: (C, 2), their intervals.
        weights: (C,), with a sum of 1.
        correlations: (C, C), correlations of the parts.
    """
    mean = float(values @ weights)
    below, above = weights * (values - limits[:, 0]), weights * (limits[:, 1] - values)
    low, high = (
        float(np.sqrt(max(float(side @ correlations @ side), 0.0))) for side in (below, above)
    )
    return mean - low, mean + high


def difference_interval(a: Sequence[float], b: Sequence[float], correlation: float) -> Limits:
    """Return the interval of b minus a from their intervals (MOVER).

    It never exceeds the largest possible difference.

    Example:
        >>> from ham10000.statistics import difference_interval
        >>> low, high = difference_interval((1.0, 0.7, 1.0), (0.0, 0.0, 0.3), correlation=0)
        >>> round(low, 3), round(high, 3)
        (-1.0, -0.576)

    Args:
        a: Value, low and high of the first estimate.
        b: Value, low and high of the second estimate.
        correlation: Correlation of the two estimates.
    """
    if not np.isfinite([*a, *b]).all():
        return -np.inf, np.inf
    below_a, above_a = a[0] - a[1], a[2] - a[0]
    below_b, above_b = b[0] - b[1], b[2] - b[0]
    low = below_b**2 + above_a**2 - 2 * correlation * below_b * above_a
    high = above_b**2 + below_a**2 - 2 * correlation * above_b * below_a
    change = b[0] - a[0]
    return change - float(np.sqrt(max(low, 0.0))), change + float(np.sqrt(max(high, 0.0)))


def correlation_matrix(drawn: Floats) -> Floats:
    """Return correlations between rows of resamples: 0 with a constant row, 1 on the diagonal."""
    errors = np.array([standard_error(row) for row in drawn])
    centered = drawn - drawn.mean(axis=1, keepdims=True)
    scaled = np.divide(
        centered, errors[:, None], out=np.zeros_like(centered), where=errors[:, None] > 0
    )
    matrix = scaled @ scaled.T / max(drawn.shape[1] - 1, 1)
    np.fill_diagonal(matrix, 1.0)
    return np.asarray(np.clip(matrix, -1.0, 1.0))


def critical_value(lesions: int) -> float:
    """Return the half-width of an interval in bootstrap standard errors.

    The bootstrap variance of n lesions is too small by a factor (n - 1) / n, and with few lesions
    it is uncertain (Student's t distribution).

    Example:
        >>> from ham10000.statistics import critical_value
        >>> round(critical_value(1000), 2), round(critical_value(6), 2)
        (1.96, 2.82)
    """
    if lesions < 2:
        return NORMAL
    return float(t.ppf((1 + LEVEL) / 2, lesions - 1) * np.sqrt(lesions / (lesions - 1)))


def standard_error(drawn: Floats) -> float:
    """Return the standard deviation of resamples, and 0 if it is rounding error only."""
    error = float(np.std(drawn, ddof=1)) if len(drawn) > 1 else 0.0
    return error if error > 1e-12 else 0.0
