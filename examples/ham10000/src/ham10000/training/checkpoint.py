"""Save and restore a session, and keep the weights of its best epoch.

The file of best weights is written after the checkpoint of its epoch, and no later checkpoint is
written before it. So at any time the newest checkpoint names a best epoch whose weights are in
that file or in a checkpoint, and a run never predicts with the weights of another epoch.
"""

import logging
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from ham10000.data import check_same_split
from ham10000.errors import CheckpointError, Ham10000Error, MissingDataError, TrainingError
from ham10000.recipe import dump_recipe
from ham10000.training.checkpoint_file import (
    VERSION,
    check_version,
    read_checkpoint,
    read_latest,
    save_step,
    write_checkpoint,
)
from ham10000.training.processes import all_gather
from ham10000.training.reproducibility import random_state, seed_all, set_random_state
from ham10000.training.run_dir import RunDir, check_same_recipe
from ham10000.training.session import Setup
from ham10000.training.state import Counters, RunningMetrics, TrainState

__all__ = [
    "best_file",
    "final_weights",
    "mark_best",
    "read_best",
    "recover_best",
    "restore",
    "save",
    "snapshot",
]

_LOG = logging.getLogger(__name__)
_AVERAGE = "module."
"""Prefix of the weights in the state dict of an `AveragedModel`."""


def save(setup: Setup, state: TrainState) -> None:
    """Write a checkpoint, and the best weights if they are due; a collective operation.

    A failure, such as a full disk, is logged, and training continues. Best weights that cannot be
    written stay in memory until the next attempt.
    """
    content = snapshot(setup, state)
    if setup.rank != 0:
        return
    step, due = state.counters.step, state.unsaved_best
    # This checkpoint must not name a best epoch whose weights are neither on disk nor in it.
    overdue = due is not None and not _is_end_of_epoch(content, due["epoch"])
    if overdue and not _write_best(setup.run, state):
        _LOG.error("No checkpoint of step %d: the best weights must be written first.", step)
        return
    written = save_step(setup.run, step, content, setup.recipe.training.keep)
    if state.unsaved_best is not None and not (written and _write_best(setup.run, state)):
        _keep_best_in_memory(state)


def snapshot(setup: Setup, state: TrainState) -> dict[str, Any]:
    """Return the content of a checkpoint; a collective operation."""
    scaler = getattr(setup.fabric.strategy.precision, "scaler", None)
    counters = state.counters
    setup.sampler.set_epoch(counters.epoch, setup.plan.images_before(counters.step_in_epoch))
    ranks = all_gather({"random": random_state(), "metrics": state.metrics.state_dict()})
    return {
        "version": VERSION,
        "recipe": dump_recipe(setup.recipe),
        "split": setup.split_text,
        "classes": setup.train_data.classes,
        "state": counters.state_dict(),
        "model": state.model.state_dict(),
        "ema": None if state.ema is None else state.ema.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "schedule": state.schedule.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "sampler": setup.sampler.state_dict(),
        "ranks": ranks,
    }


