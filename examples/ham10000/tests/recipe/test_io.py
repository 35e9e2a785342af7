from dataclasses import replace
from pathlib import Path

import pytest

from ham10000.errors import MissingDataError, RecipeError
from ham10000.recipe import (
    AttentionRecipe,
    DataRecipe,
    LossRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    find_recipe,
    load_recipe,
    make_recipe,
    save_recipe,
    shipped_recipes,
)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_saved_recipe_loads_back_equal(tmp_path: Path) -> None:
    recipe = Recipe(
        "größer",
        seed=7,
        data=DataRecipe(root=Path("set"), fold=2, metadata=True),
        model=ModelRecipe("timm:resnet18", mean=(0.1, 0.2, 0.3)),
        attention=AttentionRecipe("soft", gamma=None),
        optimizer=OptimizerRecipe(lr=1e-05, betas=(0.8, 0.99)),
        loss=LossRecipe(class_weights={"mel": 5.0}),
    )
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    balanced = replace(recipe, loss=LossRecipe(class_weights="balanced"))
    save_recipe(balanced, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == balanced


def test_a_recipe_overrides_its_base_field_by_field(tmp_path: Path) -> None:
    write(tmp_path / "one.yaml", "name: one\noptimizer: {lr: 1, eps: 0.1}\ndata: {size: 32}")
    write(tmp_path / "two.yaml", "base: one.yaml\noptimizer: {lr: 2}")
    path = write(tmp_path / "three.yaml", "base: two.yaml\nname: three\ndata: {fold: 1}")
    recipe = load_recipe(path)
    assert (recipe.name, recipe.optimizer.lr, recipe.optimizer.eps) == ("three", 2, 0.1)
    assert (recipe.data.size, recipe.data.fold) == (32, 1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("optimizer.lr=1e-3", ("optimizer", "lr", 0.001)),
        ("data.root=some/where", ("data", "root", Path("some/where"))),
        ("data.root=null", ("data", "root", None)),
        ("attention.gamma=null", ("attention", "gamma", None)),
        ("attention.gamma=uniform", ("attention", "gamma", "uniform")),
        ("attention.gamma=0.5", ("attention", "gamma", 0.5)),
        ("model.mean=[0.1, 0.2, 0.3]", ("model", "mean", (0.1, 0.2, 0.3))),
        ("loss.class_weights={nv: 2}", ("loss", "class_weights", {"nv": 2.0})),
        ("training.precision=32", ("training", "precision", "32")),
        ("data.metadata=true", ("data", "metadata", True)),
    ],
)
def test_changes_are_read_as_yaml(
    change: str, expected: tuple[str, str, object], tmp_path: Path
) -> None:
    part, field, value = expected
    path = write(tmp_path / "x.yaml", "name: x\nloss: {class_weights: {mel: 5}}")
    assert getattr(getattr(load_recipe(path, [change]), part), field) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\noptimiser: {lr: 1}", "no field optimiser. Closest: optimizer.lr"),
        ("name: x\noptimizer: {lrr: 1}", "no field optimizer.lrr. Closest: optimizer.lr"),
        ("name: x\nmodel: {gamma: 1}", "no field model.gamma. Closest: attention.gamma, loss.gam"),
        ("name: x\nmodel: {attention: true}", "model.attention. Closest: attention.layer"),
        ("name: x\noptimizer: 3", "optimizer is a section with fields"),
        ("name: x\noptimizer: {lr: fast}", "optimizer.lr must be a number, found 'fast'"),
        ("name: x\ndata: {size: 1.5}", "data.size must be a whole number, found 1.5"),
        ("name: x\ndata: {balance: sqr}", "one of none, sqrt, class, found 'sqr'. Closest: sqrt"),
        ("name: x\nmodel: {mean: [1]}", "model.mean must be a list of 3 numbers"),
        ("name: x\ndata: {metadata: maybe}", "data.metadata must be true or false"),
        ("data: {size: 3}", "required: name"),
        ("- a\n- b", "expected fields and values, found list"),
        ("name: [", "is not valid YAML"),
        ("base: x.yaml", "its field base refers back to the file"),
    ],
)
def test_what_cannot_be_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.yaml", text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    write(tmp_path / "irv2.yaml", "base: gone.yaml")
    with pytest.raises(
        MissingDataError, match=r"irv2_s\.yaml: there is no such file\. Closest: irv2\.yaml"
    ):
        load_recipe(tmp_path / "irv2_s.yaml")
    with pytest.raises(MissingDataError, match=r"gone\.yaml: .* the base of .*irv2\.yaml"):
        load_recipe(tmp_path / "irv2.yaml")


def test_a_change_without_a_value(tmp_path: Path) -> None:
    path = write(tmp_path / "x.yaml", "name: x")
    with pytest.raises(RecipeError, match=r"section\.field=value, found 'seed'"):
        load_recipe(path, ["seed"])


def test_a_recipe_of_mappings() -> None:
    assert make_recipe({"name": "x", "training": {"epochs": 3}}).training.epochs == 3
    with pytest.raises(RecipeError, match="making a recipe: there is no field epochs"):
        make_recipe({"name": "x", "epochs": 3})


def test_recipes_are_found_by_name_and_files_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_recipe("lite0_sa", ["seed=3"]) == load_recipe(
        shipped_recipes()["lite0_sa"], ["seed=3"]
    )
    assert not any(name.startswith("_") for name in shipped_recipes())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smoke").mkdir()  # a run folder of this name is not a recipe
    assert load_recipe("smoke").name == "smoke"
    write(tmp_path / "lite0", "name: mine")
    assert load_recipe("lite0").name == "mine"
    with pytest.raises(
        MissingDataError,
        match=r"no recipe or file of this name.*lite0_sa.*ham10000 recipes",
    ):
        find_recipe("lite0_as")


def test_a_whole_number_is_text_where_a_field_is_text() -> None:
    recipe = make_recipe({"name": 7, "training": {"precision": 32}})
    assert (recipe.name, recipe.training.precision) == ("7", "32")
    with pytest.raises(RecipeError, match=r"training.precision must be"):
        make_recipe({"name": "mine", "training": {"precision": 33}})
