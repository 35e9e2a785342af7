import pytest

from ham10000.recipe import Recipe
from ham10000.recipe.describe import describe_fields, describe_type


def test_every_field_is_described() -> None:
    described = describe_fields()
    assert len(described) > 60
    for name, field in described.items():
        assert field.text.endswith("."), name
        assert describe_type(field.kind), name


def test_descriptions_have_the_defaults_of_a_recipe() -> None:
    recipe = Recipe("x")
    for name, field in describe_fields().items():
        if "." in name:
            part, own = name.split(".")
            assert getattr(getattr(recipe, part), own) == field.default


def test_types_in_words() -> None:
    assert describe_type(dict[str, float] | None) == "numbers by name, as {mel: 5} or null"
    assert describe_type(tuple[float, float]) == "a list of 2 numbers"
    with pytest.raises(KeyError):
        describe_type(bytes)
