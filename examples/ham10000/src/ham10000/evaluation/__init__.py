"""Predictions, their metrics with confidence intervals, and paired comparisons of two models."""

from ham10000.evaluation.bootstrap import RESAMPLES, draw_lesions, summarize_weighted
from ham10000.evaluation.compare import (
    Comparison,
    Difference,
    Differences,
    McNemar,
    change_ends,
    compare,
    mcnemar,
    paired_differences,
)
from ham10000.evaluation.evaluate import Evaluation, Level, evaluate, to_json, write_evaluation
from ham10000.evaluation.intervals import Interval, intervals, intervals_of, largest
from ham10000.evaluation.metrics import (
    CLASS_METRICS,
    METRICS,
    NUM_BINS,
    absent_classes,
    confusion,
    reliability_bins,
    summarize,
)
from ham10000.evaluation.predictions import (
    Predictions,
    by_lesion,
    check_images,
    make_predictions,
    of_split,
    read_predictions,
    write_predictions,
)
from ham10000.evaluation.submission import (
    OfficialTest,
    read_groundtruth,
    scored,
    submission_table,
    write_submission,
)

__all__ = [
    "CLASS_METRICS",
    "METRICS",
    "NUM_BINS",
    "RESAMPLES",
    "Comparison",
    "Difference",
    "Differences",
    "Evaluation",
    "Interval",
    "Level",
    "McNemar",
    "OfficialTest",
    "Predictions",
    "absent_classes",
    "by_lesion",
    "change_ends",
    "check_images",
    "compare",
    "confusion",
    "draw_lesions",
    "evaluate",
    "intervals",
    "intervals_of",
    "largest",
    "make_predictions",
    "mcnemar",
    "of_split",
    "paired_differences",
    "read_groundtruth",
    "read_predictions",
    "reliability_bins",
    "scored",
    "submission_table",
    "summarize",
    "summarize_weighted",
    "to_json",
    "write_evaluation",
    "write_predictions",
    "write_submission",
]
