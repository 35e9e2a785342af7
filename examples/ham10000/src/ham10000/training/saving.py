"""When rank 0 writes what all ranks have: a checkpoint, or the weights of the best epoch."""

import logging
from typing import Any

from ham10000.errors import CheckpointError, Ham10000Error, MissingDataError
from ham10000.recipe import dump_recipe
from ham10000.training.checkpoints import (
    latest,
    read_checkpoint,
    save_step,
    steps_in,
    write_checkpoint,
)
from ham10000.training.folder import RunFolder
from ham10000.training.session import VERSION, Session, snapshot

__all__ = ["best_weights", "save", "save_best"]

_LOG = logging.getLogger(__name__)


def save(session: Session) -> None:
    """Write a checkpoint; all ranks must call this at the same step."""
    content = snapshot(session)
    if session.rank == 0:
        keep = session.recipe.training.keep
        save_step(session.run.checkpoints, session.state.step, content, keep)


def save_best(session: Session) -> None:
    """Write the weights that an evaluation has found to be the best so far."""
    if session.rank != 0:
        return
    content = {
        "version": VERSION,
        "recipe": dump_recipe(session.recipe),
        "model": session.evaluated.state_dict(),
        "epoch": session.state.best_epoch,
        session.recipe.training.monitor: session.state.best,
    }
    try:
        write_checkpoint(session.run.best, content)
    except Ham10000Error as error:
        _LOG.error("The best weights so far are not saved: %s Training goes on.", error)


def best_weights(run: RunFolder) -> dict[str, Any]:
    """Return the state dict of a run's best weights, or of its last ones if those are damaged.

    Raises:
        MissingDataError: the run has no weights yet.
        CheckpointError: none are whole.
    """
    try:
        weights: dict[str, Any] = read_checkpoint(run.best)["model"]
        return weights
    except MissingDataError as error:
        if not steps_in(run.checkpoints):
            raise MissingDataError(
                f"opening the run {run.path}: it has no weights yet. "
                f"Train with: ham10000 train --resume {run.path}"
            ) from error
        reason: Ham10000Error = error
    except CheckpointError as error:
        reason = error
    _LOG.error("%s The last weights are taken instead of the best.", reason)
    content = latest(run.checkpoints)
    if content is None:
        raise reason
    if content["ema"] is None:
        return dict(content["model"])
    prefix = "module."
    averaged = content["ema"]
    return {
        name.removeprefix(prefix): averaged[name] for name in averaged if name.startswith(prefix)
    }
