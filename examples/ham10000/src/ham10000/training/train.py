"""`train`: a recipe in, a run out. This is the whole of it, from top to bottom."""

import io
import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console

from ham10000.errors import Ham10000Error, TrainingError
from ham10000.evaluation import Predictions, write_predictions
from ham10000.models import parameter_table
from ham10000.recipe import Recipe
from ham10000.training.boards import Boards, open_boards
from ham10000.training.checkpoints import latest
from ham10000.training.cpu import keep_memory, share_cores
from ham10000.training.environment import describe_environment
from ham10000.training.folder import RunFolder, claim
from ham10000.training.inputs import open_split, prepare_inputs, splits_of
from ham10000.training.journal import Journal, try_write_metrics, write_metrics
from ham10000.training.launch import LAUNCHED
from ham10000.training.lock import LAUNCHER_LOCK, TRAINER_LOCK, lock_run
from ham10000.training.loop import fit
from ham10000.training.messages import clear_failures, logging_to
from ham10000.training.predict import predict
from ham10000.training.processes import gather, local_processes, start_fabric
from ham10000.training.randomness import repeat_exactly
from ham10000.training.saving import finish_best, recover_best
from ham10000.training.session import Session, build_session, restore
from ham10000.training.signals import INTERRUPTED, StopWish, listening
from ham10000.utils import write_text

__all__ = ["train"]

_LOG = logging.getLogger(__name__)


def train(recipe: Recipe, out: Path) -> int:
    """Train a recipe into a folder, or go on where an earlier process stopped.

    Called by each process of a run; torchrun says which one this is.

    Args:
        recipe: what to train.
        out: the run's folder.

    Returns:
        0, or `INTERRUPTED` if a signal or the recipe's `max_minutes` ended it early; then all is
        saved, and calling this again goes on.

    Raises:
        Ham10000Error: it can't be trained; what was saved stays.
    """
    wish = StopWish(recipe.training.max_minutes)
    with listening(wish), ExitStack() as held:
        tuned = [] if torch.cuda.is_available() else [keep_memory(), share_cores(local_processes())]
        repeat_exactly(recipe.training.deterministic)
        fabric = start_fabric(recipe.training.precision)
        run, recipe = _enter(recipe, out, fabric.global_rank, held)
        cache = prepare_inputs(run, recipe)
        with logging_to(run.log, shown=fabric.global_rank == 0), clear_failures(recipe, run):
            session = build_session(recipe, run, cache, fabric)
            _introduce(session, tuned)
            _resume(session)
            with _journal(session) as journal:
                ended = fit(session, journal, wish)
            if ended:
                _finish(session, cache)
            else:
                reason = next(filter(None, gather(wish.reason)), "somebody asked for it")
                _LOG.info(
                    "Stopped and saved, since %s. Go on with: ham10000 train --resume %s",
                    reason,
                    run.path,
                )
    if dist.is_initialized():
        dist.destroy_process_group()
    return 0 if ended else INTERRUPTED


def _enter(recipe: Recipe, out: Path, rank: int, held: ExitStack) -> tuple[RunFolder, Recipe]:
    """Lock and claim the folder on rank 0; the other ranks touch it only if that succeeds."""
    refusal: Ham10000Error | None = None
    if rank == 0:
        # A launcher holds its lock itself, for as long as it may start processes again.
        names = [TRAINER_LOCK] if LAUNCHED in os.environ else [LAUNCHER_LOCK, TRAINER_LOCK]
        try:
            held.enter_context(lock_run(out, *names))
            claim(out, recipe)
        except Ham10000Error as error:
            refusal = error
    refusal = gather(refusal)[0]
    if refusal is not None:
        raise refusal
    return claim(out, recipe)


def _introduce(session: Session, tuned: list[str]) -> None:
    fabric = session.fabric
    facts = describe_environment(fabric.device, fabric.world_size)
    if fabric.global_rank == 0:
        write_text(session.run.path / "environment.json", json.dumps(facts, indent=2) + "\n")
    _LOG.info(
        "%s: %d train, %d %s, on %d process%s of %s",
        session.recipe.name,
        len(session.data),
        len(session.validation),
        session.split,
        fabric.world_size,
        "es" * (fabric.world_size > 1),
        facts["device"],
    )
    for line in [*tuned, *_parameters(session)]:
        _LOG.info("%s", line)
    if session.split == "test" and session.recipe.training.monitor != "epoch":
        _LOG.warning(
            "The split has no validation set: %s of the test set chooses the weights, as the "
            "authors have it, and its numbers are better than they should be",
            session.recipe.training.monitor,
        )


def _parameters(session: Session) -> list[str]:
    """Return the parameters of each part, beside the authors' where they are known, as lines."""
    screen = Console(file=io.StringIO(), width=80)
    screen.print(parameter_table(session.model, session.recipe.model.authors_parameters))
    written: str = screen.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in written.splitlines()]


def _resume(session: Session) -> None:
    content = latest(session.run.checkpoints)
    steps = gather(0 if content is None else content["state"]["step"])
    if len(set(steps)) > 1:
        raise TrainingError(
            f"resuming {session.run.path}: the processes found checkpoints of the steps {steps}. "
            "All machines need the same folder: pass an --out on a disk that they share."
        )
    if content is None:
        return
    restore(session, content)
    if not session.run.done:
        recover_best(session)
    state = session.state
    _LOG.info("Going on from step %d, in epoch %d", state.step, state.epoch + 1)
    if session.rank == 0:
        try_write_metrics(session.run, state)


@contextmanager
def _journal(session: Session) -> Iterator[Journal]:
    shown = session.rank == 0
    boards = Boards()
    if shown:
        boards = open_boards(session.recipe, session.run, session.state.epoch)
    try:
        yield Journal(boards, session.recipe.training.epochs, shown=shown)
    finally:
        boards.close()


def _finish(session: Session, cache: Path) -> None:
    """Predict the splits that didn't train, with the best weights, all ranks together."""
    run, recipe = session.run, session.recipe
    if session.run.done:
        _LOG.info("This run is finished already")
        return
    session.model.load_state_dict(finish_best(session))
    if session.rank == 0:
        write_metrics(run, session.state)
    found: list[Predictions] = []
    # The test set comes last: its file says that the run is done.
    for split in splits_of(run)[1:]:
        data = open_split(cache, run, split, metadata=recipe.data.metadata)
        predictions = predict(
            session.model,
            data,
            recipe,
            split=split,
            device=session.fabric.device,
            rank=session.rank,
            replicas=session.plan.replicas,
            tta=recipe.training.tta,
        )
        found.append(predictions)
        if session.rank == 0:
            write_predictions(predictions, run.predictions(split))
    _LOG.info("The best weights are of epoch %s", session.state.best_epoch)
