from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from building import build_classifier
from torch import nn

from ham10000.errors import TrainingError
from ham10000.recipe import AttentionRecipe, ModelRecipe, Recipe
from ham10000.training.data import prepare_data
from ham10000.training.processes import start_fabric
from ham10000.training.reproducibility import random_state, set_random_state
from ham10000.training.run_dir import claim_run
from ham10000.training.session import Setup, build_session, convert_sync_norms, wrap_model
from ham10000.training.state import TrainState


@pytest.fixture
def build(recipe: Callable[..., Recipe], tmp_path: Path) -> Any:
    before = random_state()

    def make(**parts: dict[str, object]) -> tuple[Setup, TrainState]:
        run, mine = claim_run(tmp_path / "run", recipe(**parts))
        return build_session(mine, run, prepare_data(run, mine), start_fabric("32"))

    yield make
    set_random_state(before)


def test_the_seed_determines_the_initial_weights(build: Any) -> None:
    torch.manual_seed(99)
    _, first = build()
    _, second = build()
    for one, two in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_setup_cannot_be_changed(build: Any) -> None:
    setup, state = build()
    with pytest.raises(FrozenInstanceError):
        setup.plan = None
    assert setup.split_text == setup.run.split.read_text()
    assert (setup.rank, setup.validation_split) == (0, "test")
    assert state.ema is not None
    assert state.evaluated_model is state.ema.module


def test_the_average_is_evaluated_only_if_there_is_one(build: Any) -> None:
    _, state = build(training={"ema": None})
    assert state.evaluated_model is state.model


def test_the_backbone_is_frozen_and_unfrozen(build: Any) -> None:
    setup, state = build()

    def trained() -> int:
        return sum(p.requires_grad for p in state.model.parameters())

    everything = trained()
    wrap_model(setup, state, head_only=True)
    assert 0 < trained() < everything
    wrapped = state.wrapped_model
    wrap_model(setup, state, head_only=True)
    assert state.wrapped_model is wrapped
    wrap_model(setup, state, head_only=False)
    assert trained() == everything
    assert state.wrapped_model is not wrapped


@pytest.mark.parametrize("field", ["monitor", "stop_monitor"])
def test_a_metric_that_does_not_exist_is_named(build: Any, field: str) -> None:
    with pytest.raises(TrainingError, match=rf"training\.{field} 'log_los' is not a metric.*log_l"):
        build(training={field: "log_los"})


@pytest.mark.parametrize(
    ("monitor", "mode", "best"),
    [("balanced_accuracy", "min", "max"), ("auc/mel", "min", "max"), ("loss", "max", "min")],
)
@pytest.mark.parametrize("field", ["monitor", "stop_monitor"])
def test_a_mode_that_selects_the_worst_value_is_refused(
    build: Any, field: str, monitor: str, mode: str, best: str
) -> None:
    name = field.replace("monitor", "mode")
    with pytest.raises(TrainingError, match=rf"{field} is {monitor}, .* training\.{name}={best}"):
        build(training={field: monitor, name: mode})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"training": {"mode": "min"}}, r"epoch, whose best .* training\.mode=max"),
        ({"schedule": {"name": "plateau"}}, r"schedule\.name plateau waits for a metric"),
        ({"training": {"patience": 3}}, r"training\.patience waits for a metric"),
    ],
)
def test_the_number_of_an_epoch_is_not_a_metric(
    build: Any, fields: dict[str, dict[str, object]], message: str
) -> None:
    training = {"monitor": "epoch", "mode": "max", **fields.get("training", {})}
    with pytest.raises(TrainingError, match=message):
        build(**{**fields, "training": training})


@torch.no_grad()
def test_synchronized_norms_keep_the_activations_in_them() -> None:
    torch.manual_seed(0)
    recipe = ModelRecipe("timm:tf_efficientnet_lite0")
    model = build_classifier(recipe, attention=AttentionRecipe("soft"), size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    before = model(images)
    model = convert_sync_norms(model)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    assert torch.equal(model(images), before)
