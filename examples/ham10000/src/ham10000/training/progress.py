"""How far an epoch is, for who looks on: a bar on a terminal, a line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

__all__ = ["EpochProgress"]

_LOG = logging.getLogger(__name__)
_SECONDS = 60.0
"""Between two lines where there is no terminal."""
_RECENT = 0.05
"""The weight of a step in the loss that is shown."""


class _Bar(Progress):
    """A bar with a line below it, which would leave no room beside it."""

    note = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.note:
            yield Text(self.note, no_wrap=True, overflow="ellipsis")


class EpochProgress:
    """The steps of one epoch, with images a second, the time left and the loss.

    Args:
        title: what comes first.
        steps: of the epoch.
        done: of them before.
        note: the metrics so far.
        shown: whether anything is; only one process shows.
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
        """Images a second, since the beginning."""
        return self.images / max(1e-9, time.monotonic() - self.start)

    def step(self, loss: float, images: int) -> None:
        """Count a step."""
        self.done += 1
        self.images += images
        if self.loss is None or self.loss != self.loss:
            self.loss = loss
        elif loss == loss:
            self.loss += _RECENT * (loss - self.loss)
        if not self.shown:
            return
        if self._bar is not None:
            text = f"{self.rate:.0f} images/s loss {self.loss:.3f}"
            self._bar.update(self._task, completed=self.done, rate=text)
        elif time.monotonic() - self._said > _SECONDS:
            self._said = time.monotonic()
            left = (self._said - self.start) / max(1, self.images) * 1.0
            remaining = left * (self.steps - self.done) * images
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
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
