import pytest
from jsonargparse import ArgumentParser

from ham10000.errors import RecipeError
from ham10000.recipe import add_recipe_fields, recipe_overrides, spell_out


def parse(*arguments: str) -> tuple[list[str], dict[str, object]]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("recipe")
    parser.add_argument("--out")
    add_recipe_fields(parser)
    options = parser.parse_args(spell_out(arguments)).as_dict()
    return recipe_overrides(options), options


def test_three_ways_to_say_the_same() -> None:
    for way in (["--data.root", "a b"], ["--data.root=a b"], ["data.root=a b"]):
        changes, options = parse("x.yaml", *way, "--out", "run", "seed=3")
        assert changes == ["seed=3", "data.root=a b"]
        assert options == {"recipe": "x.yaml", "out": "run"}


def test_values_are_left_as_they_are() -> None:
    changes, _ = parse("x.yaml", "loss.class_weights={mel: 5, nv: 1}", "model.gamma=null")
    assert "loss.class_weights={mel: 5, nv: 1}" in changes
    assert "model.gamma=null" in changes


def test_unknown_fields_are_refused_by_the_closest_name() -> None:
    for way in ("data.sise=3", "--data.sise=3", "--data.sise"):
        with pytest.raises(RecipeError, match=r"no field data\.sise\. Closest: data\.size"):
            spell_out(["x.yaml", way])


def test_other_arguments_stay() -> None:
    arguments = ["train", "recipes/x.yaml", "--out", "a=b", "--json", "x.y", "./a.b=c"]
    assert spell_out(arguments) == arguments


@pytest.mark.parametrize(
    ("argument", "nearest"),
    [
        ("epochs=3", "training.epochs"),
        ("sead=3", "seed"),
        ("data.Size=64", "data.size"),
        ("--training.batch-size", "training.batch_size"),
    ],
)
def test_misspelt_fields_are_refused_too(argument: str, nearest: str) -> None:
    with pytest.raises(RecipeError, match=f"has no field .* Closest: .*{nearest}"):
        spell_out(["train", "mine.yaml", argument])
