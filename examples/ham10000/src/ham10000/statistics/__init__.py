"""Confidence intervals, tests and estimates: from numbers to numbers, without predictions."""

from ham10000.statistics.cells import (
    MIN_TRAINING_DF,
    CellEstimate,
    Verdict,
    decide,
    estimate_cells,
    holm,
    seeds_needed,
    shared_variance,
)
from ham10000.statistics.delong import AreaDifference, area_covariance, compare_areas
from ham10000.statistics.intervals import (
    LEVEL,
    NORMAL,
    area_ends,
    corrected_ends,
    correlation,
    difference_ends,
    log_ends,
    logit_ends,
    mean_ends,
    reach,
    spread,
    wilson,
)

__all__ = [
    "LEVEL",
    "MIN_TRAINING_DF",
    "NORMAL",
    "AreaDifference",
    "CellEstimate",
    "Verdict",
    "area_covariance",
    "area_ends",
    "compare_areas",
    "corrected_ends",
    "correlation",
    "decide",
    "difference_ends",
    "estimate_cells",
    "holm",
    "log_ends",
    "logit_ends",
    "mean_ends",
    "reach",
    "seeds_needed",
    "shared_variance",
    "spread",
    "wilson",
]
