import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ranks
import torch

from ham10000.errors import CheckpointError, RecipeError, SplitError, cannot_write
from ham10000.recipe import Recipe
from ham10000.training import (
    INTERRUPTED,
    RunDir,
    checkpoint,
    checkpoint_file,
    open_run,
    session,
    train,
)
from ham10000.training.checkpoint import restore, save, snapshot
from ham10000.training.checkpoint_file import read_checkpoint, read_latest, write_checkpoint
from ham10000.training.data import prepare_data
from ham10000.training.processes import start_fabric
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


LAST: dict[str, object] = {"monitor": "epoch", "mode": "max"}
"""The best epoch is always the last one, so an older file is always wrong."""
FIRST: dict[str, object] = {"monitor": "epoch", "mode": "min", "keep": 1}
"""The best epoch is the first one, whose checkpoint is soon removed."""


@pytest.fixture(scope="module")
def any_mode() -> Iterator[None]:
    """Allow `FIRST`, which no user needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "check_monitor", lambda recipe: None)
        yield


@pytest.fixture(scope="module")
def last(recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("last") / "run"
    assert ranks.run(train, recipe(training=LAST), out) == [0]
    return out


@pytest.fixture(scope="module")
def first(recipe: MakeRecipe, any_mode: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("first") / "run"
    assert ranks.run(train, recipe(training=FIRST), out) == [0]
    return out


def unfinished(whole: Path, out: Path) -> RunDir:
    """Return a copy of a run that has trained to its end and has not predicted yet."""
    run = RunDir(Path(shutil.copytree(whole, out)))
    run.predictions().unlink()
    return run


def train_on_a_full_disk(
    recipe: Recipe, out: Path, refuses: Callable[[Path, dict[str, Any], int], bool]
) -> int:
    """Train while writes of some files fail, selected by path and content, a number of times."""
    count = 0

    def write(path: Path, content: dict[str, Any]) -> None:
        nonlocal count
        if refuses(path, content, count):
            count += 1
            raise cannot_write(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        write_checkpoint(path, content)

    checkpoint.write_checkpoint = write
    checkpoint_file.write_checkpoint = write
    return train(recipe, out)


def test_refused_best_weights_are_written_when_there_is_space(
    recipe: MakeRecipe, last: Path, tmp_path: Path
) -> None:
    def refuses(path: Path, content: dict[str, Any], count: int) -> bool:
        return path.name == "best.pt" and content["epoch"] >= 2 and count < 3

    assert ranks.run(train_on_a_full_disk, recipe(training=LAST), tmp_path, refuses) == [0]
    run = RunDir(tmp_path)
    assert "The best weights are not saved yet" in run.log.read_text()
    assert read_checkpoint(run.best)["epoch"] == 3
    assert run.predictions().read_bytes() == RunDir(last).predictions().read_bytes()


@pytest.mark.parametrize("steps_too", [False, True])
def test_a_disk_that_stays_full_fails_the_run_which_can_be_continued(
    recipe: MakeRecipe, last: Path, tmp_path: Path, steps_too: bool
) -> None:
    def refuses(path: Path, content: dict[str, Any], count: int) -> bool:
        epoch = content["epoch"] if path.name == "best.pt" else content["state"]["epoch"]
        return epoch >= 2 and (steps_too or path.name == "best.pt")

    mine = recipe(training=LAST)
    assert ranks.run(train_on_a_full_disk, mine, tmp_path, refuses) == [1]
    run = RunDir(tmp_path)
    assert not run.done
    log = run.log.read_text()
    assert "the weights of the best epoch, 3, cannot be written. Free some disk space" in log
    assert ranks.run(train, mine, tmp_path) == [0]
    assert run.predictions().read_bytes() == RunDir(last).predictions().read_bytes()


def test_best_weights_that_were_refused_outlive_an_interruption(
    recipe: MakeRecipe, first: Path, tmp_path: Path
) -> None:
    def refuses(path: Path, content: dict[str, Any], count: int) -> bool:
        return path.name == "best.pt"

    def interrupted() -> int:
        module: Any = sys.modules[train.__module__]
        train_step = module.train_step

        def stop(setup, state, *given):  # type: ignore[no-untyped-def]
            if state.counters.step == 7:  # in the second epoch, after two refused checkpoints
                os.kill(os.getpid(), 15)
            return train_step(setup, state, *given)

        module.train_step = stop
        return train_on_a_full_disk(recipe(training=FIRST), tmp_path, refuses)

    assert ranks.run(interrupted) == [INTERRUPTED]
    run = RunDir(tmp_path)
    log = run.log.read_text()
    assert "No checkpoint of step 6" in log
    assert "step 8 could not be saved. Continue from step-00000004.pt with: ham10000" in log
    assert [path.name for path in run.step_checkpoints()] == ["step-00000004.pt"]
    assert ranks.run(train, recipe(training=FIRST), tmp_path) == [0]
    assert run.predictions().read_bytes() == RunDir(first).predictions().read_bytes()


@pytest.mark.parametrize("fault", ["gone", "damaged", "older"])
def test_lost_best_weights_are_taken_from_the_checkpoint_of_their_epoch(
    recipe: MakeRecipe, last: Path, tmp_path: Path, fault: str
) -> None:
    run = unfinished(last, tmp_path / "run")
    before = read_checkpoint(run.best)
    spoil(run, fault)
    assert ranks.run(train, recipe(training=LAST), run.path) == [0]
    assert "Restored the best weights, of epoch 3, from" in run.log.read_text()
    after = read_checkpoint(run.best)
    weights = before.pop("model"), after.pop("model")
    assert after == before
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert run.predictions().read_bytes() == RunDir(last).predictions().read_bytes()


@pytest.mark.parametrize("fault", ["gone", "damaged", "older"])
def test_lost_best_weights_that_no_checkpoint_has_fail_the_run(
    recipe: MakeRecipe, first: Path, tmp_path: Path, fault: str
) -> None:
    run = unfinished(first, tmp_path / "run")
    spoil(run, fault)
    assert ranks.run(train, recipe(training=FIRST), run.path, ranks=2) == [1, 1]
    assert not run.done
    log = run.log.read_text()
    assert "of epoch 1: " in log
    assert "no checkpoint has them. Restore that file" in log
    with pytest.raises(CheckpointError, match="no checkpoint has them"):
        open_run(run.path).load_model()


def spoil(run: RunDir, fault: str) -> None:
    content = read_checkpoint(run.best)
    run.best.unlink()
    if fault == "damaged":
        run.best.write_bytes(b"cut short")
    elif fault == "older":
        write_checkpoint(run.best, {**content, "epoch": 0})


def test_a_run_without_a_best_epoch_fails(recipe: MakeRecipe, tmp_path: Path) -> None:
    def unmeasured() -> int:
        module: Any = sys.modules[train.__module__]
        measure = module.summarize
        module.summarize = lambda *given: {**measure(*given), "auc_weighted": float("nan")}
        return train(recipe(training={"monitor": "auc_weighted", "mode": "max"}), tmp_path)

    assert ranks.run(unmeasured) == [1]
    assert "auc_weighted was NaN in every epoch" in RunDir(tmp_path).log.read_text()


def test_metrics_that_can_not_be_written_fail_the_run(recipe: MakeRecipe, tmp_path: Path) -> None:
    def refused() -> int:
        from ham10000.training import journal

        def refuse(path: Path, text: str) -> None:
            raise cannot_write(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

        journal.write_text = refuse
        return train(recipe(training={"epochs": 1}), tmp_path)

    assert ranks.run(refused) == [1]
    assert not RunDir(tmp_path).done
    assert ranks.run(train, recipe(training={"epochs": 1}), tmp_path) == [0]
    assert len(RunDir(tmp_path).metrics.read_text().splitlines()) == 2


def exchanged(split: Path) -> str:
    """Swap a training lesion with a test lesion of its class; return an image that moved."""
    table = pd.read_csv(split, dtype=str)
    one, other = (
        table[(table["dx"] == "nv") & (table["split"] == part)]["lesion_id"].iloc[0]
        for part in ("train", "test")
    )
    table.loc[table["lesion_id"] == one, "split"] = "test"
    table.loc[table["lesion_id"] == other, "split"] = "train"
    table.to_csv(split, index=False)
    return str(table["image_id"][table["lesion_id"].isin([one, other])].iloc[0])


def test_an_edited_split_is_refused(recipe: MakeRecipe, last: Path, tmp_path: Path) -> None:
    run = unfinished(last, tmp_path / "run")
    name = exchanged(run.split)
    assert ranks.run(train, recipe(training=LAST), run.path, ranks=2) == [1, 1]
    log = run.log.read_text()
    assert f"split.csv was changed after training began: {name} was in t" in log
    assert not run.done
    with pytest.raises(SplitError, match=f"split.csv was changed.*{name}"):
        open_run(run.path).predict("test")
    shutil.copy(RunDir(last).split, run.split)
    assert ranks.run(train, recipe(training=LAST), run.path) == [0]
    assert run.predictions().read_bytes() == RunDir(last).predictions().read_bytes()


def test_an_edited_recipe_is_refused(recipe: MakeRecipe, last: Path, tmp_path: Path) -> None:
    run = unfinished(last, tmp_path / "run")
    text = run.recipe.read_text()
    run.recipe.write_text(text.replace("batch_size: 16", "batch_size: 8"))
    edited = recipe(training={**LAST, "batch_size": 8})
    assert ranks.run(train, edited, run.path) == [1]
    log = run.log.read_text()
    assert "changed after training began: training.batch_size was 16 and is now 8" in log
    with pytest.raises(RecipeError, match=r"training.batch_size was 16 and is now 8"):
        open_run(run.path).load_model()
