"""Evaluate predictions: every metric with its confidence interval, per image and per lesion.

Test sets differ in difficulty. Most nevi of HAM10000 with a single image were confirmed by
follow-up only. They are easy to recognize, so metrics depend on their share in the test set.
Therefore all metrics are also computed within the populations of `STRATA`.
"""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from ham10000.data import DX_TYPES
from ham10000.evaluation.bootstrap import RESAMPLES, draw_lesions
from ham10000.evaluation.intervals import Interval, intervals
from ham10000.evaluation.metrics import absent_classes, confusion
from ham10000.evaluation.predictions import (
    Predictions,
    by_lesion,
    check_images,
    write_predictions,
)
from ham10000.statistics import LEVEL
from ham10000.utils import write_text

__all__ = [
    "STRATA",
    "Evaluation",
    "Level",
    "Stratum",
    "evaluate",
    "strata_of",
    "to_json",
    "write_evaluation",
]

STRATA = {
    "histologically_confirmed": "histologically confirmed",
    "several_images": "lesions with several images",
    "without_follow_up_nevi": "without follow-up nevi",
}
"""Display name of each population of images that is also evaluated on its own."""

_METHOD = (
    "95 % confidence intervals from bootstrap resamples of lesions within each class: Wilson's "
    "interval for proportions of a class, the probit scale for the AUC of a class, MOVER of these "
    "for means over classes, 1.96 standard errors on the logit scale for other metrics (log scale "
    "for brier and log_loss), bias-corrected for ece. Each metric names its method. Averages are "
    "over the classes that have images."
)


@dataclass(frozen=True)
class Level:
    """Metrics per image, or per lesion."""

    count: int
    """Number of images or lesions."""
    class_counts: dict[str, int]
    metrics: dict[str, Interval]
    confusion: list[list[int]]
    """Confusion matrix: true classes in rows, predicted classes in columns, in the order of
    `class_counts`."""


@dataclass(frozen=True)
class Stratum:
    """Metrics of a population of images with their confidence intervals."""

    absent_classes: list[str]
    """Classes without images, which averages leave out."""
    per_image: Level
    per_lesion: Level
    """Metrics of the mean probabilities over the images of each lesion."""


@dataclass(frozen=True)
class Evaluation(Stratum):
    """Metrics of predictions with their confidence intervals, for all images and by stratum."""

    resamples: int
    seed: int
    level: float
    method: str
    strata: dict[str, Stratum]
    """Metrics within each of `STRATA`."""
    strata_left_out: dict[str, str]
    """Reason for each of `STRATA` that is not in `strata`."""


def evaluate(
    predictions: Predictions,
    resamples: int = RESAMPLES,
    seed: int = 0,
    table: pd.DataFrame | None = None,
) -> Evaluation:
    """Compute all metrics with confidence intervals, per image and per lesion.

    Example:
        >>> import numpy as np
        >>> from ham10000.data import CLASSES
        >>> from ham10000.evaluation.evaluate import evaluate
        >>> from ham10000.evaluation.predictions import make_predictions
        >>> rows = [(f"I{n}", f"L{n // 2}", CLASSES[n // 4], "test") for n in range(28)]
        >>> found = evaluate(make_predictions(rows, np.eye(7)[np.arange(28) // 4]), resamples=20)
        >>> found.per_image.count, found.per_lesion.count
        (28, 14)
        >>> accuracy = found.per_image.metrics["accuracy"]
        >>> accuracy.value, round(accuracy.low, 3)
        (1.0, 0.785)

    Each stratum is evaluated as if its images were the whole test set.

    Args:
        predictions: The predictions to evaluate.
        resamples: Number of bootstrap resamples of lesions.
        seed: Seed of the resamples.
        table: Table of the whole data set, as `load_table` returns it. Without it, strata are left
            out: predictions do not say how a diagnosis was made, nor how many images of a lesion
            are not in the test set.

    Raises:
        PredictionError: The table lacks an image, or has another class or lesion for it.
    """
    if table is None:
        strata: dict[str, Stratum] = {}
        left_out = dict.fromkeys(STRATA, "no table of the data set was given.")
    else:
        strata, left_out = _evaluate_strata(predictions, table, resamples, seed)
    whole = _evaluate(predictions, resamples, seed)
    return Evaluation(
        absent_classes=whole.absent_classes,
        per_image=whole.per_image,
        per_lesion=whole.per_lesion,
        resamples=resamples,
        seed=seed,
        level=LEVEL,
        method=_METHOD,
        strata=strata,
        strata_left_out=left_out,
    )


def strata_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return which images of a data set belong to which of `STRATA`.

    Example:
        >>> import pandas as pd
        >>> from ham10000.evaluation.evaluate import strata_of
        >>> columns = ["image_id", "lesion_id", "dx", "dx_type"]
        >>> rows = [("I1", "L1", "nv", "follow_up"), ("I2", "L2", "mel", "histo")]
        >>> strata_of(pd.DataFrame(rows, columns=columns)).sum().to_dict()
        {'histologically_confirmed': 1, 'several_images': 0, 'without_follow_up_nevi': 1}

    Args:
        table: Table of the whole data set, as `load_table` returns it.

    Returns:
        One boolean column for each stratum, indexed by image_id. If no type of diagnosis is known,
        there is only `several_images`.
    """
    made = table["dx_type"]
    found = {
        "histologically_confirmed": made == "histo",
        "several_images": table.groupby("lesion_id")["image_id"].transform("size") > 1,
        "without_follow_up_nevi": ~((table["dx"] == "nv") & (made == "follow_up")),
    }
    if not made.isin(DX_TYPES).any():
        found = {"several_images": found["several_images"]}
    return pd.DataFrame(found).set_index(pd.Index(table["image_id"]))


def write_evaluation(evaluation: Evaluation, predictions: Predictions, out: Path) -> None:
    """Write predictions.csv and metrics.json into a folder, each atomically.

    Raises:
        WriteError: A file cannot be written.
    """
    write_predictions(predictions, out / "predictions.csv")
    write_text(out / "metrics.json", to_json(asdict(evaluation)))


def to_json(value: object) -> str:
    """Return a value as JSON, with null for NaN and infinity.

    Example:
        >>> from ham10000.evaluation.evaluate import to_json
        >>> print(to_json({"auc": float("nan")}))
        {
          "auc": null
        }
    """
    return json.dumps(_without_nan(value), indent=2, allow_nan=False) + "\n"


def _evaluate_strata(
    predictions: Predictions, table: pd.DataFrame, resamples: int, seed: int
) -> tuple[dict[str, Stratum], dict[str, str]]:
    names = predictions.table["image_id"]
    check_images(predictions, table[table["image_id"].isin(names)], "the table of the data set")
    strata: dict[str, Stratum] = {}
    left_out: dict[str, str] = {}
    members = strata_of(table)
    for name in STRATA:
        if name not in members:
            left_out[name] = "the table of the data set does not say how diagnoses were made."
            continue
        inside = members[name].loc[names].to_numpy()
        if inside.any():
            chosen = replace(predictions, table=predictions.table[inside])
            strata[name] = _evaluate(chosen, resamples, seed)
        else:
            left_out[name] = "there are no such images."
    return strata, left_out


def _evaluate(predictions: Predictions, resamples: int, seed: int) -> Stratum:
    counts = draw_lesions(predictions.targets, predictions.lesions, resamples, seed)
    _, first = np.unique(predictions.lesions, return_index=True)
    return Stratum(
        absent_classes=absent_classes(predictions.targets, predictions.classes),
        per_image=_level(predictions, counts),
        per_lesion=_level(by_lesion(predictions), counts[first]),
    )


def _level(predictions: Predictions, counts: npt.NDArray[np.float64]) -> Level:
    targets, probabilities = predictions.targets, predictions.probabilities
    classes = predictions.classes
    support = np.bincount(targets, minlength=len(classes))
    return Level(
        count=len(targets),
        class_counts=dict(zip(classes, support.tolist(), strict=True)),
        metrics=intervals(targets, probabilities, predictions.lesions, counts, classes),
        confusion=confusion(targets, probabilities).tolist(),
    )


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
