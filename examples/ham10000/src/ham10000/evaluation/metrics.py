"""What is measured: one function from truths and probabilities to named numbers.

Scikit-learn computes what it has. What a metric is here, where conventions differ:

- The predicted class is that of the largest probability; of equal ones, the first in `CLASSES`.
- A class without an image in the truth has no metrics: they are NaN, and the averages (`_macro`,
  `_weighted`, `balanced_accuracy`) are over the other classes. `absent_classes` lists it, and
  whoever prints an average prints that list too.
- A class that is there and never predicted has a precision of 0, scikit-learn's convention.
- `auc`, `average_precision` and `sensitivity_at_95_specificity` are one class against the rest,
  by its probability. The last is the largest sensitivity of a threshold that at most 5 % of the
  other classes' images reach; nothing is interpolated.
- `ece` is the expected calibration error of the predicted class: 15 bins of equal width, each open
  below and closed above, weighted by how many images are in them (Guo et al., ICML 2017).
- `brier` is the sum over the classes of the squared error, averaged over images: from 0 to 2.
"""

import numpy as np
import numpy.typing as npt
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
    "CLASS_METRICS",
    "METRICS",
    "absent_classes",
    "averages",
    "bin_of",
    "confusion",
    "reliability_bins",
    "summarize",
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
"""What is measured of each class, under the names `recall/mel` and so on."""

METRICS = (
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
    *(f"{metric}/{name}" for metric in CLASS_METRICS for name in CLASSES),
)
"""The names that `summarize` gives, in this order."""

NUM_BINS = 15
"""How many bins the calibration error has."""

MAX_FALSE_POSITIVE_RATE = 0.05
"""What is left of a specificity of 95 %."""

Floats = npt.NDArray[np.float64]


def summarize(targets: npt.ArrayLike, probabilities: npt.ArrayLike) -> dict[str, float]:
    """Measure predictions.

    Example:
        >>> from ham10000.evaluation.metrics import summarize
        >>> sure = [[0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1, 0]]
        >>> metrics = summarize([4, 5, 4], sure)
        >>> metrics["balanced_accuracy"], metrics["recall/mel"], metrics["recall/vasc"]
        (0.75, 0.5, nan)

    Args:
        targets: (N,), places in `CLASSES`.
        probabilities: (N, 7); each row sums to 1.

    Returns:
        A number for each of `METRICS`; NaN for what is undefined.

    Raises:
        PredictionError: a shape is wrong, there is no image, or a value is out of range.
    """
    truth, scores = _checked(targets, probabilities)
    predicted = scores.argmax(axis=1)
    labels = list(range(len(CLASSES)))
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
        "auc": np.full(len(CLASSES), np.nan),
        "average_precision": np.full(len(CLASSES), np.nan),
        "sensitivity_at_95_specificity": np.full(len(CLASSES), np.nan),
    }
    per_class["specificity"][others == 0] = np.nan
    for label in labels:
        if support[label] and others[label]:
            is_it, score = truth == label, scores[:, label]
            per_class["auc"][label] = roc_auc_score(is_it, score)
            per_class["sensitivity_at_95_specificity"][label] = _sensitivity(is_it, score)
        if support[label]:
            per_class["average_precision"][label] = average_precision_score(
                truth == label, scores[:, label]
            )
    for values in per_class.values():
        values[support == 0] = np.nan
    confidence, correct, size = reliability_bins(truth, scores)
    squares = (scores - np.eye(len(CLASSES))[truth]) ** 2
    whole = scores / scores.sum(axis=1, keepdims=True)
    found = {
        "accuracy": float(accuracy_score(truth, predicted)),
        **{name: float(value) for name, value in averages(per_class, support).items()},
        "ece": float(np.nansum(size * np.abs(correct - confidence)) / size.sum()),
        "brier": float(squares.sum(axis=1).mean()),
        "log_loss": float(log_loss(truth, whole, labels=labels)),
    }
    for metric, values in per_class.items():
        found |= {f"{metric}/{name}": float(v) for name, v in zip(CLASSES, values, strict=True)}
    return {name: found[name] for name in METRICS}


def confusion(targets: npt.ArrayLike, probabilities: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Count images by true class (rows) and predicted class (columns): (7, 7).

    Raises:
        PredictionError: see `summarize`.
    """
    truth, scores = _checked(targets, probabilities)
    counts = confusion_matrix(truth, scores.argmax(axis=1), labels=range(len(CLASSES)))
    return np.asarray(counts, dtype=np.int64)


def absent_classes(targets: npt.ArrayLike) -> list[str]:
    """List the classes that no image has: what the averages leave out.

    Example:
        >>> from ham10000.evaluation.metrics import absent_classes
        >>> absent_classes([0, 1, 2, 4, 5])
        ['df', 'vasc']
    """
    there = set(np.asarray(targets).tolist())
    return [name for label, name in enumerate(CLASSES) if label not in there]


def averages(per_class: dict[str, Floats], support: npt.ArrayLike) -> dict[str, Floats]:
    """Average metrics of classes over the classes that have them.

    Args:
        per_class: (..., 7) for each of `CLASS_METRICS`, NaN where undefined.
        support: (..., 7), how many images each class has.

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
    """Sort images into bins by the probability of the predicted class.

    Returns:
        For each bin: mean probability, share of right predictions (both NaN where it is empty),
        and how many images it holds.
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
    """Say in which bin each probability is: bin k holds those in (k / bins, (k + 1) / bins]."""
    edges = np.arange(1, bins) / bins
    return np.searchsorted(edges, confidence, side="left").astype(np.int64)


def _sensitivity(is_it: npt.NDArray[np.bool_], score: Floats) -> float:
    false_positive, true_positive, _ = roc_curve(is_it, score, drop_intermediate=False)
    return float(true_positive[false_positive <= MAX_FALSE_POSITIVE_RATE].max())


def _mean(values: Floats, weights: Floats) -> Floats:
    known = np.isfinite(values)
    weights = np.where(known, weights, 0.0)
    total = np.where(known, values * weights, 0.0).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / weights.sum(axis=-1))


def _checked(
    targets: npt.ArrayLike, probabilities: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], Floats]:
    truth, scores = np.asarray(targets), np.asarray(probabilities, dtype=np.float64)
    if truth.ndim != 1 or len(truth) == 0 or scores.shape != (len(truth), len(CLASSES)):
        raise PredictionError(
            f"measuring predictions: targets and probabilities have the shapes {truth.shape} and "
            f"{scores.shape}. Expected (N,) and (N, {len(CLASSES)}), with at least one image."
        )
    if truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= len(CLASSES):
        raise PredictionError(
            f"measuring predictions: targets are {truth.dtype} from {truth.min()} to "
            f"{truth.max()}. Expected whole numbers from 0 to {len(CLASSES) - 1}, places in "
            f"{', '.join(CLASSES)}."
        )
    wrong = ~(np.isfinite(scores).all(axis=1) & (np.abs(scores.sum(axis=1) - 1) <= 1e-2))
    if wrong.any():
        raise PredictionError(
            f"measuring predictions: image {int(wrong.argmax())} has the probabilities "
            f"{scores[wrong][0].round(4).tolist()} ({int(wrong.sum())} such images). Expected "
            "finite numbers that sum to 1: a softmax of scores, from a model that hasn't diverged."
        )
    return truth.astype(np.int64), scores
