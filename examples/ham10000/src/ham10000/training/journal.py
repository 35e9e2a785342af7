"""What a run says about itself: to a person, to metrics.jsonl, to TensorBoard and to W&B."""

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ham10000.errors import Ham10000Error
from ham10000.evaluation import Predictions
from ham10000.training.boards import Boards
from ham10000.training.folder import RunFolder
from ham10000.training.plan import EpochPlan
from ham10000.training.progress import EpochProgress
from ham10000.training.session import Session
from ham10000.training.state import State
from ham10000.training.steps import Clock
from ham10000.utils import write_text

__all__ = ["Journal", "try_write_metrics", "write_metrics"]

_LOG = logging.getLogger(__name__)
_SHOWN = ("loss", "accuracy", "balanced_accuracy", "auc_weighted")
_SHORT = {"balanced_accuracy": "balanced", "auc_weighted": "AUC"}


class Journal:
    """The voice of a run; only that of rank 0 is heard.

    Args:
        boards: TensorBoard and W&B.
        epochs: of the recipe.
        shown: whether this process speaks.
    """

    def __init__(self, boards: Boards, epochs: int, *, shown: bool) -> None:
        self.boards, self.epochs, self.shown = boards, epochs, shown
        self.progress: EpochProgress | None = None
        self.note = ""

    @contextmanager
    def epoch(self, state: State, plan: EpochPlan) -> Iterator[None]:
        """Show the steps of an epoch while they are done."""
        self.progress = EpochProgress(
            f"epoch {state.epoch + 1}/{self.epochs}",
            plan.steps,
            state.step_in_epoch,
            self.note,
            shown=self.shown,
        )
        self.started = time.monotonic()
        try:
            yield
        finally:
            self.seconds, self.rate = time.monotonic() - self.started, self.progress.rate
            self.progress.close()

    def step(self, loss: float, images: int) -> None:
        """Count a step."""
        assert self.progress is not None  # within `epoch`
        self.progress.step(loss, images)

    def pace(self) -> dict[str, float]:
        """Return how fast the epoch was trained; of its last part, if it was resumed."""
        return {"images_per_second": self.rate, "seconds": self.seconds}

    def end_epoch(
        self,
        session: Session,
        train: dict[str, Any],
        validation: dict[str, Any],
        predictions: Predictions,
        clock: Clock,
    ) -> None:
        """Note what an epoch gave."""
        validation["seconds"] = time.monotonic() - self.started - self.seconds
        session.state.records += [_plain(train), _plain(validation)]
        if not self.shown:
            return
        try_write_metrics(session.run, session.state)
        self.note = _brief(validation)
        _LOG.info(
            "epoch %d/%d: train %s; %s %s%s",
            session.state.epoch,
            self.epochs,
            _brief(train),
            session.split,
            self.note,
            ", best so far" if session.state.best_epoch == session.state.epoch else "",
        )
        _LOG.info(
            "  %.0f s and %.0f s to evaluate, %.0f images/s; %s",
            self.seconds,
            validation["seconds"],
            self.rate,
            clock.shares(),
        )
        self.boards.add(session, train, validation, predictions)


def write_metrics(run: RunFolder, state: State) -> None:
    """Write metrics.jsonl from the recorded epochs, so that no epoch is there twice.

    Raises:
        WriteError: the disk is full, or the file may not be written.
    """
    write_text(run.metrics, "".join(json.dumps(record) + "\n" for record in state.records))


def try_write_metrics(run: RunFolder, state: State) -> None:
    """Write metrics.jsonl, or log that it failed; the next epoch writes all of it again."""
    try:
        write_metrics(run, state)
    except Ham10000Error as error:
        _LOG.error("%s Training goes on.", error)


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    # JSON has no NaN.
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }


def _brief(record: dict[str, Any]) -> str:
    return " ".join(
        f"{_SHORT.get(name, name)} {record[name]:.4f}" for name in _SHOWN if name in record
    )
