"""How far a run is, and which of its epochs was best."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["State"]

Mode = Literal["min", "max"]


@dataclass
class State:
    """The counters of a run; they are the same on every rank.

    Example:
        >>> from ham10000.training.state import State
        >>> state = State()
        >>> [state.judge(value, "max") for value in (0.5, 0.55, 0.7, 0.6)]
        [True, True, True, False]
        >>> for value in (0.5, 0.55, 0.7, 0.6):
        ...     state.wait(value, "max", min_delta=0.1)
        >>> state.best, state.without_progress
        (0.7, 1)
    """

    epoch: int = 0
    """Epochs that are done."""
    step: int = 0
    """Updates of the weights in all, those that were skipped too."""
    step_in_epoch: int = 0
    skipped: int = 0
    """Steps without an update, since a loss was not finite."""
    best: float | None = None
    best_epoch: int | None = None
    mark: float | None = None
    """What the next epoch must improve on by min_delta to count as progress."""
    without_progress: int = 0
    """Epochs since there was some."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl."""

    def judge(self, value: float, mode: Mode) -> bool:
        """Note the metric that chooses weights, and return whether an epoch's are the best so far.

        A metric that isn't a number is never better.
        """
        better = _gain(value, self.best, mode) > 0
        if better:
            self.best, self.best_epoch = value, self.epoch
        return better

    def wait(self, value: float, mode: Mode, min_delta: float) -> None:
        """Note the metric that says when to stop: an epoch more without progress, or some."""
        if _gain(value, self.mark, mode) > min_delta:
            self.mark, self.without_progress = value, 0
        else:
            self.without_progress += 1

    def finished(self, epochs: int, patience: int | None) -> bool:
        """Return whether there is nothing left to train."""
        waited = patience is not None and self.without_progress >= max(1, patience)
        return self.epoch >= epochs or waited

    def state_dict(self) -> dict[str, Any]:
        """Return everything, for a checkpoint."""
        return asdict(self)


def _gain(value: float, over: float | None, mode: Mode) -> float:
    if math.isnan(value):
        return -math.inf
    if over is None:
        return math.inf
    return value - over if mode == "max" else over - value
