import pytest

from ham10000.errors import RecipeError
from ham10000.recipe import make_recipe


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("data", "size", 0, "data.size must be more than 0, found 0"),
        ("data", "workers", -1, "data.workers must be 0 or more, found -1"),
        ("data", "augment", "strnog", "names no preset, found 'strnog'. Closest: strong"),
        ("model", "drop_rate", 1, "model.drop_rate must be in [0, 1)"),
        ("model", "std", [0.5, 0, 0.5], "model.std must be more than 0"),
        ("optimizer", "layer_decay", 1.1, "optimizer.layer_decay must be in [0, 1]"),
        ("schedule", "warmup_epochs", 10, "must be less than training.epochs (10)"),
        ("loss", "class_weights", {"ml": 2}, "names 'ml', which is no class. Closest: mel"),
        ("loss", "class_weights", {"mel": -2}, "of mel must be more than 0, found -2"),
        ("training", "ema", 1.0, "training.ema must be in [0, 1)"),
        ("optimizer", "betas", [0.9, 1.5], "optimizer.betas must be in [0, 1)"),
        ("optimizer", "lr", float("inf"), "optimizer.lr must be more than 0, found inf"),
        ("optimizer", "weight_decay", float("nan"), "must be 0 or more, found nan"),
    ],
)
def test_values_out_of_range(part: str, field: str, value: object, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make_recipe({"name": "x", part: {field: value}})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("model", {"pretrained": True, "weights": "x.pth"}, "both say where the backbone starts"),
        ("loss", {"name": "class_balanced", "class_weights": "balanced"}, "Leave one out"),
        ("schedule", {"name": "plateau", "warmup_epochs": 1}, "not for the schedule plateau"),
    ],
)
def test_values_that_do_not_go_together(part: str, fields: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make_recipe({"name": "x", part: fields})
