from collections.abc import Callable
from pathlib import Path

import pytest

from ham10000.errors import ArgumentError, MissingDataError, RecipeError
from ham10000.recipe import Recipe, load_recipe
from ham10000.training.checkpoints import save_step
from ham10000.training.folder import claim, find_run


def test_another_recipe_is_refused_by_the_field_that_differs(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run, _ = claim(tmp_path / "run", recipe())
    save_step(run.checkpoints, 1, {"step": 1}, keep=1)
    with pytest.raises(RecipeError, match=r"with optimizer.lr 0.001 instead of 0.5. Choose"):
        claim(run.path, recipe(optimizer={"lr": 0.5}))
    claim(run.path, recipe(data={"workers": 1}, training={"max_minutes": 3}))
    assert load_recipe(run.recipe).data.workers == 1


def test_before_anything_is_trained_a_recipe_may_change(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run, _ = claim(tmp_path / "run", recipe())
    run.split.touch()
    claim(run.path, recipe(optimizer={"lr": 0.5}))
    assert load_recipe(run.recipe).optimizer.lr == 0.5
    assert not run.split.exists()


def test_a_folder_of_something_else_is_left_alone(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ArgumentError, match=r"holds 'letter.txt' and is no run"):
        claim(tmp_path, recipe())
    with pytest.raises(MissingDataError, match="ham10000 train RECIPE --out"):
        find_run(tmp_path)


def test_paths_are_spelled_out(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, resolved = claim(Path("run"), recipe(data={"root": "images"}))
    assert resolved.data.root == tmp_path / "images"
    assert load_recipe(Path("run") / "recipe.yaml") == resolved
