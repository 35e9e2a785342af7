"""The text log of a run, and clear messages for failures of the machine."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from ham10000.errors import Ham10000Error, TrainingError
from ham10000.recipe import Recipe
from ham10000.training.run_dir import RunDir

__all__ = ["explain_failures", "log_to"]

_ROOT = logging.getLogger("ham10000")
_RAISED = {"raised": True}
"""Marks records of errors that are raised as well, and so printed by the caller."""
_LOST = ("Connection closed by peer", "Connection reset by peer", "timed out", "Timed out", "NCCL")
_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


@contextmanager
def log_to(path: Path, *, shown: bool) -> Iterator[None]:
    """Log to standard error and, if `shown`, to a file; other ranks log only errors."""
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
def explain_failures(recipe: Recipe, run: RunDir) -> Iterator[None]:
    """Log errors, and turn failures of the machine into errors that say what would help.

    Raises:
        TrainingError: memory ran out, or another process has ended.
    """
    try:
        yield
    except Ham10000Error as error:
        _ROOT.error("%s", error, extra=_RAISED)
        raise
    except (RuntimeError, MemoryError) as error:
        message = _explain(error, recipe, run)
        if message is None:
            _ROOT.exception("Training failed", extra=_RAISED)
            raise
        _ROOT.error("%s", message, extra=_RAISED)
        raise TrainingError(message) from error


def _explain(error: Exception, recipe: Recipe, run: RunDir) -> str | None:
    text = str(error)
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if memory or any(part in text for part in _MEMORY):
        return (
            f"training: out of memory with training.batch_size {recipe.training.batch_size} and "
            f"data.size {recipe.data.size}. Lower training.batch_size and raise "
            "optimizer.accumulate by the same factor, lower data.size, or use "
            "training.precision bf16."
        )
    if any(part in text for part in _LOST):
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
