"""Submission and scores of the ISIC 2017 challenge, Part 3: two binary tasks on the same images.

The scores are those of the challenge's own scorer of 2017. Its class is positive above a
probability of 0.5, and its specificity at a sensitivity is that of the first point of
scikit-learn's ROC curve whose sensitivity is at least as large. The challenge ranked by the mean of
both AUCs.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from ham10000.data import DATASETS
from ham10000.errors import PredictionError
from ham10000.evaluation.predictions import Predictions, check_images
from ham10000.utils import write_text

__all__ = [
    "CHALLENGE_IMAGES",
    "SENSITIVITIES",
    "TASKS",
    "challenge_scores",
    "challenge_table",
    "write_challenge",
]

TASKS = {
    "melanoma": DATASETS["isic2017-melanoma"],
    "seborrheic_keratosis": DATASETS["isic2017-keratosis"],
}
"""Descriptions of the tasks by name in the challenge, in the order of a submission."""

CHALLENGE_IMAGES = 600
"""Test images of the challenge."""

SENSITIVITIES = (0.82, 0.89, 0.95)
"""Sensitivities at which the challenge gives the specificity."""


def challenge_table(predictions: Sequence[Predictions]) -> pd.DataFrame:
    """Return the table of a submission: image_id, and the probability of each task.

    Example:
        >>> from ham10000.evaluation import challenge_table, make_predictions
        >>> images = [("I1", "L1", "other", "test"), ("I2", "L2", "other", "test")]
        >>> melanoma = make_predictions(images, [[0.75, 0.25], [1, 0]], classes=["other", "mel"])
        >>> keratosis = make_predictions(images, [[0.5, 0.5], [1, 0]], classes=["other", "sk"])
        >>> print(challenge_table([melanoma, keratosis]).to_csv(index=False))
        image_id,melanoma,seborrheic_keratosis
        I1,0.25,0.5
        I2,0.0,0.0

    Args:
        predictions: Those of both tasks, in any order.

    Raises:
        PredictionError: There are not exactly the two tasks, or their images differ.
    """
    columns = {
        task: each.table.set_index("image_id")[each.classes[1]]
        for task, each in _by_task(predictions).items()
    }
    # Rounding can leave a probability just above 1, which the challenge rejects.
    return pd.DataFrame(columns).clip(upper=1.0).sort_index().reset_index()


def write_challenge(predictions: Sequence[Predictions], path: Path) -> None:
    """Write a submission atomically. It has no header: the scorer of 2017 reads each row as one.

    Raises:
        PredictionError: See `challenge_table`.
        WriteError: The file can't be written.
    """
    table = challenge_table(predictions)
    write_text(path, table.to_csv(index=False, header=False, lineterminator="\n"))


def challenge_scores(predictions: Sequence[Predictions]) -> pd.DataFrame:
    """Compute what the challenge's scorer of 2017 prints.

    Args:
        predictions: Those of both tasks, in any order.

    Returns:
        A column for each task, and "mean". Scores that need both classes are NaN without them.

    Raises:
        PredictionError: See `challenge_table`.
    """
    found = {
        task: _scores(each.targets == 1, each.probabilities[:, 1])
        for task, each in _by_task(predictions).items()
    }
    scores = pd.DataFrame(found)
    return scores.assign(mean=scores.mean(axis=1, skipna=False))


def _by_task(predictions: Sequence[Predictions]) -> dict[str, Predictions]:
    found = {}
    for task, info in TASKS.items():
        of_task = [each for each in predictions if each.classes == info.classes]
        if len(of_task) != 1 or len(predictions) != len(TASKS):
            have = "; ".join(", ".join(each.classes) for each in predictions)
            raise PredictionError(
                "submitting to ISIC 2017: expected predictions of its two tasks, one with the "
                "classes other, mel and one with other, sk. Found predictions with the classes "
                f"{have}. Pass a run of each task."
            )
        found[task] = of_task[0]
    first, second = found.values()
    whose = f"the other task ({first.source})"
    try:
        check_images(second, first.table[["image_id"]], whose)
    except PredictionError as error:
        raise PredictionError(
            f"{error} With data.protocol=published, both are the same."
        ) from error
    return found


def _scores(is_positive: npt.NDArray[np.bool_], score: npt.NDArray[np.float64]) -> dict[str, float]:
    predicted = score > 0.5
    some, both = is_positive.any(), is_positive.any() and not is_positive.all()
    found = {
        "accuracy": float((predicted == is_positive).mean()),
        "sensitivity": float(predicted[is_positive].mean()) if some else np.nan,
        "specificity": float(1 - predicted[~is_positive].mean())
        if not is_positive.all()
        else np.nan,
        "average precision": float(average_precision_score(is_positive, score)) if some else np.nan,
        "AUC": float(roc_auc_score(is_positive, score)) if both else np.nan,
    }
    for sensitivity in SENSITIVITIES:
        name = f"specificity at {sensitivity:.0%} sensitivity".replace("%", " %")
        found[name] = _specificity(is_positive, score, sensitivity) if both else np.nan
    return found


def _specificity(
    is_positive: npt.NDArray[np.bool_], score: npt.NDArray[np.float64], sensitivity: float
) -> float:
    false_rates, true_rates, _ = roc_curve(is_positive, score)
    return float(1 - false_rates[np.argmax(true_rates >= sensitivity)])
