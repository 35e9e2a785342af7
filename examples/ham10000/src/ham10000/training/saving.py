"""Write checkpoints and the weights of the best epoch, and find those weights again.

The best weights follow the checkpoint of their epoch: the file is written only after that
checkpoint, and no later checkpoint is written before the file. So whenever a run dies, the newest
checkpoint names a best epoch whose weights are in the file or in a checkpoint.
"""

import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from ham10000.errors import CheckpointError, Ham10000Error, MissingDataError, TrainingError
from ham10000.recipe import dump_recipe
from ham10000.training.checkpoints import (
    latest,
    read_checkpoint,
    save_step,
    steps_in,
    write_checkpoint,
)
from ham10000.training.consistency import load_recipe_text
from ham10000.training.folder import RunFolder
from ham10000.training.processes import gather
from ham10000.training.session import VERSION, Session, check_version, snapshot

__all__ = ["best_content", "best_file", "finish_best", "mark_best", "recover_best", "save"]

_LOG = logging.getLogger(__name__)


def save(session: Session) -> None:
    """Write a checkpoint, and the best weights if they are due.

    All ranks must call this at the same step. A failure, as of a full disk, is logged, and training
    goes on: the best weights are then kept in memory and written later.
    """
    content = snapshot(session)
    if session.rank != 0:
        return
    state = session.state
    due = session.unsaved_best
    if due is not None and not _ends(content, due["epoch"]) and not _write_best(session):
        _LOG.error("No checkpoint of step %d: the best weights must be written first.", state.step)
        return
    written = save_step(session.run.checkpoints, state.step, content, session.recipe.training.keep)
    if session.unsaved_best is not None and not (written and _write_best(session)):
        session.unsaved_best = _copied(session.unsaved_best)  # the next step changes the weights


def mark_best(session: Session) -> None:
    """Take the current weights for the best so far; the next `save` writes them."""
    if session.rank == 0:
        session.unsaved_best = _best_of(session)


def recover_best(session: Session) -> None:
    """Write the best weights again if a resumed run has lost them; all ranks must call this.

    Raises:
        CheckpointError: no kept checkpoint has them.
    """
    problem = ""
    if session.rank == 0 and session.state.best_epoch is not None:
        try:
            _recover(session, session.state.best_epoch)
        except Ham10000Error as error:
            problem = str(error)
    _raise_everywhere(problem, CheckpointError)


def finish_best(session: Session) -> dict[str, Any]:
    """Return the weights of the best epoch, from disk; all ranks must call this.

    Raises:
        TrainingError: they can't be written, or the file isn't of the best epoch.
    """
    run, epoch = session.run, session.state.best_epoch
    if epoch is None:
        raise TrainingError(
            f"choosing the best weights of {run.path}: training.monitor "
            f"{session.recipe.training.monitor} was not a number in any epoch. "
            "Choose another metric, such as log_loss, and train in another folder."
        )
    problem = ""
    if session.unsaved_best is not None and not _write_best(session):
        problem = (
            f"finishing {run.path}: the weights of the best epoch, {epoch}, can't be written. "
            f"Free some space on the disk, then: ham10000 train --resume {run.path}"
        )
    _raise_everywhere(problem, TrainingError)
    weights: dict[str, Any] = best_content(run, epoch)["model"]
    return weights


def best_content(run: RunFolder, epoch: int | None = None) -> dict[str, Any]:
    """Return what the file of best weights holds, if it is whole and of the best epoch.

    If it isn't, the same is taken from a checkpoint of the end of the best epoch.

    Args:
        run: the run's folder.
        epoch: the best epoch; the one that the newest checkpoint names unless given. A finished
            run with a whole file needs no checkpoint.

    Raises:
        MissingDataError: the run has no weights yet.
        CheckpointError: the file is damaged, gone or of another epoch, and no checkpoint has the
            best weights.
    """
    reason: Ham10000Error | None = None
    content: dict[str, Any] | None = None
    try:
        content = read_checkpoint(run.best)
    except (MissingDataError, CheckpointError) as error:
        reason = error
    if content is not None:
        check_version(content, f"reading {run.best}")
    steps = steps_in(run.checkpoints)
    if epoch is None and content is not None and (run.done or not steps):
        return content
    if not steps and content is None and not run.done:
        raise MissingDataError(
            f"opening the run {run.path}: it has no weights yet. "
            f"Train with: ham10000 train --resume {run.path}"
        ) from reason
    if epoch is None:
        newest = latest(run.checkpoints)
        if newest is None:
            assert reason is not None  # there is neither a file nor a checkpoint
            raise reason
        epoch = newest["state"]["best_epoch"]
        if epoch is None:
            _LOG.warning("%s has finished no epoch: its last weights are taken", run.path)
            return _best_in(newest)
    if content is not None and content["epoch"] == epoch:
        return content
    kept = _checkpoint_of(run, epoch)
    if kept is not None:
        if reason is not None:
            _LOG.error("%s", reason)
        _LOG.warning("The best weights, of epoch %d, are taken from a checkpoint", epoch)
        return _best_in(kept)
    raise CheckpointError(_lost(run, epoch, content, reason)) from reason


