import json
from dataclasses import replace
from typing import Any

import pytest

from ham10000.errors import ArgumentError
from ham10000.recipe import Recipe
from ham10000.study.plan import make_plan

ONE, OTHER = Recipe(name="bare"), Recipe(name="attended")


def test_runs_go_seed_by_seed() -> None:
    plan = make_plan([ONE, OTHER], [0, 3], None)
    assert [run.folder for run in plan.runs] == [
        "runs/bare-seed0",
        "runs/attended-seed0",
        "runs/bare-seed3",
        "runs/attended-seed3",
    ]


def test_each_fold_is_a_run() -> None:
    plan = make_plan([ONE, OTHER], [0, 1], 3)
    assert len(plan.runs) == 12
    assert [run.fold for run in plan.runs[:6:2]] == [0, 1, 2]
    assert plan.runs[-1].folder == "runs/attended-seed1-fold2"


def test_the_plan_is_a_json_object_with_its_rule() -> None:
    plan = make_plan([ONE, OTHER], [0, 1], None)
    content = json.loads(json.dumps(plan.as_dict()))
    assert content["recipes"] == ["bare", "attended"]
    assert (content["control"], content["arms"]) == ("bare", ["attended"])
    assert content["primary"] == "auc_macro"
    assert content["secondaries"] == [
        "precision_weighted",
        "balanced_accuracy",
        "sensitivity_at_95_specificity/mel",
        "brier",
    ]
    assert content["margins"]["auc_macro"] == 0.005
    assert content["margins"]["balanced_accuracy"] == 0.01
    assert content["margins"]["precision_weighted"] == 0.01
    assert content["margins"].keys() == {"auc_macro", *content["secondaries"]}
    assert "excludes 0" in content["rule"]
    assert content["seeds"] == [0, 1]
    assert "seeds" not in plan.terms()
    assert content["runs"][0] == {
        "recipe": "bare",
        "seed": 0,
        "fold": None,
        "folder": "runs/bare-seed0",
    }


def test_any_recipe_can_be_the_control() -> None:
    third = replace(ONE, name="third")
    plan = make_plan([ONE, OTHER, third], [0, 1], None, control="attended")
    assert (plan.control, plan.arms) == ("attended", ("bare", "third"))
    assert len(plan.runs) == 6


def test_another_primary_metric_makes_the_default_one_secondary() -> None:
    plan = make_plan([ONE, OTHER], [0, 1], None, "recall_macro", smallest_difference=0.03)
    assert plan.secondaries[:2] == ("auc_macro", "precision_weighted")
    assert "balanced_accuracy" not in plan.secondaries, "it equals macro recall"
    assert (plan.margins["recall_macro"], plan.margins["auc_macro"]) == (0.03, 0.005)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"smallest_difference": -0.1}, "above 0 and below 1, in units of accuracy, found -0.1"),
        ({"smallest_difference": 0.0}, "above 0 and below 1"),
        ({"smallest_difference": 1.0}, "above 0 and below 1"),
        ({"smallest_difference": float("nan")}, "above 0 and below 1"),
        ({"control": "attend"}, "unknown control 'attend'.*Closest: attended"),
        ({"looks": 0}, "at least one look at the result, found 0"),
    ],
)
def test_impossible_terms_are_refused(terms: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make_plan([ONE, OTHER], [0, 1], None, "accuracy", **terms)


@pytest.mark.parametrize(
    ("recipes", "seeds", "folds", "primary", "message"),
    [
        ([ONE], [0, 1], None, "accuracy", "at least one other recipe, found 1"),
        ([ONE, ONE], [0, 1], None, "accuracy", "several recipes are named 'bare'"),
        ([ONE, OTHER], [0], None, "accuracy", r"at least two different seeds, found \[0\]"),
        ([ONE, OTHER], [1, 1], None, "accuracy", r"at least two different seeds, found \[1, 1\]"),
        ([ONE, OTHER], [0, 1], 1, "accuracy", "expected at least 2 folds, found 1"),
        (
            [ONE, OTHER],
            [0, 1],
            None,
            "acuracy",
            "metric 'acuracy'.*Closest: accuracy",
        ),
        (
            [ONE, replace(OTHER, data=replace(OTHER.data, protocol="paper"))],
            [0, 1],
            None,
            "accuracy",
            "data.protocol is lesion in bare and paper in attended",
        ),
    ],
)
def test_studies_that_cannot_be_planned_are_refused(
    recipes: list[Recipe], seeds: list[int], folds: int | None, primary: str, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        make_plan(recipes, seeds, folds, primary)
