import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ham10000.errors import ArgumentError, DataError, PredictionError, RecipeError, SplitError
from ham10000.recipe import Recipe
from ham10000.study import preregistration
from ham10000.study.plan import PlannedRun, StudyPlan, make_plan
from ham10000.study.preregistration import PLAN, StudyRecord, recorded_values, table_hash
from ham10000.training.run_dir import with_absolute_paths

RECIPES = [Recipe("bare"), Recipe("attended")]


def plan(seeds: tuple[int, ...] = (0, 1), **terms: Any) -> StudyPlan:
    return make_plan(RECIPES, seeds, None, "accuracy", **terms)


def result(number: int, seeds: tuple[int, ...], verdict: str = "undecided") -> dict[str, Any]:
    look = {"number": number, "level": 0.05, "exploratory": number > 1}
    return {"seeds": list(seeds), "verdicts": {"attended": verdict}, "look": look}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study with a plan for seeds 0 and 1 and one look."""
    record = StudyRecord(tmp_path)
    record.register(plan(), RECIPES, "split")
    record.add_look(result(1, (0, 1)), {"runs/bare-seed0": "a", "runs/bare-seed1": "b"})
    return tmp_path


def test_the_plan_names_everything_that_decides_the_result(folder: Path) -> None:
    entries = json.loads((folder / PLAN).read_text())["entries"]
    assert [entry["kind"] for entry in entries] == ["plan", "look"]
    first, look = entries
    assert first["seeds"] == [0, 1]
    assert (first["control"], first["arms"]) == ("bare", ["attended"])
    assert (first["primary"], first["margins"]["accuracy"], first["looks"]) == ("accuracy", 0.01, 1)
    assert first["secondaries"][0] == "auc_macro"
    assert first["split"] == "split"
    assert first["recipe_fields"]["bare"] == recorded_values(RECIPES[0])
    assert first["recipe_hashes"].keys() == {"bare", "attended"}
    assert look["verdicts"] == {"attended": "undecided"}
    assert look["previous"] == first["hash"]
    assert all(entry["time"].endswith("+00:00") for entry in entries)


def test_the_same_plan_again_adds_no_entry(folder: Path) -> None:
    before = (folder / PLAN).read_bytes()
    record = StudyRecord(folder)
    record.register(plan((1, 0)), RECIPES, "split", extend=True)
    assert record.look_number((1, 0)) == 1
    record.add_look(result(1, (1, 0)), {})
    assert (folder / PLAN).read_bytes() == before


def test_fewer_seeds_are_refused(folder: Path) -> None:
    with pytest.raises(ArgumentError, match="has the seeds 0, 1, and 1 would be left out"):
        StudyRecord(folder).register(plan((0, 2)), RECIPES, "split", extend=True)


def test_more_seeds_need_extend_and_are_recorded(folder: Path) -> None:
    record = StudyRecord(folder)
    with pytest.raises(ArgumentError, match=r"without 7, 8\. Pass --extend"):
        record.register(plan((0, 1, 7, 8)), RECIPES, "split")
    record.register(plan((0, 1, 7, 8)), RECIPES, "split", extend=True)
    again = StudyRecord(folder)
    assert again.seeds == (0, 1, 7, 8)
    assert again.entries[-1]["kind"] == "extension"
    assert again.entries[-1]["after_looks"] == 1
    again.register(plan((0, 1, 7, 8)), RECIPES, "split")  # recorded already: no --extend needed
    assert again.look_number((0, 1, 7, 8)) == 2
    with pytest.raises(ArgumentError, match="7, 8 would be left out"):
        again.register(plan(), RECIPES, "split")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make_plan(RECIPES, (0, 1), 3, "accuracy"), "folds None, not 3"),
        (make_plan(RECIPES, (0, 1), None, "brier"), "primary 'accuracy', not 'brier'"),
        (plan(smallest_difference=0.1), "margins .*'accuracy': 0.01.*not .*'accuracy': 0.1"),
        (plan(control="attended"), "control 'bare', not 'attended'"),
        (plan(looks=2), "looks 1, not 2"),
    ],
)
def test_other_terms_are_refused(folder: Path, other: StudyPlan, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        StudyRecord(folder).register(other, RECIPES, "split")


def test_a_changed_recipe_is_refused(folder: Path) -> None:
    bare = replace(
        RECIPES[0],
        optimizer=replace(RECIPES[0].optimizer, lr=0.5),
        training=replace(RECIPES[0].training, tta=8),
    )
    message = r"bare was changed .*: optimizer.lr was 0.001 and is now 0.5 and 1 more field\."
    with pytest.raises(RecipeError, match=message):
        StudyRecord(folder).register(plan(), [bare, RECIPES[1]], "split")


def test_a_field_that_is_younger_than_the_plan_had_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def older(recipe: Recipe) -> dict[str, Any]:
        return {name: value for name, value in recorded_values(recipe).items() if "tta" not in name}

    with monkeypatch.context() as patch:
        patch.setattr(preregistration, "recorded_values", older)
        StudyRecord(tmp_path).register(plan(), RECIPES, "split")
    StudyRecord(tmp_path).register(plan(), RECIPES, "split")
    changed = replace(RECIPES[0], training=replace(RECIPES[0].training, tta=8))
    with pytest.raises(RecipeError, match=r"training\.tta was 1 and is now 8\."):
        StudyRecord(tmp_path).register(plan(), [changed, RECIPES[1]], "split")


def test_an_older_plan_may_have_a_field_that_is_no_longer_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def older(recipe: Recipe) -> dict[str, Any]:
        return {**recorded_values(recipe), "data.check_cache": recipe.data.check_cache}

    with monkeypatch.context() as patch:
        patch.setattr(preregistration, "recorded_values", older)
        StudyRecord(tmp_path).register(plan(), RECIPES, "split")
    unchecked = replace(RECIPES[0], data=replace(RECIPES[0].data, check_cache=False))
    record = StudyRecord(tmp_path)
    record.register(plan(), [unchecked, RECIPES[1]], "split")
    record.check_run(PlannedRun("bare", 0), replace(unchecked, seed=0))


def test_paths_of_a_run_may_be_those_of_another_machine(tmp_path: Path) -> None:
    recipe = replace(
        RECIPES[0],
        data=replace(RECIPES[0].data, offline=Path("augmented")),
        model=replace(RECIPES[0].model, weights="backbone.pt"),
    )
    record = StudyRecord(tmp_path)
    record.register(plan(), [recipe, RECIPES[1]], "split")
    record.check_run(PlannedRun("bare", 0), replace(with_absolute_paths(recipe), seed=0))
    other = replace(recipe, seed=0, model=replace(recipe.model, weights="another.pt"))
    with pytest.raises(RecipeError, match=r"model\.weights 'another\.pt'.*'backbone\.pt'"):
        record.check_run(PlannedRun("bare", 0), other)


def test_fields_of_the_machine_may_change(folder: Path) -> None:
    moved = [
        replace(
            recipe,
            seed=3,
            data=replace(recipe.data, root=Path("elsewhere"), cache=Path("cache"), workers=0),
            logging=replace(recipe.logging, tensorboard=False),
        )
        for recipe in RECIPES
    ]
    StudyRecord(folder).register(plan(), moved, "split")


def test_another_split_is_refused(folder: Path) -> None:
    with pytest.raises(SplitError, match=r"split\.csv was changed after the plan was recorded"):
        StudyRecord(folder).register(plan(), RECIPES, "another")


def test_the_hash_of_a_table_ignores_the_order_of_rows_only() -> None:
    table = pd.DataFrame({"image_id": ["a", "b"], "split": ["test", "train"]})
    reordered, swapped = table[::-1], table.assign(split=["train", "test"])
    assert table_hash(table) == table_hash(reordered)
    assert table_hash(table) != table_hash(swapped)


def test_a_record_gives_its_plan_back(folder: Path) -> None:
    record = StudyRecord(folder)
    assert record.plan == plan()
    record.register(plan((0, 1, 7)), RECIPES, "split", extend=True)
    assert record.plan == plan((0, 1, 7))


def test_changed_predictions_of_a_look_are_refused(folder: Path) -> None:
    record = StudyRecord(folder)
    record.check_predictions({"runs/bare-seed0": "a", "runs/bare-seed9": "z"})
    with pytest.raises(PredictionError, match="runs/bare-seed1 have changed since look 1"):
        record.check_predictions({"runs/bare-seed0": "a", "runs/bare-seed1": "c"})


@pytest.mark.parametrize(
    "edit",
    [
        lambda entries: entries[0].update(seeds=[0]),
        lambda entries: entries[1].update(verdicts={"attended": "better"}),
        lambda entries: entries[0].update(recipe_fields={}),
        lambda entries: entries.reverse(),
        lambda entries: entries.pop(0),
        lambda entries: entries[1].pop("hash"),
        lambda entries: entries.clear(),
        lambda entries: entries.append(3),
    ],
)
def test_an_edited_plan_is_refused(folder: Path, edit: Any) -> None:
    content = json.loads((folder / PLAN).read_text())
    edit(content["entries"])
    (folder / PLAN).write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"plan\.json: .*hoose another folder"):
        StudyRecord(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"entries": 3}', '{"seeds": [0, 1]}'])
def test_another_file_in_its_place_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / PLAN).write_text(text)
    with pytest.raises(DataError, match="is not the plan of a study"):
        StudyRecord(tmp_path)
