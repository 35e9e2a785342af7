"""The recipe files: their fields, the models that they build, and training steps of each."""

import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from ham10000.data import DATA_VARIABLE, HAM10000, Augment, encode_metadata, metadata_features
from ham10000.models import (
    METADATA_COLUMNS,
    build_model,
    parameter_table,
)
from ham10000.recipe import Recipe, load_recipe
from ham10000.training import build_loss, build_optimizer, build_schedule, check_frozen

FOLDER = Path(__file__).parents[2] / "recipes"
PAPER = ("vgg16", "resnet34", "resnet50", "densenet201", "irv2")
OTHERS = ("lite0", "finetuned", "smoke", "isic2017")
PAIRS = (*PAPER, *OTHERS)
MULTI_WEIGHTED = {
    "loss.name": "multi_weighted",
    "loss.cumulative": (1, 4),
    "loss.logit_adjustment": 0.0,
    "loss.label_smoothing": 0.0,
}
ARMS = {
    "smoke_placebo": ("smoke_sa", {"attention.layer": "placebo"}),
    "lite0_placebo": ("lite0_sa", {"attention.layer": "placebo"}),
    "lite0_sa1": ("lite0_sa", {"attention.gamma": 1.0}),
    "lite0_keras": ("lite0_sa", {"attention.layer": "keras"}),
    "lite0_se": ("lite0", {"attention.layer": "se"}),
    "lite0_eca": ("lite0", {"attention.layer": "eca"}),
    "lite0_cbam": ("lite0", {"attention.layer": "cbam"}),
    "lite0_trivial": ("lite0", {"data.augment": "trivial"}),
    "lite0_rand": ("lite0", {"data.augment": "rand"}),
    "lite0_crops": ("lite0", {"training.crops": 9}),
    "lite0_mwnl": ("lite0", MULTI_WEIGHTED),
    "lite0_dx_type": ("lite0", {"loss.dx_type_weights": {"consensus": 0.75, "follow_up": 0.5}}),
    "lite0_late": ("lite0", {"data.metadata": True}),
    "lite0_concat": ("lite0_late", {"model.fusion": "concat"}),
    "lite0_metanet": ("lite0_late", {"model.fusion": "metanet"}),
    "lite0_metablock": ("lite0_late", {"model.fusion": "metablock"}),
    "finetuned_placebo": ("finetuned_sa", {"attention.layer": "placebo"}),
    "finetuned_keras": ("finetuned", {"attention.layer": "keras"}),
}
OFFLINE = {"data.offline": "auto", "data.balance": "none", "data.augment": "none"}
META = {
    "data.metadata": True,
    "data.balance": "none",
    "data.epoch_samples": None,
    "model.fusion": "concat",
    "model.authors_parameters": None,
    "loss.class_weights": "balanced",
}
PAPER_ARMS = {
    **{f"{name}_keras": (f"{name}_sa", {"attention.layer": "keras"}) for name in PAPER},
    "resnet50_dropblock": ("resnet50", {"model.drop_block_rate": 0.1}),
    "irv2_offline": ("irv2", OFFLINE),
    "irv2_keras_offline": ("irv2_keras", OFFLINE),
    "irv2_sa_meta": ("irv2_sa", META),
}
FROZEN = {
    "frozen_max": {"model.head"},
    "frozen_probe": {"model.head"},
    "frozen_probe_vit": {
        "data.size",
        "model.backbone",
        "model.weights",
        "model.head",
        "model.mean",
        "model.std",
    },
    "frozen_placebo": {"attention.layer", "attention.gamma"},
    "frozen_sa": {"attention.layer", "attention.gamma"},
    "frozen_sa_paper": {"attention.layer"},  # its gamma is the default
    "frozen_keras": {"attention.layer"},
    "frozen_se": {"attention.layer"},
    "frozen_eca": {"attention.layer"},
    "frozen_cbam": {"attention.layer"},
}
ALL = [name for pair in PAIRS for name in (pair, f"{pair}_sa")] + [
    "best",
    *ARMS,
    *PAPER_ARMS,
    "frozen",
    *FROZEN,
]


