"""The record of a run: text log, progress, metrics.jsonl, loggers, and messages for failures."""

import json
import logging
import math
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ham10000.errors import Ham10000Error, TrainingError
from ham10000.evaluation import Predictions, metric_name
from ham10000.recipe import Recipe
from ham10000.training.loggers import Loggers
from ham10000.training.run_dir import RunDir
from ham10000.training.session import Setup
from ham10000.training.state import Counters, TrainState
from ham10000.training.step import StepTimer
from ham10000.utils import write_text

__all__ = [
    "EpochProgress",
    "Journal",
    "explain_failures",
    "log_to",
    "table_head",
    "table_row",
    "try_write_metrics",
    "without_nan",
    "write_metrics",
]

_LOG = logging.getLogger(__name__)
_PACKAGE = logging.getLogger("ham10000")
_RAISED = {"raised": True}
"""Marks records of errors that are raised as well, and so printed by the caller."""
_CONNECTION_ERRORS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "timed out",
    "Timed out",
    "NCCL",
)
_MEMORY_ERRORS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_FILE_ONLY = {"file_only": True}
"""Marks records for the text log alone."""
_TRAIN_COLUMNS = ("loss", "accuracy")
_VALIDATION_COLUMNS = ("loss", "accuracy", "balanced_accuracy", "auc_weighted")
_COLUMN_WIDTH = 9
"""Width of a column of the table of epochs, which has at most 80 columns."""
_SECONDS = 60.0
"""Time between two lines if standard error is not a terminal."""
_SMOOTHING = 0.05
"""Weight of a step in the moving average of the loss that is shown."""


class _Bar(Progress):
    """A progress bar with a line of text below it."""

    note = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.note:
            yield Text(self.note, no_wrap=True, overflow="ellipsis")


