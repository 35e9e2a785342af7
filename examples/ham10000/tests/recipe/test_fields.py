import pytest

from ham10000.errors import RecipeError
from ham10000.recipe import Recipe, make_recipe, recipe_fields
from ham10000.recipe.fields import describe_type


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("data", "size", 0, "data.size must be more than 0, found 0"),
        ("data", "workers", -1, "data.workers must be 0 or more, found -1"),
        ("data", "augment", "strnog", "data.augment has no option 'strnog'. Closest: strong"),
        ("model", "drop_rate", 1, "model.drop_rate must be in [0, 1)"),
        ("model", "std", [0.5, 0, 0.5], "model.std must be more than 0"),
        ("optimizer", "layer_decay", 1.1, "optimizer.layer_decay must be in [0, 1]"),
        ("schedule", "warmup_epochs", 10, "must be less than training.epochs (10)"),
        (
            "loss",
            "class_weights",
            {"ml": 2},
            "'ml', which is not a class of HAM10000. Closest: mel",
        ),
        ("loss", "class_weights", {"mel": -2}, "of mel must be more than 0, found -2"),
        ("loss", "dx_type_weights", {"hist": 1}, "has no option 'hist'. Closest: histo"),
        ("training", "ema", 1.0, "training.ema must be in [0, 1)"),
        ("optimizer", "betas", [0.9, 1.5], "optimizer.betas must be in [0, 1)"),
        ("optimizer", "lr", float("inf"), "optimizer.lr must be more than 0, found inf"),
        ("optimizer", "weight_decay", float("nan"), "must be 0 or more, found nan"),
        ("model", "mean", [0.5, float("nan"), 0.5], "model.mean must be a finite number"),
        ("attention", "gamma", float("inf"), "attention.gamma must be a finite number, found inf"),
        ("model", "authors_parameters", {"head": -1}, "authors_parameters of head must be 0 or"),
        ("data", "size", None, "data.size must be a whole number, found null"),
        ("loss", "name", None, "loss.name must be one of cross_entropy, focal, class_"),
        ("training", "deterministic", None, "training.deterministic must be true or false"),
        ("training", "epochs", 10**400, "training.epochs must be less than 2^63, found 1000"),
        ("optimizer", "lr", 10**400, "optimizer.lr is too large"),
        ("optimizer", "betas", [10**400, 0.9], "optimizer.betas is too large"),
    ],
)
def test_values_out_of_range(part: str, field: str, value: object, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make_recipe({"name": "x", part: {field: value}})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("model", {"pretrained": True, "weights": "x.pth"}, "both set the initial weights"),
        ("loss", {"name": "class_balanced", "class_weights": "balanced"}, "Remove one of them"),
        ("loss", {"name": "multi_weighted", "label_smoothing": 0.1}, "weights of its own"),
        ("loss", {"name": "multi_weighted", "class_weights": {"mel": 5}}, "weights of its own"),
        ("loss", {"name": "multi_weighted", "cumulative": [4, 4]}, "increasing epochs, found [4"),
        ("schedule", {"name": "plateau", "warmup_epochs": 1}, "has no schedule.warmup_epochs"),
        ("model", {"head": "rest", "drop_rate": 0.5}, "model.drop_rate 0.5 does not change"),
    ],
)
def test_values_that_do_not_go_together(part: str, fields: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make_recipe({"name": "x", part: fields})
    assert message in str(caught.value)


def test_metadata_need_single_images() -> None:
    fields = {"name": "x", "data": {"metadata": True, "mix": "cutmix"}}
    with pytest.raises(RecipeError, match=r"data\.mix cutmix mixes two images"):
        make_recipe(fields)


def test_weights_of_images_need_single_images() -> None:
    with pytest.raises(RecipeError, match=r"of single images, and data\.mix mixup mixes two"):
        make_recipe(
            {
                "name": "x",
                "data": {"mix": "mixup"},
                "loss": {"dx_type_weights": {"follow_up": 0.5}},
            }
        )


def test_classes_and_protocol_are_those_of_the_data_set() -> None:
    data = {"set": "isic2017-keratosis", "protocol": "published"}
    recipe = make_recipe({"name": "x", "data": data, "loss": {"class_weights": {"sk": 2}}})
    assert recipe.data.set == "isic2017-keratosis"
    with pytest.raises(RecipeError, match=r"has 'mel', which is not a class .*other, sk"):
        make_recipe({"name": "x", "data": data, "loss": {"class_weights": {"mel": 2}}})
    with pytest.raises(RecipeError, match="is published, and HAM10000 has no published split"):
        make_recipe({"name": "x", "data": {"protocol": "published"}})
    with pytest.raises(RecipeError, match=r"data\.set 'isic2017': .*Closest: isic2019, isic2017-"):
        make_recipe({"name": "x", "data": {"set": "isic2017"}})


def test_a_frozen_backbone_has_no_augmented_set() -> None:
    with pytest.raises(RecipeError, match=r"model\.frozen .*, and data\.offline is auto\. Remove"):
        make_recipe({"name": "x", "data": {"offline": "auto"}, "model": {"frozen": True}})


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ({"kernel_size": 4}, "attention.kernel_size must be odd, found 4"),
        ({"layer": "softt"}, "attention.layer must be one of none, soft, placebo, keras, se, ese"),
        ({"layer": "bottleneck"}, "gca, cbam, lcbam, found 'bottleneck'"),
        ({"layer": "se", "gamma": 1.0}, "attention.gamma has no effect with attention.layer se"),
        ({"layer": "se", "block": "paper"}, "to its default, plain; found paper"),
        ({"layer": "keras", "gamma": None}, "layer keras and attention.block plain"),
        ({"layer": "keras", "kernel_size": 5}, "attention.kernel_size has no effect"),
        (
            {"layer": "soft", "pool": 1},
            "attention.pool has no effect with attention.layer soft and",
        ),
        ({"layer": "soft", "drop_rate": 0.1}, "attention.drop_rate has no effect"),
        ({"layer": "placebo", "block": "paper", "concat": True}, "attention.concat has no effect"),
    ],
)
def test_fields_of_attention_without_effect(attention: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make_recipe({"name": "x", "attention": attention})
    assert message in str(caught.value)


def test_without_attention_its_fields_may_have_any_value() -> None:
    # They are those of the recipes of which this one is the base.
    unused = {"block": "paper", "pool": 1, "gamma": None, "concat": True}
    assert make_recipe({"name": "x", "attention": unused}).attention.pool == 1
    with pytest.raises(RecipeError, match=r"model\.activation relu is for models without attenti"):
        make_recipe({"name": "x", "attention": {"layer": "se"}, "model": {"activation": "relu"}})


def test_every_field_is_described() -> None:
    described = recipe_fields()
    assert len(described) > 60
    for name, field in described.items():
        assert field.text.endswith("."), name
        assert describe_type(field.kind), name


def test_descriptions_have_the_defaults_of_a_recipe() -> None:
    recipe = Recipe("x")
    for name, field in recipe_fields().items():
        if "." in name:
            part, own = name.split(".")
            assert getattr(getattr(recipe, part), own) == field.default


def test_types_in_words() -> None:
    assert describe_type(dict[str, float] | None) == "numbers by name, as {mel: 5} or null"
    assert describe_type(tuple[float, float]) == "a list of 2 numbers"
    with pytest.raises(KeyError):
        describe_type(bytes)


def test_fields_that_hold_null_do() -> None:
    for name, info in recipe_fields().items():
        section, _, field = name.partition(".")
        content = {section: {field: None}} if field else {section: None}
        if "null" in describe_type(info.kind).split(" or "):
            make_recipe({"name": "x", **content})
        else:
            with pytest.raises(RecipeError, match=name):
                make_recipe({"name": "x", **content})
