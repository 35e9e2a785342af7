"""The recipe irv2_keras and a training step of it, compared with Keras, which `make parity` has."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import timm
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from ham10000.data import DATA_VARIABLE, HAM10000, Augment
from ham10000.models import LesionClassifier, build_model
from ham10000.recipe import Recipe, load_recipe
from ham10000.training import build_loss, build_optimizer

ROOT = Path(__file__).parents[4]
SCRIPT = Path(__file__).parents[1] / "support" / "keras_irv2.py"
IMAGES, BATCH = 10, slice(2, 6)
"""Number of images, and those of the training step, of which one is a melanoma."""
DATA = Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None
"""HAM10000, whose images are used if it is available, and random ones otherwise."""
WITHOUT_DROPOUT = ["attention.drop_rate=0"]
"""Both frameworks draw it from generators of their own."""
Arrays = Mapping[str, NDArray[np.float64]]


def keras_names(model: LesionClassifier) -> dict[str, str]:
    """Return the name of each array in keras_irv2.py by the name of a parameter or buffer."""
    counts = {"conv": 0, "norm": 0, "up": 0}
    names = {}
    with torch.device("meta"):  # timm's module order is the order in which Keras makes the layers
        order = timm.create_model("inception_resnet_v2").named_modules()
    kept = dict(model.network.backbone.named_parameters()).keys()
    (prefix,) = {key.removesuffix("conv2d_1a.conv.weight") for key in kept if "conv2d_1a.c" in key}
    for name, module in order:
        name = f"{prefix}{name}"
        if f"{name}.weight" not in kept:
            continue
        if isinstance(module, nn.Conv2d):
            kind, fields = (
                ("conv", ["weight"]) if module.bias is None else ("up", ["weight", "bias"])
            )
        else:
            kind, fields = "norm", ["bias", "running_mean", "running_var"]
        for number, field in enumerate(fields):
            names[f"network.backbone.{name}.{field}"] = f"{kind}{counts[kind]}/{number}"
        counts[kind] += 1
    for part, layer in (("attention.attention", "soft_attention"), ("head.fc", "head")):
        names |= {f"network.{part}.{f}": f"{layer}/{n}" for n, f in enumerate(("weight", "bias"))}
    return names


def to_keras(key: str, value: Tensor) -> NDArray[np.float64]:
    """Return a parameter or buffer in the layout of Keras."""
    value = value.detach()
    if "attention.weight" in key:
        value = rearrange(value, "k depth rows cols -> rows cols depth 1 k")
    elif re.search(r"head\.fc\.weight", key):  # Keras flattens (H, W, C)
        value = rearrange(value, "out (c h w) -> (h w c) out", h=4, w=4)
    elif value.ndim == 4:
        value = rearrange(value, "c_out c_in h w -> h w c_in c_out")
    return value.numpy().copy()


def converted(model: LesionClassifier) -> dict[str, NDArray[np.float64]]:
    state = model.state_dict()
    return {name: to_keras(key, state[key]) for key, name in keras_names(model).items()}


def read_images(recipe: Recipe, root: Path | None) -> tuple[Tensor, Tensor]:
    """Return ten images as a model gets them, and their labels; random images without a folder."""
    if root is None:
        pixels = torch.randint(0, 256, (IMAGES, 3, 299, 299), dtype=torch.uint8)
        targets = torch.arange(IMAGES) % 7
    else:
        data = HAM10000(root, size=recipe.data.size)
        chosen = [data.targets.index(label) for label in range(7)] + [0, 1, 2]
        pixels, targets = data.read(chosen)
    augment = Augment("none", mean=recipe.model.mean, std=recipe.model.std)
    return augment(pixels, torch.arange(IMAGES), epoch=0), targets


class Results(NamedTuple):
    before: Arrays
    keras: Arrays
    torch: Arrays


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The same in both frameworks: the logits in float32, and one step in float64."""
    python = os.environ.get("KERAS_PYTHON", sys.executable)
    if python == sys.executable and importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs TensorFlow: `make parity` installs it and runs this test")
    recipe = load_recipe("irv2_keras", ["model.pretrained=false", *WITHOUT_DROPOUT])
    torch.manual_seed(0)
    images, targets = read_images(recipe, DATA)
    model = random_model(recipe, images)
    before = converted(model)
    loss = build_loss(recipe.loss, [1] * 7)
    assert loss.weight is not None
    folder = tmp_path_factory.mktemp("parity")
    np.savez(
        folder / "in.npz",
        images=images.permute(0, 2, 3, 1).numpy(),
        batch=images[BATCH].permute(0, 2, 3, 1).numpy(),
        labels=targets[BATCH].numpy(),
        class_weights=loss.weight.numpy(),
        lr=recipe.optimizer.lr,
        eps=recipe.optimizer.eps,
        **before,  # type: ignore[arg-type]
    )
    subprocess.run(
        [python, SCRIPT, folder / "in.npz", folder / "out.npz"],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
    )
    with torch.no_grad():
        logits = model.eval()(images)
    model = model.double().train()
    optimizer = build_optimizer(recipe.optimizer, model)
    mean = loss(model(images[BATCH].double()), targets[BATCH]).mean()
    mean.backward()
    optimizer.step()
    ours = {**converted(model), "logits": logits.numpy(), "loss": mean.detach().numpy()}
    return Results(before, dict(np.load(folder / "out.npz")), ours)


def random_model(recipe: Recipe, images: Tensor) -> LesionClassifier:
    """Return the model of a recipe with random weights, and with statistics of the images."""
    # Without statistics of the features, the logits would be close to 0.
    whole = replace(recipe, model=replace(recipe.model, norm_momentum=1.0))
    measured, model = build_model(whole).train(), build_model(recipe)
    for norm in measured.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert (norm.weight == 1).all()  # Keras has none
            nn.init.normal_(norm.bias, std=0.1)
    with torch.no_grad():
        measured(images)
    model.load_state_dict(measured.state_dict())
    return model


def distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the norm of the difference relative to that of the first."""
    return float(np.linalg.norm(one - other) / np.linalg.norm(one))


@pytest.mark.slow
def test_the_logits_agree(results: Results) -> None:
    assert np.abs(results.keras["logits"]).max() > 1
    assert results.torch["logits"] == pytest.approx(results.keras["logits"], abs=1e-4)


@pytest.mark.slow
def test_one_training_step_agrees(results: Results) -> None:
    before, keras, ours = results
    assert ours["loss"] == pytest.approx(keras["loss"], rel=1e-6)
    statistics = {name for name in before if re.fullmatch(r"norm\d+/[12]", name)}
    for name in before.keys() - statistics:
        assert distance(keras[name], ours[name]) < 1e-4, name
        update = keras[name] - before[name]
        assert np.abs(update).max() > 0
        assert distance(update, ours[name] - before[name]) < 1e-4, name
    # Keras averages the variance of a batch with n in the denominator, torch with n - 1.
    for name in statistics:
        assert distance(keras[name], ours[name]) < 1e-4, name