def read(name: str, *changes: str) -> Recipe:
    return load_recipe(FOLDER / f"{name}.yaml", changes)


def flat(recipe: Recipe) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in asdict(recipe).items():
        values |= (
            {f"{name}.{k}": v for k, v in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return values


def different(one: Recipe, other: Recipe) -> set[str]:
    left, right = flat(one), flat(other)
    return {name for name in left if left[name] != right[name]}


def test_these_are_all() -> None:
    assert sorted(path.stem for path in FOLDER.glob("[a-z]*.yaml")) == sorted(ALL)


@pytest.mark.parametrize("name", ALL)
def test_each_recipe_has_the_name_of_its_file(name: str) -> None:
    assert read(name).name == name


# What attention brings its own of, where the model without it has one too.
OWN = {
    "densenet201": {"model.drop_rate"},
    "irv2": {"model.drop_rate", "model.activation", "model.authors_parameters"},
    "smoke": {"attention.block"},
    "finetuned": {"attention.gamma"},
    "isic2017": {"model.drop_rate", "model.activation"},
}


@pytest.mark.parametrize("name", PAIRS)
def test_with_attention_nothing_else_is_different(name: str) -> None:
    expected = {"name", "attention.layer", *OWN.get(name, ())}
    assert different(read(name), read(f"{name}_sa")) == expected


@pytest.mark.parametrize("name", [*ARMS, *PAPER_ARMS])
def test_an_arm_differs_from_its_base_in_one_thing(name: str) -> None:
    base, expected = {**ARMS, **PAPER_ARMS}[name]
    assert different(read(name), read(base)) == {"name", *expected}
    assert expected.items() <= flat(read(name)).items()


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_arms_differ_from_the_control_in_one_thing(name: str) -> None:
    recipe = read(name)
    assert different(read("frozen"), recipe) == {"name", *FROZEN[name]}
    check_frozen(recipe)
    build_model(recipe, feature_map=(1280, 4, 4))


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_models_share_their_protocol(name: str) -> None:
    recipe = read(name)
    patience = {"irv2": 30, "densenet201": 35, "resnet50": 40, "vgg16": 65, "resnet34": 65}
    assert recipe.training.patience == patience[name]
    assert recipe.data.size == (299 if name == "irv2" else 224)
    assert recipe.model.pretrained is (name not in ("vgg16", "resnet34"))
    own = {field for field in different(recipe, read("resnet50")) if not field.startswith("model.")}
    assert own <= {"name", "data.size", "training.patience"}
    optimizer = recipe.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.eps) == ("adam_keras", 0.01, 0.1)
    assert (recipe.model.head_init, recipe.model.norm_momentum) == ("keras", 0.01)
    assert recipe.loss.class_weights == {"mel": 5}
    training = recipe.training
    assert (training.batch_size, training.epochs, training.min_delta) == (16, 150, 0.001)
    assert (training.monitor, training.mode) == ("accuracy", "max")
    assert (training.stop_monitor, training.stop_mode) == ("log_loss", "min")
    assert recipe.data.epoch_samples == math.ceil(9187 / 10) * 16


MAPS = {
    "vgg16": (512, 28, 28),
    "resnet34": (128, 28, 28),
    "resnet50": (2048, 7, 7),
    "densenet201": (128, 7, 7),
    "irv2": (192, 8, 8),
}


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("end", ["", "_sa"])
def test_attention_goes_where_the_paper_has_it(name: str, end: str) -> None:
    recipe = read(f"{name}{end}", "model.pretrained=false")
    with torch.device("meta"):
        network = build_model(recipe).network
    found = network.backbone.feature_map
    assert (found.channels, *found.size) == MAPS[name]
    assert network.get_classifier().out_features == 7


@pytest.mark.parametrize("name", ["irv2", "irv2_sa"])
def test_the_count_is_the_authors(name: str) -> None:
    recipe = read(name, "model.pretrained=false")
    with torch.device("meta"):
        model = build_model(recipe)
    counted = {part: sum(p.numel() for p in m.parameters()) for part, m in model.parts().items()}
    authors = dict(recipe.model.authors_parameters or {})
    # Keras counts two running statistics a channel and has no scale here; timm has the scale.
    channels = sum(b.numel() for n, b in model.named_buffers() if n.endswith("running_mean"))
    counted["backbone"] += 2 * channels - channels
    counted["attention"] -= (
        recipe.attention.layer == "soft"
    )  # gamma, which the authors' layer lacks
    assert counted == authors
    assert sum(authors.values()) == {"irv2": 47_550_631, "irv2_sa": 47_535_287}[name]


def test_isic_2017_is_the_papers_model_on_the_published_split() -> None:
    recipe = read("isic2017_sa", "model.pretrained=false")
    own = {"data.set", "data.protocol", "data.epoch_samples", "training.monitor"}
    own |= {"loss.class_weights"}
    assert different(read("irv2_sa"), read("isic2017_sa")) == {
        "name",
        "model.authors_parameters",
        *own,
    }
    with torch.device("meta"):
        assert build_model(recipe).network.get_classifier().out_features == 2


@pytest.fixture(scope="session")
def folder(synthetic: Path) -> Path:
    """HAM10000 if it is available, otherwise synthetic images."""
    return Path(os.environ.get(DATA_VARIABLE) or synthetic)


def take_steps(recipe: Recipe, folder: Path, steps: int = 3) -> list[float]:
    """Train a model on two images and return the losses; a trained parameter gets a gradient."""
    torch.manual_seed(recipe.seed)
    data = HAM10000(folder, size=recipe.data.size, split=None)
    pair = [list(data.targets).index(label) for label in (4, 5)]  # of two classes
    images, targets = data.read(pair)
    metadata = None
    if recipe.data.metadata:
        table = data.table.iloc[pair]
        metadata = metadata_features(encode_metadata(table, METADATA_COLUMNS))
    model = build_model(recipe)
    Console().print(recipe.name, parameter_table(model, recipe.model.authors_parameters))
    augment = Augment(recipe.data.augment, recipe.seed, recipe.model.mean, recipe.model.std)
    optimizer = build_optimizer(recipe.optimizer, model)
    schedule = build_schedule(recipe.schedule, optimizer, steps, recipe.training.epochs)
    loss = build_loss(recipe.loss, [1] * 7)
    losses = []
    for step in range(steps):
        scores = model(augment(images, torch.arange(2), epoch=step), metadata)
        mean = loss(scores, targets).mean()
        optimizer.zero_grad()
        mean.backward()
        assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
        optimizer.step()
        schedule.step()
        losses.append(float(mean.detach()))
    assert all(math.isfinite(value) for value in losses)
    assert all(p.isfinite().all() for p in model.parameters())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("end", ["", "_sa"])
def test_each_of_the_papers_models_trains(name: str, end: str, folder: Path) -> None:
    recipe = read(f"{name}{end}", "model.pretrained=false")
    losses = take_steps(recipe, folder)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("metadata", ["false", "true"])
@pytest.mark.parametrize("name", ["lite0", "lite0_sa", "smoke", "smoke_sa", "best"])
def test_the_others_train(name: str, metadata: str, folder: Path) -> None:
    recipe = read(
        name,
        "model.pretrained=false",
        "model.weights=null",
        "data.size=64",
        f"data.metadata={metadata}",
    )
    assert len(set(take_steps(recipe, folder))) == 3


@pytest.mark.parametrize("name", ARMS)
def test_the_arms_train(name: str, folder: Path) -> None:
    recipe = read(name, "model.weights=null", "data.size=64")
    assert len(set(take_steps(recipe, folder))) == 3


@pytest.mark.parametrize("name", ["smoke", "smoke_sa"])
def test_smoke_learns_two_images(name: str, folder: Path) -> None:
    losses = take_steps(read(name, "schedule.name=constant"), folder, steps=60)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
