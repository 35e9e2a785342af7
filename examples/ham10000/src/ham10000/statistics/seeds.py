"""Means and intervals over two sources of chance at once: the seeds, and the lesions tested on.

Run r of a recipe has another seed than run q, but both are tested on the same lesions. So the mean
over S seeds varies for two reasons, and each gives an interval of its own. s is the standard
deviation of the S values: with other seeds the mean changes by up to t(S-1) s / sqrt(S). With other
lesions it changes as far as the intervals of `ham10000.evaluation` reach, which is further to one
side than to the other. The reach of the whole is, to each side, the root of the sum of both squares
(MOVER), and ends where the metric does. What happens only for a seed and a lesion together is in
both, so intervals are rather too wide than too narrow. Satterthwaite's degrees of freedom, the
usual way, hold the truth in 88 of 100 studies of two seeds instead of 95, since two seeds say next
to nothing about s; this way holds it in 95 or more.

A difference of two recipes is treated the same way, seed by seed and lesion by lesion: pairing
takes out what both share, hard lesions first of all.

Source: Zou and Donner, Statistics in Medicine 27 (2008), doi:10.1002/sim.3095; for the two sources,
Bouthillier et al., Accounting for Variance in Machine Learning Benchmarks, arXiv:2103.03098.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

from ham10000.errors import ArgumentError
from ham10000.statistics import LEVEL, NORMAL

__all__ = ["Estimate", "estimate", "holm"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and how sure it is."""

    mean: float
    std: float
    """The standard deviation over seeds."""
    low: float
    high: float
    p: float
    """Of a true value of 0, two-sided: what a difference is asked."""
    values: tuple[float, ...]
    """One for each seed."""

    def as_dict(self) -> dict[str, object]:
        """Return what JSON can hold."""
        return {**vars(self), "values": list(self.values)}


def estimate(
    values: NDArray[np.float64],
    by_lesions: tuple[float, float],
    possible: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """Estimate a metric, or a difference of two, from its value for each seed.

    Example:
        >>> import numpy as np
        >>> from ham10000.statistics import estimate
        >>> found = estimate(np.array([0.01, 0.03, 0.02]), by_lesions=(0.0, 0.05))
        >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3)
        (0.02, -0.012, 0.059)

    Args:
        values: (S,), one for each seed, on the test lesions as they are.
        by_lesions: the interval of their mean if only the lesions were left to chance.
        possible: what no mean can be below or above.

    Raises:
        ArgumentError: there is one seed only.
    """
    seeds = len(values)
    if seeds < 2:
        raise ArgumentError(
            f"estimating over seeds: found {seeds} of them, and what a seed changes shows between "
            "two at least. Add seeds, or compare two runs with: ham10000 compare"
        )
    mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
    below, above = mean - by_lesions[0], by_lesions[1] - mean

    def reach_at(p: float, lesions: float) -> float:
        over_seeds = std / math.sqrt(seeds) * stats.t.isf(p / 2, seeds - 1)
        return math.hypot(over_seeds, lesions * stats.norm.isf(p / 2) / NORMAL)

    low = max(mean - reach_at(1 - LEVEL, below), possible[0])
    high = min(mean + reach_at(1 - LEVEL, above), possible[1])
    # p is that of the widest interval which leaves 0 out.
    towards = below if mean > 0 else above
    p = 1.0 if mean == 0.0 else 0.0
    if mean != 0.0 and reach_at(1e-300, towards) > abs(mean):
        p = brentq(lambda p: reach_at(p, towards) - abs(mean), 1e-300, 1.0)
    return Estimate(mean, std, low, high, float(p), tuple(values.tolist()))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Correct p-values for their number, so that one false alarm among all is as rare as claimed.

    Example:
        >>> from ham10000.statistics import holm
        >>> holm({"accuracy": 0.04, "auc": 0.01, "f1": 0.03})
        {'accuracy': 0.06, 'auc': 0.03, 'f1': 0.06}

    Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    corrected: dict[str, float] = {}
    least = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, p_values[name] * (len(p_values) - place)))
        corrected[name] = least
    return {name: corrected[name] for name in p_values}
