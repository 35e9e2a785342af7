from collections.abc import Callable
from pathlib import Path

import pytest
import ranks
import torch
from torch import nn

from ham10000.data import DX_TYPES
from ham10000.recipe import Recipe
from ham10000.training import session as sessions
from ham10000.training import step
from ham10000.training.data import prepare_data
from ham10000.training.journal import Journal
from ham10000.training.loggers import Loggers
from ham10000.training.processes import StopRequest, start_fabric
from ham10000.training.run_dir import claim_run
from ham10000.training.step import StepTimer
from ham10000.training.train import train_one_epoch

MakeRecipe = Callable[..., Recipe]


def without_norms(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.Identity())
        else:
            without_norms(child)
    return module


def write_gradients(recipe: Recipe, out: Path, result: Path) -> None:
    build = sessions.build_model
    sessions.build_model = lambda *args, **options: without_norms(build(*args, **options))
    run, recipe = claim_run(out, recipe)
    cache = prepare_data(run, recipe)
    setup, state = sessions.build_session(recipe, run, cache, start_fabric("32"))
    found: list[list[torch.Tensor]] = []

    def note(*_: object) -> None:
        found.append([parameter.grad.clone() for parameter in state.model.parameters()])

    state.optimizer.register_step_pre_hook(note)
    journal = Journal(Loggers(), 1, shown=False)
    with journal.epoch(state.counters, setup.plan.steps):
        train_one_epoch(setup, state, journal, StopRequest(), StepTimer())
    if setup.rank == 0:
        torch.save(found, result)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_do_not_depend_on_how_images_are_shared_out(
    recipe: MakeRecipe, tmp_path: Path, accumulate: int
) -> None:
    # 37 images: two batches of 16, and a last one of 5, which is 3 for one rank and 2 for another.
    mine = recipe(
        data={"epoch_samples": 37},
        model={"drop_rate": 0.0},
        attention={"drop_rate": 0.0},
        optimizer={"name": "sgd", "lr": 0.01, "momentum": 0.0, "accumulate": accumulate},
        loss={"class_weights": {"mel": 5.0, "nv": 0.5}, "dx_type_weights": {"histo": 2.0}},
    )
    for count in (1, 2):
        done = ranks.run(
            write_gradients, mine, tmp_path / f"run{count}", tmp_path / f"{count}.pt", ranks=count
        )
        assert done == [0] * count
    one, two = (torch.load(tmp_path / f"{count}.pt", weights_only=True) for count in (1, 2))
    assert len(one) == len(two) == (3 if accumulate == 1 else 2)
    for first, second in zip(one, two, strict=True):
        assert max(part.abs().max() for part in first) > 1e-3
        for a, b in zip(first, second, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_the_gradient_of_an_image_is_weighted_by_its_confirmation(
    recipe: MakeRecipe, tmp_path: Path
) -> None:
    gradients = []
    for name, weights in (
        ("half", dict.fromkeys(DX_TYPES, 0.5)),
        ("histo", {name: float(name == "histo") for name in DX_TYPES}),
        ("other", {name: float(name != "histo") for name in DX_TYPES}),
    ):
        mine = recipe(
            data={"epoch_samples": 16},
            model={"drop_rate": 0.0},
            attention={"drop_rate": 0.0},
            optimizer={"name": "sgd", "lr": 0.01, "momentum": 0.0},
            loss={"dx_type_weights": weights},
        )
        assert ranks.run(write_gradients, mine, tmp_path / name, tmp_path / f"{name}.pt") == [0]
        (found,) = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        gradients.append(found)
    for half, histo, other in zip(*gradients, strict=True):
        torch.testing.assert_close(2 * half, histo + other, rtol=1e-4, atol=1e-6)
    assert all(float(each.abs().sum()) > 0 for each in (gradients[1][0], gradients[2][0]))


def test_times_of_a_part_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 5.0, 8.0])
    monkeypatch.setattr(step.time, "perf_counter", lambda: next(now))
    timer = StepTimer()
    for _ in range(2):
        with timer.time("forward"):
            pass
    assert timer.forward == 4.0
    assert timer.shares() == "data 0%, forward 100%, backward 0%, update 0%"
    assert StepTimer().shares().startswith("data 0%")