class EpochProgress:
    """Progress of an epoch: a bar on a terminal, otherwise a line of the log every minute.

    Args:
        title: The start of each line.
        steps: Number of steps of the epoch.
        done: Number of steps that are done already.
        note: Text below the bar, with the metrics so far.
        shown: Whether this process shows anything.
    """

    def __init__(self, title: str, steps: int, done: int, note: str, *, shown: bool) -> None:
        self.title, self.steps, self.done, self.shown = title, steps, done, shown
        self.images = 0
        self.loss: float | None = None
        self.start = self._said = time.monotonic()
        self._bar: _Bar | None = None
        if shown and sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[rate]}"),
            )
            self._bar = _Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.note = note
            self._task = self._bar.add_task(title, total=steps, completed=done, rate="")
            self._bar.start()

    @property
    def rate(self) -> float:
        """Images per second since the start."""
        return self.images / max(1e-9, time.monotonic() - self.start)

    def step(self, loss: float, images: int) -> None:
        """Count a step."""
        self.done += 1
        self.images += images
        if self.loss is None or math.isnan(self.loss):
            self.loss = loss
        elif not math.isnan(loss):
            self.loss += _SMOOTHING * (loss - self.loss)
        if not self.shown:
            return
        if self._bar is not None:
            text = f"{self.rate:.0f} images/s loss {self.loss:.3f}"
            self._bar.update(self._task, completed=self.done, rate=text)
        elif time.monotonic() - self._said > _SECONDS:
            self._said = time.monotonic()
            seconds_per_image = (self._said - self.start) / max(1, self.images)
            remaining = seconds_per_image * (self.steps - self.done) * images
            _LOG.info(
                "%s step %d/%d, loss %.3f, %.0f images/s, %.0f s left",
                self.title,
                self.done,
                self.steps,
                self.loss,
                self.rate,
                remaining,
            )

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Journal:
    """Records the progress and the results of epochs; only rank 0 writes.

    Args:
        loggers: TensorBoard and W&B.
        epochs: Number of epochs of the recipe.
        shown: Whether this process writes.
    """

    def __init__(self, loggers: Loggers, epochs: int, *, shown: bool) -> None:
        self.loggers, self.epochs, self.shown = loggers, epochs, shown
        self.progress: EpochProgress | None = None
        self.note = ""
        self._started_table = False

    @contextmanager
    def epoch(self, counters: Counters, steps: int) -> Iterator[None]:
        """Show a progress bar for the steps of an epoch within the context."""
        self.progress = EpochProgress(
            f"epoch {counters.epoch + 1}/{self.epochs}",
            steps,
            counters.step_in_epoch,
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
        """Return the speed of the epoch; of its last part, if the run was resumed within it."""
        return {"images_per_second": self.rate, "seconds": self.seconds}

    def end_epoch(
        self,
        setup: Setup,
        state: TrainState,
        train: dict[str, Any],
        validation: dict[str, Any],
        predictions: Predictions,
        timer: StepTimer,
    ) -> None:
        """Record the results of an epoch."""
        counters = state.counters
        validation["seconds"] = time.monotonic() - self.started - self.seconds
        counters.records += [without_nan(train), without_nan(validation)]
        if not self.shown:
            return
        try_write_metrics(setup.run, counters)
        self.note = _brief(validation)
        if not self._started_table:
            for line in table_head(setup.validation_split):
                _LOG.info("%s", line)
            self._started_table = True
        is_best = counters.best_epoch == counters.epoch
        _LOG.info("%s", table_row(train, validation, self.epochs, is_best=is_best))
        _LOG.info(
            "%.0f s of training: %s; %.0f s of evaluation",
            self.seconds,
            timer.shares(),
            validation["seconds"],
            extra=_FILE_ONLY,
        )
        self.loggers.add(setup, state, train, validation, predictions)


def write_metrics(run: RunDir, counters: Counters) -> None:
    """Write metrics.jsonl from the recorded epochs, so that each epoch occurs once.

    Raises:
        WriteError: The disk is full, or the file may not be written.
    """
    write_text(run.metrics, "".join(json.dumps(record) + "\n" for record in counters.records))


def try_write_metrics(run: RunDir, counters: Counters) -> None:
    """Write metrics.jsonl, or log that it failed; the next epoch writes all of it again."""
    try:
        write_metrics(run, counters)
    except Ham10000Error as error:
        _LOG.error("%s Training continues.", error)


def without_nan(record: dict[str, Any]) -> dict[str, Any]:
    """Replace values that are not finite by `None`, since JSON has neither NaN nor infinity."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }


def table_head(validation_split: str) -> list[str]:
    """Return the head of the table of epochs.

    Args:
        validation_split: The split that the columns on the right are of.
    """
    names = [*_TRAIN_COLUMNS, *_VALIDATION_COLUMNS]
    titles = [textwrap.wrap(metric_name(name), _COLUMN_WIDTH - 1) for name in names]
    cells = [["epoch "], *titles, ["time"], ["images/s"]]
    groups = f"{'train':>{2 * _COLUMN_WIDTH - 1}}{validation_split:>{2 * _COLUMN_WIDTH}}"
    lines = [f"{groups:{6 * _COLUMN_WIDTH}}{'* = best so far':>{8 + 2 * _COLUMN_WIDTH - 1}}"]
    for row in zip_longest(*cells, fillvalue=""):
        first, *others = row
        lines.append(f"{first:>8}" + "".join(f"{cell:>{_COLUMN_WIDTH}}" for cell in others))
    return [line.rstrip() for line in lines]


def table_row(
    train: dict[str, Any], validation: dict[str, Any], epochs: int, *, is_best: bool
) -> str:
    """Return the row of an epoch, with the time of training and evaluation.

    Args:
        train: The record of the training images.
        validation: The record of the validation images.
        epochs: Number of epochs of the recipe.
        is_best: Whether the epoch is marked as the best so far.
    """
    values = [train[name] for name in _TRAIN_COLUMNS] + [
        validation[name] for name in _VALIDATION_COLUMNS
    ]
    minutes, seconds = divmod(round(train["seconds"] + validation["seconds"]), 60)
    epoch = f"{train['epoch']}/{epochs}{'*' if is_best else ' '}"
    cells = [f"{value:.4f}" for value in values]
    cells += [f"{minutes}:{seconds:02}", f"{train['images_per_second']:.0f}"]
    return f"{epoch:>8}" + "".join(f"{cell:>{_COLUMN_WIDTH}}" for cell in cells)


def _brief(record: dict[str, Any]) -> str:
    return ", ".join(
        f"{metric_name(name)} {record[name]:.4f}" for name in _VALIDATION_COLUMNS if name in record
    )


@contextmanager
def log_to(path: Path, *, shown: bool) -> Iterator[None]:
    """Log to standard error and, if `shown`, to a file; other ranks log only errors."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    handlers[0].setFormatter(logging.Formatter("%(message)s"))
    handlers[0].addFilter(lambda record: not {"raised", "file_only"} & set(vars(record)))
    if shown:
        handlers.append(_QuietFile(path, encoding="utf-8", delay=True))
        handlers[1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = _PACKAGE.level
    _PACKAGE.setLevel(logging.INFO if shown else logging.ERROR)
    for handler in handlers:
        _PACKAGE.addHandler(handler)
    try:
        yield
    finally:
        _PACKAGE.setLevel(level)
        for handler in handlers:
            _PACKAGE.removeHandler(handler)
            handler.close()


@contextmanager
def explain_failures(recipe: Recipe, run: RunDir) -> Iterator[None]:
    """Log errors, and turn failures of the machine into errors that say what would help.

    Raises:
        TrainingError: Memory ran out, or another process has ended.
    """
    try:
        yield
    except Ham10000Error as error:
        _PACKAGE.error("%s", error, extra=_RAISED)
        raise
    except (RuntimeError, MemoryError) as error:
        message = _explain(error, recipe, run)
        if message is None:
            _PACKAGE.exception("Training failed", extra=_RAISED)
            raise
        _PACKAGE.error("%s", message, extra=_RAISED)
        raise TrainingError(message) from error


def _explain(error: Exception, recipe: Recipe, run: RunDir) -> str | None:
    text = str(error)
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if memory or any(part in text for part in _MEMORY_ERRORS):
        return (
            f"training: out of memory with training.batch_size {recipe.training.batch_size} and "
            f"data.size {recipe.data.size}. Lower training.batch_size and raise "
            "optimizer.accumulate by the same factor, lower data.size, or use "
            "training.precision bf16."
        )
    if any(part in text for part in _CONNECTION_ERRORS):
        steps = run.step_checkpoints()
        then = f"Continue from {steps[0].name} with" if steps else "Start again with"
        return (
            "training: another process of this run has ended or does not answer "
            f"({text.splitlines()[0][:120]}). {then}: ham10000 train --resume {run.path}"
        )
    return None


class _QuietFile(logging.FileHandler):
    """A log file that prints no traceback for each line when the disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass

    def close(self) -> None:
        with suppress(OSError):  # writes what is buffered
            super().close()