def best_file(run: RunFolder) -> Path | None:
    """Return the file that `best_content` reads; `None` if there is none."""
    if run.best.is_file():
        return run.best
    steps = steps_in(run.checkpoints)
    try:
        newest = latest(run.checkpoints)
    except CheckpointError:
        return None
    if newest is None:
        return None
    epoch = newest["state"]["best_epoch"]
    if epoch is None:
        return steps[0]
    return next((path for path in steps if _is_of(path, epoch)), None)


def _recover(session: Session, epoch: int) -> None:
    run, state = session.run, session.state
    reason: Ham10000Error | None = None
    content: dict[str, Any] | None = None
    try:
        content = read_checkpoint(run.best)
    except (MissingDataError, CheckpointError) as error:
        reason = error
    if content is not None and content["epoch"] == epoch:
        return
    if content is not None and content["epoch"] > state.epoch:
        # Written after a checkpoint that is damaged by now. Training repeats that epoch, and finds
        # the same; the end of the run checks it.
        return
    kept = _checkpoint_of(run, epoch)
    if kept is None:
        raise CheckpointError(_lost(run, epoch, content, reason)) from reason
    session.unsaved_best = _best_in(kept)
    if _write_best(session):
        _LOG.info("The best weights, of epoch %d, are restored from a checkpoint", epoch)


def _lost(
    run: RunFolder, epoch: int, content: dict[str, Any] | None, reason: Ham10000Error | None
) -> str:
    found = f"{run.best} is of epoch {content['epoch']}" if content is not None else str(reason)
    return (
        f"looking for the best weights of {run.path}, of epoch {epoch}: {found.rstrip('.')}, and "
        "no checkpoint has them. Restore that file, or train again in another folder."
    )


def _checkpoint_of(run: RunFolder, epoch: int) -> dict[str, Any] | None:
    """Return a kept checkpoint of the end of an epoch."""
    for path in steps_in(run.checkpoints):
        try:
            content = read_checkpoint(path)
        except Ham10000Error:
            continue
        if _ends(content, epoch):
            return content
    return None


def _is_of(path: Path, epoch: int) -> bool:
    try:
        return _ends(read_checkpoint(path), epoch)
    except Ham10000Error:
        return False


def _ends(content: dict[str, Any], epoch: int) -> bool:
    state = content["state"]
    return bool(state["epoch"] == epoch and state["step_in_epoch"] == 0)


def _best_of(session: Session) -> dict[str, Any]:
    return {
        "version": VERSION,
        "recipe": dump_recipe(session.recipe),
        "split": session.split_text,
        "model": session.evaluated.state_dict(),
        "epoch": session.state.best_epoch,
        session.recipe.training.monitor: session.state.best,
    }


def _best_in(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return what the file of best weights holds, from a checkpoint of the end of that epoch."""
    averaged, prefix = checkpoint["ema"], "module."
    return {
        "version": checkpoint["version"],
        "recipe": checkpoint["recipe"],
        "split": checkpoint["split"],
        "model": dict(checkpoint["model"])
        if averaged is None
        else {
            name.removeprefix(prefix): value
            for name, value in averaged.items()
            if name.startswith(prefix)
        },
        "epoch": checkpoint["state"]["epoch"],
        load_recipe_text(checkpoint["recipe"]).training.monitor: checkpoint["state"]["best"],
    }


def _write_best(session: Session) -> bool:
    assert session.unsaved_best is not None
    try:
        write_checkpoint(session.run.best, session.unsaved_best)
    except Ham10000Error as error:
        _LOG.error("The best weights are not saved yet: %s Training goes on.", error)
        return False
    session.unsaved_best = None
    return True


def _copied(content: dict[str, Any]) -> dict[str, Any]:
    weights = {
        name: value.detach().cpu().clone() if isinstance(value, Tensor) else value
        for name, value in content["model"].items()
    }
    return {**content, "model": weights}


def _raise_everywhere(problem: str, kind: type[Ham10000Error]) -> None:
    # Rank 0 alone reads and writes; if only it failed, the others would wait for it.
    found = next(filter(None, gather(problem)), None)
    if found is not None:
        raise kind(found)
