from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from isic_challenge_scoring import metrics
from isic_challenge_scoring.classification import ClassificationMetric, ClassificationScore

from ham10000.errors import PredictionError
from ham10000.evaluation import (
    Predictions,
    challenge_scores,
    challenge_table,
    make_predictions,
    summarize,
    write_challenge,
)
from ham10000.evaluation.isic2017 import SENSITIVITIES, TASKS

# Code of the official scorer.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def both(count: int = 120, seed: int = 0, digits: int = 3) -> list[Predictions]:
    """Predictions of both tasks, the images in different orders; rounding makes ties."""
    draw = np.random.default_rng(seed)
    diagnosis = draw.choice(["nv", "mel", "sk"], count, p=[0.6, 0.2, 0.2])
    found = []
    for positive in ("mel", "sk"):
        order = draw.permutation(count)
        score = draw.beta(2, 3, count) + 0.3 * (diagnosis[order] == positive)
        score = np.clip(score, 0, 1).round(digits)
        rows = [
            (f"I{n:03}", f"I{n:03}", positive if diagnosis[n] == positive else "other", "test")
            for n in order
        ]
        scores = np.stack([1 - score, score], 1)
        found.append(make_predictions(rows, scores, classes=["other", positive]))
    return found


def truth(predictions: list[Predictions]) -> pd.DataFrame:
    columns = {}
    for task, each in zip(TASKS, predictions, strict=True):
        columns[task] = each.table.set_index("image_id")["dx"].eq(each.classes[1]).astype(float)
    return pd.DataFrame(columns).sort_index()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_are_the_official_scorers(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # It simplifies its curves with a package that does not work with NumPy 2.5.
    monkeypatch.setattr(metrics, "rdp", lambda points, **_: np.ones(len(points), dtype=bool))
    predictions = both(seed=seed)
    expected = truth(predictions)
    weights = pd.DataFrame(1.0, expected.index, ["score_weight", "validation_weight"])
    given = challenge_table(predictions).set_index("image_id")
    official = ClassificationScore(expected, given, weights, ClassificationMetric.AUC)
    found = challenge_scores(predictions)
    names = {"average precision": "ap", "AUC": "auc"}
    for name in ("accuracy", "sensitivity", "specificity", *names):
        theirs = official.per_category[names.get(name, name)]
        assert found.loc[name, list(TASKS)].to_numpy() == pytest.approx(theirs.to_numpy())
        assert found.loc[name, "mean"] == pytest.approx(theirs.mean())
    assert official.overall == pytest.approx(found.loc["AUC", "mean"])


@pytest.mark.parametrize("digits", [1, 3])
def test_specificity_at_a_sensitivity_from_its_definition(digits: int) -> None:
    """The newer scorer has no such metric, so every threshold is tried."""
    predictions = both(seed=5, digits=digits)
    found = challenge_scores(predictions)
    for task, each in zip(TASKS, predictions, strict=True):
        score, positive = each.probabilities[:, 1], each.targets == 1
        for sensitivity in SENSITIVITIES:
            thresholds = sorted(set(score), reverse=True)
            first = next(t for t in thresholds if (score[positive] >= t).mean() >= sensitivity)
            expected = (score[~positive] < first).mean()
            name = f"specificity at {100 * sensitivity:.0f} % sensitivity"
            assert found.loc[name, task] == pytest.approx(expected)


def test_the_metrics_of_an_evaluation_agree() -> None:
    for task, each in zip(TASKS, both(), strict=True):
        found = challenge_scores(both())[task]
        ours = summarize(each.targets, each.probabilities, each.classes)
        positive = each.classes[1]
        assert found["AUC"] == pytest.approx(ours[f"auc/{positive}"])
        assert found["sensitivity"] == pytest.approx(ours[f"recall/{positive}"])
        assert found["average precision"] == pytest.approx(ours[f"average_precision/{positive}"])


def test_a_submission_has_one_row_for_each_image_and_no_header(tmp_path: Path) -> None:
    predictions = both(count=30)
    write_challenge(predictions[::-1], tmp_path / "s.csv")
    table = pd.read_csv(tmp_path / "s.csv", header=None, names=["image_id", *TASKS])
    assert table["image_id"].tolist() == [f"I{n:03}" for n in range(30)]
    pd.testing.assert_frame_equal(table, challenge_table(predictions))


def test_scores_of_a_class_that_is_absent_are_undefined() -> None:
    rows = [(f"I{n}", f"I{n}", "other", "test") for n in range(3)]
    none = [make_predictions(rows, [[0.8, 0.2]] * 3, classes=["other", c]) for c in ("mel", "sk")]
    found = challenge_scores(none)
    assert found.loc["specificity", "mean"] == found.loc["accuracy", "mean"] == 1
    assert found.drop(["accuracy", "specificity"]).isna().all(axis=None)


def test_other_predictions_are_refused() -> None:
    melanoma, keratosis = both(count=30)
    for wrong in ([melanoma], [melanoma, melanoma], [melanoma, keratosis, keratosis]):
        with pytest.raises(PredictionError, match="one with the classes other, mel and one with"):
            challenge_scores(wrong)
    fewer = Predictions(keratosis.table.iloc[1:])
    with pytest.raises(PredictionError, match="no row for the image I"):
        challenge_table([melanoma, fewer])
    with pytest.raises(PredictionError, match=r"the other task .* With data\.protocol=published"):
        challenge_table([melanoma, fewer])