def restore(setup: Setup, state: TrainState, content: dict[str, Any]) -> None:
    """Restore the state that `snapshot` returned.

    With another number of ranks the run continues too, with new random numbers for dropout.

    Raises:
        CheckpointError: The checkpoint is of another version or another model.
        RecipeError: The recipe was changed after the checkpoint was written.
        SplitError: The split was changed after the checkpoint was written.
    """
    doing = f"resuming {setup.run.path}"
    check_version(content, doing)
    check_same_recipe(content["recipe"], setup.recipe, doing)
    check_same_split(content["split"], setup.split_text, doing)
    try:
        state.model.load_state_dict(content["model"])
        if state.ema is not None:
            state.ema.load_state_dict(content["ema"])
        state.optimizer.load_state_dict(content["optimizer"])
        state.schedule.load_state_dict(content["schedule"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{doing}: the checkpoint is of another model or optimizer ({error})."
        ) from error
    if content["scaler"] is not None:
        setup.fabric.strategy.precision.load_state_dict(content["scaler"])
    setup.sampler.load_state_dict(content["sampler"])
    state.counters = Counters(**content["state"])
    ranks, rank = content["ranks"], setup.rank
    if len(ranks) == setup.fabric.world_size:
        state.metrics = RunningMetrics.sum([ranks[rank]["metrics"]])
        set_random_state(ranks[rank]["random"])
        return
    state.metrics = RunningMetrics.sum([part["metrics"] for part in ranks] if rank == 0 else [])
    seed_all(setup.recipe.seed + state.counters.step, rank)


def mark_best(setup: Setup, state: TrainState) -> None:
    """Mark the current weights as the best so far; the next `save` writes them."""
    if setup.rank == 0:
        state.unsaved_best = {
            "version": VERSION,
            "recipe": dump_recipe(setup.recipe),
            "split": setup.split_text,
            "classes": setup.train_data.classes,
            "model": state.evaluated_model.state_dict(),
            "epoch": state.counters.best_epoch,
            setup.recipe.training.monitor: state.counters.best,
        }


def _write_best(run: RunDir, state: TrainState) -> bool:
    """Write the marked weights, or log the failure; return whether they were written."""
    assert state.unsaved_best is not None
    try:
        write_checkpoint(run.best, state.unsaved_best)
    except Ham10000Error as error:
        _LOG.error("The best weights are not saved yet: %s Training continues.", error)
        return False
    state.unsaved_best = None
    return True


def _keep_best_in_memory(state: TrainState) -> None:
    """Copy the marked weights, because the next step changes them in place."""
    assert state.unsaved_best is not None
    weights = {
        name: value.detach().cpu().clone() if isinstance(value, Tensor) else value
        for name, value in state.unsaved_best["model"].items()
    }
    state.unsaved_best = {**state.unsaved_best, "model": weights}


def recover_best(setup: Setup, state: TrainState) -> None:
    """Write the best weights again if a resumed run has lost them; a collective operation.

    Raises:
        CheckpointError: No checkpoint has them either.
    """
    problem = ""
    if setup.rank == 0 and state.counters.best_epoch is not None:
        try:
            _recover(setup.run, state, state.counters.best_epoch)
        except Ham10000Error as error:
            problem = str(error)
    _raise_on_all_ranks(problem, CheckpointError)


def final_weights(setup: Setup, state: TrainState) -> dict[str, Any]:
    """Return the weights of the best epoch from disk, at the end; a collective operation.

    Raises:
        TrainingError: There is no best epoch, or its weights cannot be written.
        CheckpointError: They are lost.
    """
    run, epoch = setup.run, state.counters.best_epoch
    if epoch is None:
        raise TrainingError(
            f"finishing {run.path}: training.monitor {setup.recipe.training.monitor} was NaN in "
            "every epoch. Choose another metric, such as log_loss, and train in another folder."
        )
    problem = ""
    if state.unsaved_best is not None and not _write_best(run, state):
        problem = (
            f"finishing {run.path}: the weights of the best epoch, {epoch}, cannot be written. "
            f"Free some disk space, then run: ham10000 train --resume {run.path}"
        )
    _raise_on_all_ranks(problem, TrainingError)
    weights: dict[str, Any] = read_best(run, epoch)["model"]
    return weights


def read_best(run: RunDir, epoch: int | None = None) -> dict[str, Any]:
    """Return the content of the file of best weights, verified to be of the best epoch.

    If the file is damaged, missing or of another epoch, the same content is taken from a
    checkpoint of the end of the best epoch.

    Args:
        run: The folder of the run.
        epoch: The best epoch; by default the one that the newest checkpoint names. The file of a
            finished run needs no checkpoint, because it was verified at the end.

    Raises:
        MissingDataError: The run has no weights yet.
        CheckpointError: The best weights are lost.
    """
    content, problem = _read_file(run)
    has_steps = bool(run.step_checkpoints())
    if epoch is None and content is not None and (run.done or not has_steps):
        return content
    if content is None and not has_steps and not run.done:
        raise MissingDataError(
            f"opening the run {run.path}: it has no weights yet. "
            f"Train with: ham10000 train --resume {run.path}"
        ) from problem
    if epoch is None:
        latest = read_latest(run)
        if latest is None:
            assert problem is not None  # without a checkpoint, an undamaged file was returned
            raise problem
        epoch = latest["state"]["best_epoch"]
        if epoch is None:
            _LOG.warning("%s has not finished an epoch: using its latest weights", run.path)
            return _best_of(latest)
    if content is not None and content["epoch"] == epoch:
        return content
    path = _checkpoint_of(run, epoch)
    if path is None:
        raise CheckpointError(_lost(run, epoch, content, problem)) from problem
    if problem is not None:
        _LOG.error("%s", problem)
    _LOG.warning("Using the best weights, of epoch %d, from %s", epoch, path)
    return _best_of(read_checkpoint(path))


def best_file(run: RunDir) -> Path | None:
    """Return the file that has the best weights; `None` if there is none."""
    if run.best.is_file():
        return run.best
    try:
        latest = read_latest(run)
    except CheckpointError:
        return None
    if latest is None:
        return None
    epoch = latest["state"]["best_epoch"]
    return run.step_checkpoints()[0] if epoch is None else _checkpoint_of(run, epoch)


def _is_end_of_epoch(checkpoint: dict[str, Any], epoch: int) -> bool:
    """Return whether a checkpoint was written at the end of an epoch, counted from 1."""
    counters = checkpoint["state"]
    return bool(counters["epoch"] == epoch and counters["step_in_epoch"] == 0)


def _recover(run: RunDir, state: TrainState, epoch: int) -> None:
    content, problem = _read_file(run)
    if content is not None and content["epoch"] == epoch:
        return
    if content is not None and content["epoch"] > state.counters.epoch:
        # The checkpoint of that epoch has been damaged since. Training repeats the epoch with the
        # same result, and the end of the run verifies the file.
        return
    path = _checkpoint_of(run, epoch)
    if path is None:
        raise CheckpointError(_lost(run, epoch, content, problem)) from problem
    state.unsaved_best = _best_of(read_checkpoint(path))
    if _write_best(run, state):
        _LOG.info("Restored the best weights, of epoch %d, from %s", epoch, path)


def _read_file(run: RunDir) -> tuple[dict[str, Any] | None, Ham10000Error | None]:
    try:
        content = read_checkpoint(run.best)
    except (MissingDataError, CheckpointError) as error:
        return None, error
    check_version(content, f"reading {run.best}")
    return content, None


def _checkpoint_of(run: RunDir, epoch: int) -> Path | None:
    for path in run.step_checkpoints():
        try:
            if _is_end_of_epoch(read_checkpoint(path), epoch):
                return path
        except Ham10000Error:
            continue
    return None


def _best_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the content of the file of best weights, from a checkpoint of the best epoch."""
    check_version(checkpoint, "reading the best weights from a checkpoint")
    average = checkpoint["ema"]
    weights = dict(checkpoint["model"])
    if average is not None:
        weights = {
            name.removeprefix(_AVERAGE): value
            for name, value in average.items()
            if name.startswith(_AVERAGE)
        }
    monitor = yaml.safe_load(checkpoint["recipe"])["training"]["monitor"]
    return {
        "version": checkpoint["version"],
        "recipe": checkpoint["recipe"],
        "classes": checkpoint.get("classes", ()),
        "split": checkpoint["split"],
        "model": weights,
        "epoch": checkpoint["state"]["epoch"],
        monitor: checkpoint["state"]["best"],
    }


def _lost(
    run: RunDir, epoch: int, content: dict[str, Any] | None, problem: Ham10000Error | None
) -> str:
    found = f"{run.best} is of epoch {content['epoch']}" if content is not None else str(problem)
    return (
        f"looking for the best weights of {run.path}, of epoch {epoch}: {found.rstrip('.')}, and "
        "no checkpoint has them. Restore that file, or train again in another folder."
    )


def _raise_on_all_ranks(problem: str, kind: type[Ham10000Error]) -> None:
    # Only rank 0 reads and writes. If it alone failed, the other ranks would wait for it.
    found = next(filter(None, all_gather(problem)), None)
    if found is not None:
        raise kind(found)
