"""The formulas of intervals of 95 %: from a value and its error to its two ends.

Which metric has which, and why, is said in `intervals`.

Sources: Wilson, JASA 22 (1927); Korn and Graubard, Analysis of Health Surveys (1999), for shares of
an effective number; Zou and Donner, Statistics in Medicine 27 (2008), doi:10.1002/sim.3095, and
Newcombe, Statistics in Medicine 17 (1998), 2635, for means and paired differences (MOVER); Metz,
Seminars in Nuclear Medicine 8 (1978), for the binormal curve.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, ndtr, ndtri, owens_t
from scipy.stats import norm, t

__all__ = [
    "LEVEL",
    "NORMAL",
    "area_ends",
    "corrected_ends",
    "correlation",
    "difference_ends",
    "log_ends",
    "logit_ends",
    "mean_ends",
    "reach",
    "spread",
    "wilson",
]

LEVEL = 0.95
"""How often the truth is to be in an interval."""

NORMAL = float(norm.ppf((1 + LEVEL) / 2))
"""How many standard errors that is to each side: 1.96."""

BINORMAL_LESIONS = 40
"""How many lesions the assumption of a binormal curve counts as, where an area has few."""

CORRECTION = 1.1
"""How much more a value spreads that is corrected by its draws than the draws do."""

Floats = npt.NDArray[np.float64]
Ends = tuple[float, float]


def wilson(share: float, trials: float) -> Ends:
    """Return Wilson's interval of a share.

    Example:
        >>> from ham10000.statistics import wilson
        >>> low, high = wilson(1.0, 10)
        >>> round(low, 3), round(high, 3)
        (0.722, 1.0)

    Args:
        share: what was found, from 0 to 1.
        trials: of how many; a fraction where they are not independent. Of none, nothing is known.
    """
    if trials <= 0:
        return 0.0, 1.0
    square = NORMAL**2 / trials
    centre = (share + square / 2) / (1 + square)
    half = np.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def logit_ends(value: float, half: float) -> Ends:
    """Go `half` to each side of a value between 0 and 1, on the logit scale."""
    far = half / (value * (1 - value))
    return float(expit(logit(value) - far)), float(expit(logit(value) + far))


def log_ends(value: float, half: float) -> Ends:
    """Go `half` to each side of a value above 0, on the logarithm's scale; 0 stays alone."""
    factor = float(np.exp(half / value)) if value > 0 else 1.0
    return value / factor, value * factor


def area_ends(value: float, error: float, own: int, others: int) -> Ends:
    """Return the interval of an area under a ROC curve, on the probit scale.

    Near 1 most lesions of a class win all their pairs, and what is lost is lost by one or two. A
    sample that happens to lack these has a large area and a small error at once. So the variance is
    a geometric mean of that of the draws, and of what it is where the scores are normal with equal
    variances, after any monotone transformation: this knows what is usually lost at such an area.
    It counts as many lesions as `BINORMAL_LESIONS`, the draws as many as there are.

    Example:
        >>> from ham10000.statistics import area_ends
        >>> low, high = area_ends(0.99, 0.005, own=30, others=1000)
        >>> round(low, 3), round(high, 3)
        (0.971, 0.997)

    Args:
        value: the area.
        error: the standard error of its draws.
        own: how many lesions the class has.
        others: how many the other classes have.
    """
    half_pair = 0.5 / (own * others)
    inside = min(max(value, half_pair), 1 - half_pair)
    probit = float(ndtri(inside))
    # Of two images of the class, that both win against the same other image.
    both = float(ndtr(probit) - 2 * owens_t(probit, 1 / np.sqrt(3)))
    variance = (both - inside**2) * (1 / own + 1 / others)
    fewer = min(own, others)
    if error > 0 and fewer > 1:
        share = fewer / (fewer + BINORMAL_LESIONS)
        variance = (error**2 * fewer / (fewer - 1)) ** share * variance ** (1 - share)
    far = NORMAL * np.sqrt(variance) / norm.pdf(probit)
    return min(value, float(ndtr(probit - far))), max(value, float(ndtr(probit + far)))


def corrected_ends(value: float, drawn: Floats, lesions: int) -> Ends:
    """Return the interval of a value that chance makes too large, and the draws as much again.

    What the draws' mean has too much is taken off the value.
    """
    centre = 2 * value - float(drawn.mean())
    half = CORRECTION * reach(lesions) * spread(drawn)
    return min(max(centre - half, 0.0), 1.0), min(max(centre + half, 0.0), 1.0)


def mean_ends(values: Floats, ends: Floats, weights: Floats, related: Floats) -> Ends:
    """Return the interval of a weighted mean from those of its parts (MOVER).

    Args:
        values: (C,), the parts.
        ends: (C, 2), their intervals.
        weights: (C,), which sum to 1.
        related: (C, C), the correlations of the parts.
    """
    mean = float(values @ weights)
    below, above = weights * (values - ends[:, 0]), weights * (ends[:, 1] - values)
    low, high = (float(np.sqrt(max(float(side @ related @ side), 0.0))) for side in (below, above))
    return mean - low, mean + high


def difference_ends(a: Sequence[float], b: Sequence[float], related: float) -> Ends:
    """Return the interval of b less a from theirs (MOVER); it never leaves what is possible.

    Example:
        >>> from ham10000.statistics import difference_ends
        >>> low, high = difference_ends((1.0, 0.7, 1.0), (0.0, 0.0, 0.3), related=0)
        >>> round(low, 3), round(high, 3)
        (-1.0, -0.576)

    Args:
        a: value, low and high of one.
        b: those of the other.
        related: the correlation of both.
    """
    if not np.isfinite([*a, *b]).all():
        return -np.inf, np.inf
    below_a, above_a = a[0] - a[1], a[2] - a[0]
    below_b, above_b = b[0] - b[1], b[2] - b[0]
    low = below_b**2 + above_a**2 - 2 * related * below_b * above_a
    high = above_b**2 + below_a**2 - 2 * related * above_b * below_a
    change = b[0] - a[0]
    return change - float(np.sqrt(max(low, 0.0))), change + float(np.sqrt(max(high, 0.0)))


def correlation(drawn: Floats) -> Floats:
    """Return the correlations of rows of draws: 0 with one that has no spread, 1 with itself."""
    errors = np.array([spread(row) for row in drawn])
    centered = drawn - drawn.mean(axis=1, keepdims=True)
    scaled = np.divide(
        centered, errors[:, None], out=np.zeros_like(centered), where=errors[:, None] > 0
    )
    related = scaled @ scaled.T / max(drawn.shape[1] - 1, 1)
    np.fill_diagonal(related, 1.0)
    return np.asarray(np.clip(related, -1.0, 1.0))


def reach(lesions: int) -> float:
    """Return how many standard errors of the draws an interval reaches to each side.

    The draws of n lesions spread less than n lesions do, by a share of 1 / n in variance, and few
    know their own spread badly (Student's distribution).

    Example:
        >>> from ham10000.statistics import reach
        >>> round(reach(1000), 2), round(reach(6), 2)
        (1.96, 2.82)
    """
    if lesions < 2:
        return NORMAL
    return float(t.ppf((1 + LEVEL) / 2, lesions - 1) * np.sqrt(lesions / (lesions - 1)))


def spread(drawn: Floats) -> float:
    """Return the standard deviation of draws: 0 where it is nothing but rounding."""
    error = float(np.std(drawn, ddof=1)) if len(drawn) > 1 else 0.0
    return error if error > 1e-12 else 0.0
