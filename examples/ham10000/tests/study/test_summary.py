import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ham10000.data import CLASSES
from ham10000.errors import PredictionError
from ham10000.evaluation import Cells, Predictions, summarize, write_predictions
from ham10000.recipe import Recipe
from ham10000.statistics import Verdict, estimate_cells, holm
from ham10000.study.plan import PlannedRun, StudyPlan, make_plan
from ham10000.study.summary import (
    check_test_images,
    describe_verdict,
    read_study,
    summarize_study,
)
from ham10000.training import RunDir

PLAN = make_plan([Recipe("bare"), Recipe("se"), Recipe("sa")], range(6), None)

IMAGES = 84


def made_up(
    skill: float, seed: int, fold: int = 0, images: int = IMAGES, classes: int = 7
) -> Predictions:
    """Predictions of a model that is correct more often the larger its skill."""
    truth = np.arange(images) % classes
    noise = np.random.default_rng([seed, fold]).standard_normal((images, 7))
    logits = noise + skill * np.eye(7)[truth]
    odds = np.exp(logits)
    table = pd.DataFrame(
        {
            "image_id": [f"ISIC_{1000 * fold + number:07d}" for number in range(images)],
            "lesion_id": [f"HAM_{1000 * fold + number:07d}" for number in range(images)],
            "dx": [CLASSES[label] for label in truth],
            "split": "test",
        }
    )
    shares = odds / odds.sum(axis=1, keepdims=True)
    return Predictions(pd.concat([table, pd.DataFrame(shares, columns=list(CLASSES))], axis=1))


def cells(
    skills: dict[str, float], folds: int = 1, **kwargs: int
) -> dict[str, dict[tuple[int, int], Predictions]]:
    """Recipes of equal skill make equal predictions."""
    return {
        recipe: {
            (fold, seed): made_up(skill, seed, fold, **kwargs)
            for fold in range(folds)
            for seed in PLAN.seeds
        }
        for recipe, skill in skills.items()
    }


