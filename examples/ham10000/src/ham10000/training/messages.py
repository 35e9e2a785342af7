"""Where the lines of a run go, and failures of the machine in words."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ham10000.errors import Ham10000Error, TrainingError
from ham10000.recipe import Recipe
from ham10000.training.checkpoints import steps_in
from ham10000.training.folder import RunFolder

__all__ = ["clear_failures", "logging_to"]

_ROOT = logging.getLogger("ham10000")
_RAISED = {"raised": True}
"""Of what is raised too, and so is said on standard error by who catches it."""
_LOST = ("Connection closed by peer", "Connection reset by peer", "timed out", "Timed out", "NCCL")
_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


@contextmanager
def logging_to(path: Path, *, shown: bool) -> Iterator[None]:
    """Send what is said to standard error and to a file; other ranks speak of errors alone."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    handlers[0].setFormatter(logging.Formatter("%(message)s"))
    handlers[0].addFilter(lambda record: not getattr(record, "raised", False))
    if shown:
        handlers.append(_QuietFile(path, encoding="utf-8", delay=True))
        handlers[1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = _ROOT.level
    _ROOT.setLevel(logging.INFO if shown else logging.ERROR)
    for handler in handlers:
        _ROOT.addHandler(handler)
    try:
        yield
    finally:
        _ROOT.setLevel(level)
        for handler in handlers:
            _ROOT.removeHandler(handler)
            handler.close()


@contextmanager
def clear_failures(recipe: Recipe, run: RunFolder) -> Iterator[None]:
    """Turn what a machine does to a run into an error that says what would help.

    Raises:
        TrainingError: memory is short, or another process is gone.
    """
    try:
        yield
    except Ham10000Error as error:
        _ROOT.error("%s", error, extra=_RAISED)
        raise
    except (RuntimeError, MemoryError) as error:
        words = _in_words(error, recipe, run)
        if words is None:
            _ROOT.exception("Training failed", extra=_RAISED)
            raise
        _ROOT.error("%s", words, extra=_RAISED)
        raise TrainingError(words) from error


def _in_words(error: Exception, recipe: Recipe, run: RunFolder) -> str | None:
    text = str(error)
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if memory or any(part in text for part in _MEMORY):
        return (
            f"training: memory was short for training.batch_size {recipe.training.batch_size} at "
            f"data.size {recipe.data.size}. Lower training.batch_size and raise "
            "optimizer.accumulate as much, lower data.size, or use training.precision bf16."
        )
    if any(part in text for part in _LOST):
        good = steps_in(run.checkpoints)
        then = f"Go on from {good[0].name} with" if good else "Start again with"
        return (
            "training: another process of this run is gone or doesn't answer "
            f"({text.splitlines()[0][:120]}). {then}: ham10000 train --resume {run.path}"
        )
    return None


class _QuietFile(logging.FileHandler):
    """A log file that a full disk doesn't turn into a traceback at each line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass
