"""Metrics of predictions: one function from labels and probabilities to named values.

Values come from scikit-learn where it has the metric. Where conventions differ:

- The predicted class is the class with the largest probability, the first one for ties.
- Metrics of a class without images are NaN, and averages (`_macro`, `_weighted`,
  `balanced_accuracy`) leave the class out. Report `absent_classes` beside any average.
- The precision of a class that is never predicted is 0, as in scikit-learn.
- `auc`, `average_precision` and `sensitivity_at_95_specificity` are one-vs-rest, from the
  probability of the class. The last is the largest sensitivity over thresholds with a specificity
  of at least 95 %, without interpolation.
- `ece` is the expected calibration error of the predicted class, with 15 bins of equal width, open
  below and closed above, weighted by their number of images (Guo et al., ICML 2017).
- `brier` is the squared error summed over classes and averaged over images, from 0 to 2.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)

from ham10000.data import CLASSES
from ham10000.errors import PredictionError

__all__ = [
    "AVERAGES",
    "CLASS_METRICS",
    "EQUAL_METRICS",
    "LOWER_IS_BETTER",
    "METRICS",
    "absent_classes",
    "averages",
    "best_temperature",
    "bin_of",
    "binary_metrics",
    "confusion",
    "format_change",
    "format_p_value",
    "metric_name",
    "metrics_of",
    "reliability_bins",
    "summarize",
    "upper_bound",
]

CLASS_METRICS = (
    "recall",
    "precision",
    "f1",
    "specificity",
    "auc",
    "average_precision",
    "sensitivity_at_95_specificity",
)
"""Metrics of each class. They are named `recall/mel` and so on."""

AVERAGES = (
    "accuracy",
    "balanced_accuracy",
    "precision_weighted",
    "precision_macro",
    "recall_weighted",
    "recall_macro",
    "f1_weighted",
    "f1_macro",
    "specificity_macro",
    "auc_weighted",
    "auc_macro",
    "average_precision_macro",
    "ece",
    "brier",
    "log_loss",
)
"""Metrics over all classes."""


def metrics_of(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the metrics that `summarize` returns for these classes, in its order.

    Example:
        >>> from ham10000.evaluation import metrics_of
        >>> metrics_of(["other", "mel"])[-2:]
        ('sensitivity_at_95_specificity/other', 'sensitivity_at_95_specificity/mel')
    """
    return AVERAGES + tuple(f"{metric}/{name}" for metric in CLASS_METRICS for name in classes)


def binary_metrics(classes: Sequence[str]) -> dict[str, str]:
    """Return the metrics of the positive class, the second of two, by display name.

    Example:
        >>> from ham10000.evaluation import binary_metrics
        >>> binary_metrics(["other", "mel"])["sensitivity (mel)"]
        'recall/mel'
        >>> binary_metrics(["other", "mel", "sk"])
        {}
    """
    if len(classes) != 2:
        return {}
    names = {
        "sensitivity": "recall",
        "specificity": "specificity",
        "AUC": "auc",
        "average precision": "average_precision",
    }
    return {f"{name} ({classes[1]})": f"{metric}/{classes[1]}" for name, metric in names.items()}


METRICS = metrics_of(CLASSES)
"""Names of the metrics of HAM10000."""

NUM_BINS = 15
"""Number of bins of the calibration error."""

MAX_FALSE_POSITIVE_RATE = 0.05
"""1 - specificity in `sensitivity_at_95_specificity`."""

LOWER_IS_BETTER = ("ece", "brier", "log_loss")
"""Metrics where lower values are better. All others are proportions where higher is better."""

EQUAL_METRICS = {"recall_macro": "balanced_accuracy", "recall_weighted": "accuracy"}
"""Metrics that equal another one by definition. Count only one when correcting for many tests."""

_DISPLAY_NAMES = {
    "auc": "AUC",
    "brier": "Brier score",
    "ece": "calibration error",
    "f1": "F1",
    "sensitivity_at_95_specificity": "sensitivity at 95 % specificity",
}

Floats = npt.NDArray[np.float64]


