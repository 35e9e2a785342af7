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
from ham10000.statistics.delong import AucDifference, auc_covariance, compare_aucs
from ham10000.statistics.intervals import (
    LEVEL,
    NORMAL,
    auc_interval,
    bias_corrected_interval,
    correlation_matrix,
    critical_value,
    difference_interval,
    log_interval,
    logit_interval,
    mean_interval,
    standard_error,
    wilson,
)

__all__ = [
    "LEVEL",
    "MIN_TRAINING_DF",
    "NORMAL",
    "AucDifference",
    "CellEstimate",
    "Verdict",
    "auc_covariance",
    "auc_interval",
    "bias_corrected_interval",
    "compare_aucs",
    "correlation_matrix",
    "critical_value",
    "decide",
    "difference_interval",
    "estimate_cells",
    "holm",
    "log_interval",
    "logit_interval",
    "mean_interval",
    "seeds_needed",
    "shared_variance",
    "standard_error",
    "wilson",
]
