import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ham10000.data import CLASSES
from ham10000.errors import PredictionError
from ham10000.evaluation import Predictions, summarize, write_predictions
from ham10000.statistics import Estimate
from ham10000.study.plan import PlannedRun, StudyPlan
from ham10000.study.summary import check_test_images, read_study, summarize_study, verdict
from ham10000.training import RunDir

PLAN = StudyPlan(("bare", "sa"), (0, 1, 2), None, "balanced_accuracy")


def made_up(skill: float, seed: int, images: int = 210, classes: int = 7) -> Predictions:
    """Predictions of a model that is correct more often the larger its skill."""
    truth = np.arange(images) % classes
    noise = np.random.default_rng([seed, round(1000 * skill)]).standard_normal((images, 7))
    logits = noise + skill * np.eye(7)[truth]
    odds = np.exp(logits)
    table = pd.DataFrame(
        {
            "image_id": [f"ISIC_{number:07d}" for number in range(images)],
            "lesion_id": [f"HAM_{number // 2 * 2 + number % 2:07d}" for number in range(images)],
            "dx": [CLASSES[label] for label in truth],
            "split": "test",
        }
    )
    shares = odds / odds.sum(axis=1, keepdims=True)
    return Predictions(pd.concat([table, pd.DataFrame(shares, columns=list(CLASSES))], axis=1))


def answers(skills: dict[str, float], **kwargs: int) -> dict[tuple[str, int], Predictions]:
    return {
        (recipe, seed): made_up(skills[recipe], seed, **kwargs)
        for recipe in PLAN.recipes
        for seed in PLAN.seeds
    }


def test_values_are_those_of_the_runs() -> None:
    given = answers({"bare": 1.0, "sa": 1.5})
    found = summarize_study(PLAN, given)
    for recipe in PLAN.recipes:
        expected = [
            summarize(one.targets, one.probabilities)["auc_macro"]
            for one in (given[recipe, seed] for seed in PLAN.seeds)
        ]
        assert found["metrics"]["auc_macro"][recipe]["values"] == expected
    change = found["comparison"]["auc_macro"]
    means = {r: found["metrics"]["auc_macro"][r]["mean"] for r in PLAN.recipes}
    assert change["difference"] == pytest.approx(means["sa"] - means["bare"], abs=1e-12)


def test_a_better_recipe_is_found_better() -> None:
    found = summarize_study(PLAN, answers({"bare": 0.5, "sa": 3.0}))
    assert "sa is better" in found["verdict"]
    assert found["comparison"]["brier"]["high"] < 0


def test_equal_recipes_are_not_distinguished() -> None:
    found = summarize_study(PLAN, answers({"bare": 1.0, "sa": 1.0001}))
    assert "equivalent" in found["verdict"]


def test_a_recipe_compared_with_itself_changes_nothing() -> None:
    given = answers({"bare": 1.0, "sa": 1.0})
    for seed in PLAN.seeds:
        given["sa", seed] = given["bare", seed]
    change = summarize_study(PLAN, given)["comparison"]["accuracy"]
    assert (change["difference"], change["p"]) == (0, 1)
    assert -0.005 < change["low"] <= 0 <= change["high"] < 0.005


def test_intervals_stay_within_what_is_possible() -> None:
    found = summarize_study(PLAN, answers({"bare": 2.0, "sa": 9.0}, images=42))
    for name, by_recipe in found["metrics"].items():
        for estimated in by_recipe.values():
            assert 0 <= estimated["low"] <= estimated["high"], name
            assert estimated["high"] <= 1 or name in ("brier", "log_loss")
    for name, change in found["comparison"].items():
        assert name in ("brier", "log_loss") or -1 <= change["low"] <= change["high"] <= 1


def test_few_lesions_that_all_are_found_leave_room() -> None:
    """Six of six in each run has no spread over lesions or seeds, but the interval is wide."""
    found = summarize_study(PLAN, answers({"bare": 9.0, "sa": 9.0}, images=42))
    estimated = found["metrics"]["recall/df"]["sa"]
    assert (estimated["mean"], estimated["std"], estimated["high"]) == (1.0, 0.0, 1.0)
    assert estimated["low"] == pytest.approx(6 / (6 + 1.959964**2), abs=1e-6)  # Wilson, by hand


def test_only_metrics_other_than_the_primary_one_are_corrected() -> None:
    found = summarize_study(PLAN, answers({"bare": 1.0, "sa": 1.4}))["comparison"]
    assert found["balanced_accuracy"]["p_holm"] == found["balanced_accuracy"]["p"]
    assert all(change["p_holm"] >= change["p"] for change in found.values())
    least = min((n for n in found if "/" in n), key=lambda name: found[name]["p"])
    assert found[least]["p_holm"] > found[least]["p"]


def test_metrics_of_a_class_that_is_absent_are_named() -> None:
    found = summarize_study(PLAN, answers({"bare": 1.0, "sa": 1.4}, classes=6))
    assert "recall/vasc" in found["undefined"]
    assert "recall/vasc" not in found["metrics"]