def summarize(
    targets: npt.ArrayLike, probabilities: npt.ArrayLike, classes: Sequence[str] = CLASSES
) -> dict[str, float]:
    """Compute all metrics of predictions.

    Example:
        >>> from ham10000.evaluation.metrics import summarize
        >>> sure = [[0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1, 0]]
        >>> metrics = summarize([4, 5, 4], sure)
        >>> metrics["balanced_accuracy"], metrics["recall/mel"], metrics["recall/vasc"]
        (0.75, 0.5, nan)

    Args:
        targets: (N,), indices into `classes`.
        probabilities: (N, C); each row sums to 1.
        classes: Names of the C classes.

    Returns:
        The value of each of `metrics_of(classes)`; NaN if undefined.

    Raises:
        PredictionError: A shape is wrong, there are no images, or a value is out of range.
    """
    truth, scores = _checked(targets, probabilities, len(classes))
    predicted = scores.argmax(axis=1)
    labels = list(range(len(classes)))
    counts = confusion_matrix(truth, predicted, labels=labels)
    support = counts.sum(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, predicted, labels=labels, zero_division=0.0
    )
    others = len(truth) - support
    false_positives = counts.sum(axis=0) - counts.diagonal()
    per_class: dict[str, Floats] = {
        "recall": recall,
        "precision": precision,
        "f1": f1,
        "specificity": 1 - false_positives / np.maximum(others, 1),
        "auc": np.full(len(classes), np.nan),
        "average_precision": np.full(len(classes), np.nan),
        "sensitivity_at_95_specificity": np.full(len(classes), np.nan),
    }
    per_class["specificity"][others == 0] = np.nan
    for label in labels:
        if support[label] and others[label]:
            is_positive, score = truth == label, scores[:, label]
            per_class["auc"][label] = roc_auc_score(is_positive, score)
            per_class["sensitivity_at_95_specificity"][label] = _sensitivity(is_positive, score)
        if support[label]:
            per_class["average_precision"][label] = average_precision_score(
                truth == label, scores[:, label]
            )
    for values in per_class.values():
        values[support == 0] = np.nan
    confidence, correct, size = reliability_bins(truth, scores)
    squares = (scores - np.eye(len(classes))[truth]) ** 2
    whole = scores / scores.sum(axis=1, keepdims=True)
    found = {
        "accuracy": float(accuracy_score(truth, predicted)),
        **{name: float(value) for name, value in averages(per_class, support).items()},
        "ece": float(np.nansum(size * np.abs(correct - confidence)) / size.sum()),
        "brier": float(squares.sum(axis=1).mean()),
        "log_loss": float(log_loss(truth, whole, labels=labels)),
    }
    for metric, values in per_class.items():
        found |= {f"{metric}/{name}": float(v) for name, v in zip(classes, values, strict=True)}
    return {name: found[name] for name in metrics_of(classes)}


def confusion(targets: npt.ArrayLike, probabilities: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the confusion matrix, (C, C): true classes in rows, predicted classes in columns.

    Raises:
        PredictionError: See `summarize`.
    """
    truth, scores = _checked(targets, probabilities)
    counts = confusion_matrix(truth, scores.argmax(axis=1), labels=range(scores.shape[1]))
    return np.asarray(counts, dtype=np.int64)


def absent_classes(targets: npt.ArrayLike, classes: Sequence[str] = CLASSES) -> list[str]:
    """List the classes without images, which averages leave out.

    Example:
        >>> from ham10000.evaluation.metrics import absent_classes
        >>> absent_classes([0, 1, 2, 4, 5])
        ['df', 'vasc']
    """
    there = set(np.asarray(targets).tolist())
    return [name for label, name in enumerate(classes) if label not in there]


def averages(per_class: dict[str, Floats], support: npt.ArrayLike) -> dict[str, Floats]:
    """Average metrics over the classes where they are defined.

    Args:
        per_class: (..., C) for each of `CLASS_METRICS`; NaN if undefined.
        support: (..., C), number of images of each class.

    Returns:
        (...) for each average.
    """
    weights = np.asarray(support, dtype=np.float64)
    found: dict[str, Floats] = {}
    for metric in ("precision", "recall", "f1", "auc"):
        found[f"{metric}_weighted"] = _mean(per_class[metric], weights)
    for metric in ("precision", "recall", "f1", "specificity", "auc", "average_precision"):
        found[f"{metric}_macro"] = _mean(per_class[metric], np.ones_like(weights))
    return {**found, "balanced_accuracy": found["recall_macro"]}


def reliability_bins(
    targets: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = NUM_BINS
) -> tuple[Floats, Floats, Floats]:
    """Bin images by the probability of the predicted class.

    Returns:
        For each bin: mean probability, accuracy (both NaN for an empty bin), and number of images.
    """
    truth, scores = _checked(targets, probabilities)
    confidence = scores.max(axis=1)
    right = scores.argmax(axis=1) == truth
    place = bin_of(confidence, bins)
    size = np.bincount(place, minlength=bins).astype(np.float64)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, confidence, minlength=bins) / size
        correct = np.bincount(place, right, minlength=bins) / size
    return mean, correct, size


def bin_of(confidence: Floats, bins: int = NUM_BINS) -> npt.NDArray[np.int64]:
    """Return the bin of each probability. Bin k holds the interval (k / bins, (k + 1) / bins]."""
    edges = np.arange(1, bins) / bins
    return np.searchsorted(edges, confidence, side="left").astype(np.int64)


def best_temperature(targets: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the temperature that minimizes the log loss of predictions (Guo et al., ICML 2017).

    Example:
        >>> from ham10000.evaluation import best_temperature
        >>> half_right = [[0.99, 0.01], [0.99, 0.01], [0.99, 0.01], [0.99, 0.01]]
        >>> best_temperature([0, 0, 0, 1], half_right)  # too sure
        4.18

    Args:
        targets: Indices of the true classes, (N,).
        probabilities: Predicted probabilities, (N, C).
    """
    scores = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), 1e-12))
    rows = np.arange(len(scores))

    def loss(exponent: float) -> float:
        scaled = scores / np.exp(exponent)
        return float((logsumexp(scaled, axis=1) - scaled[rows, np.asarray(targets)]).mean())

    return round(float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)), 2)


