"""The content of a checkpoint: take it from a session, restore it, save it."""

import logging
from typing import Any

from ham10000.errors import CheckpointError
from ham10000.recipe import dump_recipe
from ham10000.training.best_weights import is_end_of_epoch, keep_best_in_memory, write_best
from ham10000.training.checkpoint_file import VERSION, check_version, save_step
from ham10000.training.distributed import gather
from ham10000.training.reproducibility import random_state, seed_all, set_random_state
from ham10000.training.run_dir import check_same_recipe, check_same_split
from ham10000.training.session import Setup
from ham10000.training.state import Counters, RunningMetrics, TrainState

__all__ = ["restore", "save", "snapshot"]

_LOG = logging.getLogger(__name__)


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
    overdue = due is not None and not is_end_of_epoch(content, due["epoch"])
    if overdue and not write_best(setup.run, state):
        _LOG.error("No checkpoint of step %d: the best weights must be written first.", step)
        return
    written = save_step(setup.run, step, content, setup.recipe.training.keep)
    if state.unsaved_best is not None and not (written and write_best(setup.run, state)):
        keep_best_in_memory(state)


def snapshot(setup: Setup, state: TrainState) -> dict[str, Any]:
    """Return the content of a checkpoint; a collective operation."""
    scaler = getattr(setup.fabric.strategy.precision, "scaler", None)
    counters = state.counters
    setup.sampler.set_epoch(counters.epoch, setup.plan.images_before(counters.step_in_epoch))
    ranks = gather({"random": random_state(), "metrics": state.metrics.state_dict()})
    return {
        "version": VERSION,
        "recipe": dump_recipe(setup.recipe),
        "split": setup.split_text,
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
        CheckpointError: the checkpoint is of another version or another model.
        RecipeError: the recipe was changed after the checkpoint was written.
        SplitError: the split was changed after the checkpoint was written.
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
