import json
from dataclasses import replace
from pathlib import Path

import pytest

from ham10000.errors import ArgumentError
from ham10000.recipe import Recipe
from ham10000.study.plan import make_plan

ONE, OTHER = Recipe(name="bare"), Recipe(name="attended")


def test_runs_go_seed_by_seed() -> None:
    plan = make_plan([ONE, OTHER], [0, 3], None, "balanced_accuracy")
    assert [run.folder for run in plan.runs] == [
        "runs/bare-seed0",
        "runs/attended-seed0",
        "runs/bare-seed3",
        "runs/attended-seed3",
    ]


def test_each_fold_is_a_run() -> None:
    plan = make_plan([ONE, OTHER], [0, 1], 3, "balanced_accuracy")
    assert len(plan.runs) == 12
    assert [run.fold for run in plan.runs_of("attended", 1)] == [0, 1, 2]
    assert plan.runs[-1].folder == "runs/attended-seed1-fold2"


def test_the_plan_is_a_file_with_its_rule(tmp_path: Path) -> None:
    make_plan([ONE, OTHER], [0, 1], None, "auc_weighted").write(tmp_path)
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["recipes"] == ["bare", "attended"]
    assert written["primary"] == "auc_weighted"
    assert "excludes 0" in written["rule"]
    assert written["runs"][0] == {
        "recipe": "bare",
        "seed": 0,
        "fold": None,
        "folder": "runs/bare-seed0",
    }


@pytest.mark.parametrize(
    ("recipes", "seeds", "folds", "primary", "message"),
    [
        ([ONE], [0, 1], None, "accuracy", "expected two recipes to compare, found 1"),
        ([ONE, ONE], [0, 1], None, "accuracy", "both recipes are named 'bare'"),
        ([ONE, OTHER], [0], None, "accuracy", r"at least two different seeds, found \[0\]"),
        ([ONE, OTHER], [1, 1], None, "accuracy", r"at least two different seeds, found \[1, 1\]"),
        ([ONE, OTHER], [0, 1], 2, "accuracy", "expected at least 3 folds, found 2"),
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
            "data.protocol is honest in bare and paper in attended",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused(
    recipes: list[Recipe], seeds: list[int], folds: int | None, primary: str, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        make_plan(recipes, seeds, folds, primary)