def metric_name(metric: str) -> str:
    """Return the display name of a metric.

    Example:
        >>> from ham10000.evaluation import metric_name
        >>> metric_name("auc_weighted"), metric_name("recall/mel")
        ('weighted AUC', 'recall of mel')
    """
    metric, _, label = metric.partition("/")
    kind, _, average = metric.rpartition("_")
    if average not in ("weighted", "macro"):
        kind, average = metric, ""
    name = f"{average} {_DISPLAY_NAMES.get(kind, kind.replace('_', ' '))}".strip()
    if kind == "sensitivity_at_95_specificity" and label:
        return f"sensitivity for {label} at 95 % specificity"
    return f"{name} of {label}" if label else name


def format_p_value(p_value: float) -> str:
    """Return a p-value as text.

    Example:
        >>> from ham10000.evaluation import format_p_value
        >>> format_p_value(0.0312), format_p_value(0.00002)
        ('0.031', '<.001')
    """
    return "<.001" if p_value < 0.001 else f"{p_value:.3f}"


def format_change(value: float, digits: int, sign: Literal["+", "-"] = "+") -> str:
    """Return a difference as text. A value that rounds to zero has no sign.

    Example:
        >>> from ham10000.evaluation import format_change
        >>> format_change(0.0123, 3), format_change(-0.00004, 4), format_change(0.5, 1, "-")
        ('+0.012', '0.0000', '0.5')

    Args:
        value: The difference.
        digits: Number of decimal places.
        sign: "-" to sign negative values only, as for the limits of an interval.
    """
    text = f"{value:{sign}z.{digits}f}"
    return text.removeprefix("+") if float(text) == 0 else text


def upper_bound(metric: str) -> float:
    """Return the largest possible value of a metric; the smallest is 0.

    Example:
        >>> from ham10000.evaluation import upper_bound
        >>> upper_bound("accuracy"), upper_bound("brier"), upper_bound("log_loss")
        (1.0, 2.0, inf)
    """
    return {"brier": 2.0, "log_loss": np.inf}.get(metric, 1.0)


def _sensitivity(is_positive: npt.NDArray[np.bool_], score: Floats) -> float:
    false_positive, true_positive, _ = roc_curve(is_positive, score, drop_intermediate=False)
    return float(true_positive[false_positive <= MAX_FALSE_POSITIVE_RATE].max())


def _mean(values: Floats, weights: Floats) -> Floats:
    known = np.isfinite(values)
    weights = np.where(known, weights, 0.0)
    total = np.where(known, values * weights, 0.0).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / weights.sum(axis=-1))


def _checked(
    targets: npt.ArrayLike, probabilities: npt.ArrayLike, num_classes: int | None = None
) -> tuple[npt.NDArray[np.int64], Floats]:
    truth, scores = np.asarray(targets), np.asarray(probabilities, dtype=np.float64)
    if num_classes is None:
        num_classes = scores.shape[-1] if scores.ndim == 2 else len(CLASSES)
    if truth.ndim != 1 or len(truth) == 0 or scores.shape != (len(truth), num_classes):
        raise PredictionError(
            f"measuring predictions: targets and probabilities have the shapes {truth.shape} and "
            f"{scores.shape}. Expected (N,) and (N, {num_classes}), with at least one image."
        )
    if truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= num_classes:
        raise PredictionError(
            f"measuring predictions: targets are {truth.dtype} from {truth.min()} to "
            f"{truth.max()}. Expected integers from 0 to {num_classes - 1}, indices of the classes."
        )
    wrong = ~(np.isfinite(scores).all(axis=1) & (np.abs(scores.sum(axis=1) - 1) <= 1e-2))
    if wrong.any():
        raise PredictionError(
            f"measuring predictions: image {int(wrong.argmax())} has the probabilities "
            f"{scores[wrong][0].round(4).tolist()} ({int(wrong.sum())} such images). Expected "
            "finite values that sum to 1, such as the softmax of finite logits."
        )
    return truth.astype(np.int64), scores