def test_folds_are_put_together(tmp_path: Path) -> None:
    plan = replace(PLAN, folds=2, seeds=(0, 1))
    whole = made_up(1.0, 0)
    for run in plan.runs:
        half = whole.table.iloc[run.fold :: 2].reset_index(drop=True)
        write_predictions(Predictions(half), RunDir(tmp_path / run.folder).predictions())
    read = read_study(plan, tmp_path)
    assert len(read) == 4
    np.testing.assert_allclose(read["sa", 1].probabilities, whole.probabilities, atol=1e-9)


def test_runs_that_saw_other_images_are_refused(tmp_path: Path) -> None:
    plan = replace(PLAN, seeds=(0, 1))
    for number, run in enumerate(plan.runs):
        images = 200 if number == 3 else 210
        path = RunDir(tmp_path / run.folder).predictions()
        write_predictions(made_up(1.0, number, images), path)
    with pytest.raises(PredictionError, match=r"sa with seed 1 .* different images \(10 images"):
        read_study(plan, tmp_path)


def change(mean: float, low: float, high: float) -> Estimate:
    return Estimate(mean, 0.01, low, high, 0.01, (mean, mean))


@pytest.mark.parametrize(
    ("metric", "difference", "expected"),
    [
        ("accuracy", change(0.02, 0.01, 0.03), r"accuracy by \+2.0 points.*: sa is better"),
        ("accuracy", change(-0.02, -0.03, -0.01), r"accuracy by -2.0 points.*: sa is worse"),
        ("accuracy", change(0.02, -0.01, 0.05), "-1.0 to 5.0: undecided"),
        ("accuracy", change(0.0, 0.0, 0.0), "undecided"),
        ("brier", change(0.02, 0.01, 0.03), r"Brier score by \+0.020,.*: sa is worse"),
        ("log_loss", change(-0.02, -0.03, -0.01), "log loss by -0.020.*: sa is better"),
        ("f1_macro", change(0.001, -0.001, 0.003), r"changed macro F1 by \+0.1 points"),
        ("auc_weighted", change(0.001, -0.001, 0.003), r"weighted AUC by \+0.1 points"),
    ],
)
def test_the_sentence_follows_from_the_interval(
    metric: str, difference: Estimate, expected: str
) -> None:
    assert re.search(expected, verdict(metric, "bare", "sa", difference))


@pytest.mark.parametrize(
    ("metric", "difference", "expected"),
    [
        (
            "accuracy",
            change(0.002, -0.009, 0.009),
            "as any difference is below 1 percentage point.$",
        ),
        ("accuracy", change(0.005, 0.001, 0.009), "equivalent"),
        ("accuracy", change(0.005, 0.001, 0.011), "sa is better"),
        ("accuracy", change(0.002, -0.011, 0.009), "undecided"),
        ("brier", change(0.002, -0.009, 0.009), r"any difference is below 0\.01"),
    ],
)
def test_an_interval_within_the_margin_is_equivalent(
    metric: str, difference: Estimate, expected: str
) -> None:
    assert re.search(expected, verdict(metric, "bare", "sa", difference, margin=0.01))


def test_planned_looks_share_the_level_and_later_ones_are_exploratory() -> None:
    given = answers({"bare": 1.0, "sa": 1.4})
    single = summarize_study(PLAN, given)
    assert single["look"] == {"number": 1, "level": 0.05, "exploratory": False}
    assert "95 % interval" in single["verdict"]
    double = replace(PLAN, looks=2)
    second = summarize_study(double, given, look=2)
    assert second["look"] == {"number": 2, "level": 0.025, "exploratory": False}
    assert second["verdict"].startswith("Look 2 of 2: sa instead of bare")
    assert "97.5 % interval" in second["verdict"]
    # The tables keep 95 % intervals.
    assert second["comparison"] == single["comparison"]
    third = summarize_study(double, given, look=3)
    assert third["look"] == {"number": 3, "level": 0.05, "exploratory": True}
    assert third["verdict"].startswith("Exploratory (look 3, after 2 planned looks): sa")


def test_test_images_are_compared_with_the_split(tmp_path: Path) -> None:
    run = PlannedRun("bare", 0)
    predictions = made_up(1.0, 0, images=42)
    write_predictions(predictions, RunDir(tmp_path / run.folder).predictions())
    split = predictions.table[["image_id", "lesion_id", "dx", "split"]]
    trained = split.assign(image_id=split["image_id"] + "b", split="train")
    pd.concat([split, trained]).to_csv(tmp_path / "split.csv", index=False)
    check_test_images([run], tmp_path)
    pd.concat([split[:-1], trained]).to_csv(tmp_path / "split.csv", index=False)
    with pytest.raises(PredictionError, match=r"the test set of .*split\.csv"):
        check_test_images([run], tmp_path)
