"""Evaluate predictions: every metric with its confidence interval, per image and per lesion."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ham10000.data import CLASSES
from ham10000.evaluation.bootstrap import RESAMPLES, draw_lesions
from ham10000.evaluation.intervals import Interval, intervals
from ham10000.evaluation.metrics import absent_classes, confusion
from ham10000.evaluation.predictions import Predictions, by_lesion, write_predictions
from ham10000.statistics import LEVEL
from ham10000.utils import write_text

__all__ = ["Evaluation", "Level", "evaluate", "to_json", "write_evaluation"]

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
    """Confusion matrix: true classes in rows, predicted classes in columns, as in `CLASSES`."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of predictions with their confidence intervals."""

    absent_classes: list[str]
    """Classes without images, which averages leave out."""
    resamples: int
    seed: int
    level: float
    method: str
    per_image: Level
    per_lesion: Level
    """Metrics of the mean probabilities over the images of each lesion."""


def evaluate(predictions: Predictions, resamples: int = RESAMPLES, seed: int = 0) -> Evaluation:
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

    Args:
        predictions: the predictions to evaluate.
        resamples: number of bootstrap resamples of lesions.
        seed: seed of the resamples.
    """
    counts = draw_lesions(predictions.targets, predictions.lesions, resamples, seed)
    _, first = np.unique(predictions.lesions, return_index=True)
    return Evaluation(
        absent_classes=absent_classes(predictions.targets),
        resamples=resamples,
        seed=seed,
        level=LEVEL,
        method=_METHOD,
        per_image=_level(predictions, counts),
        per_lesion=_level(by_lesion(predictions), counts[first]),
    )


def write_evaluation(evaluation: Evaluation, predictions: Predictions, out: Path) -> None:
    """Write predictions.csv and metrics.json into a folder, each atomically.

    Raises:
        WriteError: a file cannot be written.
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


def _level(predictions: Predictions, counts: npt.NDArray[np.float64]) -> Level:
    targets, probabilities = predictions.targets, predictions.probabilities
    support = np.bincount(targets, minlength=len(CLASSES))
    return Level(
        count=len(targets),
        class_counts=dict(zip(CLASSES, support.tolist(), strict=True)),
        metrics=intervals(targets, probabilities, predictions.lesions, counts),
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