def result(plan: StudyPlan, given: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    kept: dict[str, Cells] = {
        recipe: {key: one for key, one in runs.items() if key[1] in plan.seeds}
        for recipe, runs in given.items()
    }
    return summarize_study(plan, kept, resamples=30, **kwargs)


def test_values_are_those_of_the_runs() -> None:
    given = cells({"bare": 1.0, "se": 1.2, "sa": 1.5}, folds=2)
    found = result(replace(PLAN, folds=2), given)
    for recipe in PLAN.recipes:
        expected = [
            [summarize(one.targets, one.probabilities)["auc_macro"] for one in row]
            for row in ([given[recipe][fold, seed] for seed in PLAN.seeds] for fold in range(2))
        ]
        measured = found["metrics"]["auc_macro"][recipe]
        assert measured["values"] == expected
        assert measured["mean"] == pytest.approx(np.mean(expected))
        # Over seeds within folds: a difference between folds adds nothing.
        assert measured["std"] ** 2 == pytest.approx(np.var(expected, axis=1, ddof=1).mean())
    means = {r: found["metrics"]["auc_macro"][r]["mean"] for r in PLAN.recipes}
    for arm in ("se", "sa"):
        change = found["comparisons"][arm]["auc_macro"]
        assert change["mean"] == pytest.approx(means[arm] - means["bare"], abs=1e-12)
    assert (found["images"], found["lesions"]) == (2 * IMAGES, 2 * IMAGES)


def test_each_arm_has_its_verdict() -> None:
    found = result(PLAN, cells({"bare": 1.0, "se": 1.0, "sa": 3.0}))
    assert "sa instead of bare changed macro AUC by +" in found["verdicts"]["sa"]
    assert found["verdicts"]["sa"].endswith("sa is better.")
    assert found["comparisons"]["sa"]["brier"]["outcome"] == "better"
    assert found["comparisons"]["sa"]["brier"]["high"] < 0
    assert found["comparisons"]["se"]["auc_macro"]["outcome"] == "equivalent"
    assert found["verdicts"]["se"].endswith(
        "equivalent, as any difference is below 0.5 percentage points."
    )


def test_another_recipe_can_be_the_control() -> None:
    given = cells({"bare": 0.5, "se": 0.5, "sa": 3.0})
    found = result(replace(PLAN, control="sa", arms=("bare", "se")), given)
    assert found["verdicts"]["bare"].endswith("bare is worse.")
    assert found["comparisons"].keys() == {"bare", "se"}


def test_too_few_runs_have_no_intervals_and_say_what_is_needed() -> None:
    plan = replace(PLAN, seeds=(0, 1))
    found = result(plan, cells({"bare": 0.5, "se": 0.5, "sa": 3.0}))
    assert found["verdicts"]["sa"] == (
        "sa instead of bare: too few runs for a verdict on macro AUC. 1 fold with 2 seeds has 1 "
        "degree of freedom, fewer than 5; 6 seeds or 5 folds are needed."
    )
    for name, change in found["comparisons"]["sa"].items():
        assert [change[key] for key in ("low", "high", "p", "p_holm")] == [None] * 4
        if name in plan.margins:
            assert change["outcome"] == "too few runs"
    assert found["comparisons"]["sa"]["auc_macro"]["mean"] > 0


@pytest.mark.parametrize(("folds", "seeds"), [(None, 6), (3, 3), (5, 2)])
def test_the_fewest_runs_for_a_verdict(folds: int | None, seeds: int) -> None:
    assert replace(PLAN, folds=folds, seeds=tuple(range(seeds))).enough_runs
    assert not replace(PLAN, folds=folds, seeds=tuple(range(seeds - 1))).enough_runs


def test_a_recipe_compared_with_itself_changes_nothing() -> None:
    found = result(PLAN, cells({"bare": 1.0, "se": 1.0, "sa": 1.0}))
    change = found["comparisons"]["sa"]["accuracy"]
    assert (change["mean"], change["low"], change["high"], change["p"]) == (0, 0, 0, 1)


def test_p_values_are_adjusted_over_arms_and_distinct_metrics() -> None:
    found = result(PLAN, cells({"bare": 1.0, "se": 1.1, "sa": 1.3}))
    changes = found["comparisons"]
    for family in ([PLAN.primary], list(PLAN.secondaries)):
        p = {(arm, name): changes[arm][name]["p"] for arm in PLAN.arms for name in family}
        for (arm, name), expected in holm(p).items():
            assert changes[arm][name]["p_holm"] == pytest.approx(expected)
    for arm in PLAN.arms:
        planned, equal = (changes[arm][n]["p_holm"] for n in ("balanced_accuracy", "recall_macro"))
        assert planned == equal
        assert "outcome" not in changes[arm]["recall_macro"]
    # The most significant of the other metrics is multiplied by their number, equal ones once.
    others = [
        change
        for arm in PLAN.arms
        for name, change in changes[arm].items()
        if name not in (*PLAN.margins, "recall_macro", "recall_weighted")
    ]
    least = min(others, key=lambda change: change["p"])
    assert least["p_holm"] == pytest.approx(min(1, least["p"] * len(others)))


def test_metrics_of_a_class_that_is_absent_are_named() -> None:
    found = result(PLAN, cells({"bare": 1.0, "se": 1.0, "sa": 1.4}, classes=6))
    assert "recall/vasc" in found["undefined"]
    assert "recall/vasc" not in found["metrics"]


def test_without_the_primary_metric_there_is_no_verdict() -> None:
    plan = replace(PLAN, primary="auc/vasc", margins={**PLAN.margins, "auc/vasc": 0.01})
    found = result(plan, cells({"bare": 1.0, "se": 1.0, "sa": 1.4}, classes=6))
    assert found["verdicts"]["sa"] == (
        "sa instead of bare: AUC of vasc is undefined on these test images: no verdict."
    )


def test_runs_are_read_by_recipe_fold_and_seed(tmp_path: Path) -> None:
    plan = replace(PLAN, folds=2, seeds=(0, 1))
    given = cells({"bare": 1.0, "se": 1.2, "sa": 1.4}, folds=2)
    for run in plan.runs:
        path = RunDir(tmp_path / run.folder).predictions()
        write_predictions(given[run.recipe][run.fold, run.seed], path)
    read = read_study(plan, tmp_path)
    assert list(read) == list(plan.recipes)
    for runs in read.values():
        assert set(runs) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    np.testing.assert_allclose(
        read["sa"][1, 0].probabilities, given["sa"][1, 0].probabilities, atol=1e-9
    )


def test_runs_that_saw_other_images_are_refused() -> None:
    given = cells({"bare": 1.0, "se": 1.0, "sa": 1.0})
    given["sa"][0, 1] = made_up(1.0, 1, images=IMAGES - 7)
    with pytest.raises(PredictionError, match="fold 0, seed 1"):
        result(PLAN, given)


CHANGE = estimate_cells([[0.021, 0.019, 0.02], [0.02, 0.02, 0.02]], 0.005**2, lesions=1000)


@pytest.mark.parametrize(
    ("metric", "outcome", "expected"),
    [
        (
            "accuracy",
            "better",
            r"accuracy by \+2.00 points, 95 % interval 1.0\d to .*: sa is better",
        ),
        ("brier", "worse", r"Brier score by \+0.020, 95 % interval 0.010 to 0.030: sa is worse"),
        ("f1_macro", "undecided", r"macro F1 by \+2.00 points.*: undecided, as of this\.$"),
        ("accuracy", "equivalent", r"as any difference is below 1 percentage point\.$"),
        ("brier", "equivalent", r"as any difference is below 0\.01\.$"),
    ],
)
def test_the_verdict_is_a_sentence(metric: str, outcome: Any, expected: str) -> None:
    text = describe_verdict(metric, "bare", "sa", CHANGE, Verdict(outcome, "of this"), 0.01)
    assert text.startswith("sa instead of bare changed ")
    assert re.search(expected, text)


def test_planned_looks_share_the_level_and_later_ones_are_exploratory() -> None:
    given = cells({"bare": 1.0, "se": 1.0, "sa": 1.4})
    single = result(PLAN, given)
    assert single["look"] == {"number": 1, "level": 0.05, "exploratory": False}
    assert "95 % interval" in single["verdicts"]["sa"]
    double = replace(PLAN, looks=2)
    second = result(double, given, look=2)
    assert second["look"] == {"number": 2, "level": 0.025, "exploratory": False}
    assert second["verdicts"]["sa"].startswith("Look 2 of 2: sa instead of bare")
    assert "97.5 % interval" in second["verdicts"]["sa"]
    wide, narrow = (one["comparisons"]["sa"]["auc_macro"] for one in (second, single))
    assert wide["low"] < narrow["low"]
    assert wide["level"] == pytest.approx(0.975)
    third = result(double, given, look=3)
    assert third["look"] == {"number": 3, "level": 0.05, "exploratory": True}
    start = "Exploratory (look 3, after 2 planned looks): sa"
    assert third["verdicts"]["sa"].startswith(start)


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
