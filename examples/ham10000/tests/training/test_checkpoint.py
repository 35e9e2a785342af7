from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ham10000.errors import CheckpointError, RecipeError, SplitError
from ham10000.recipe import Recipe
from ham10000.training.checkpoint import restore, save, snapshot
from ham10000.training.checkpoint_file import read_latest
from ham10000.training.data import prepare_data
from ham10000.training.distributed import start_fabric
from ham10000.training.reproducibility import random_state, set_random_state
from ham10000.training.run_dir import claim_run
from ham10000.training.session import Setup, build_session
from ham10000.training.state import TrainState

MakeRecipe = Callable[..., Recipe]
Build = Callable[..., tuple[Setup, TrainState]]


@pytest.fixture
def build(recipe: MakeRecipe, tmp_path: Path) -> Any:
    """Build sessions of one run, with some fields of the recipe changed."""
    before = random_state()

    def make(**parts: dict[str, object]) -> tuple[Setup, TrainState]:
        run, mine = claim_run(tmp_path / "run", recipe(**parts))
        return build_session(mine, run, prepare_data(run, mine), start_fabric("32"))

    yield make
    set_random_state(before)


def changed(state: TrainState) -> TrainState:
    """Change everything that a checkpoint holds."""
    for parameter in state.model.parameters():
        parameter.data.add_(1)
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    state.schedule.step()
    assert state.ema is not None
    state.ema.update_parameters(state.model)
    state.counters.step, state.counters.step_in_epoch, state.counters.best = 3, 3, 0.5
    state.metrics.add(torch.ones(2), torch.eye(7)[:2], torch.tensor([0, 1]))
    return state


def flat(content: Any) -> list[Any]:
    if isinstance(content, dict):
        return [part for name, value in content.items() for part in (name, *flat(value))]
    if isinstance(content, list | tuple):
        return [part for value in content for part in flat(value)]
    return content.flatten().tolist() if isinstance(content, torch.Tensor) else [content]


def test_a_restored_session_has_the_same_snapshot(build: Build) -> None:
    setup, state = build()
    changed(state)
    torch.rand(5)
    content = snapshot(setup, state)
    save(setup, state)
    setup, fresh = build()
    assert flat(snapshot(setup, fresh)) != flat(content)
    saved = read_latest(setup.run)
    assert saved is not None
    restore(setup, fresh, saved)
    assert flat(snapshot(setup, fresh)) == flat(content)


def test_with_another_number_of_ranks_the_metrics_are_summed(build: Build) -> None:
    setup, state = build()
    content = snapshot(setup, changed(state))
    content["ranks"] = content["ranks"] * 2
    restore(setup, state, content)
    assert state.metrics.loss == 4.0
    assert int(state.metrics.confusion.sum()) == 4


def test_checkpoints_of_something_else_are_refused(build: Build) -> None:
    setup, state = build()
    content = snapshot(setup, state)
    with pytest.raises(CheckpointError, match="version 0"):
        restore(setup, state, {**content, "version": 0})
    recipe = content["recipe"].replace("seed: 3", "seed: 4")
    with pytest.raises(RecipeError, match="seed was 4 and is now 3"):
        restore(setup, state, {**content, "recipe": recipe})
    with pytest.raises(SplitError, match=r"split\.csv was changed"):
        restore(setup, state, {**content, "split": "image_id,split\nISIC_0,test\n"})
    with pytest.raises(CheckpointError, match="of another model or optimizer"):
        restore(setup, state, {**content, "model": {}})
