"""The mutable state of a run: weights, optimizer, counters and running metrics."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from ham10000.models import LesionClassifier
from ham10000.training.optim import Schedule

__all__ = ["Counters", "RunningMetrics", "TrainState"]

Mode = Literal["min", "max"]


@dataclass
class Counters:
    """Position in the run, and its best epoch; the same on every rank.

    Example:
        >>> from ham10000.training.state import Counters
        >>> counters = Counters()
        >>> [counters.update_best(value, "max") for value in (0.5, 0.55, 0.7, 0.6)]
        [True, True, True, False]
        >>> for value in (0.5, 0.55, 0.7, 0.6):
        ...     counters.update_patience(value, "max", min_delta=0.1)
        >>> counters.best, counters.without_progress
        (0.7, 1)
    """

    epoch: int = 0
    """Number of finished epochs."""
    step: int = 0
    """Number of steps over all epochs, skipped ones included."""
    step_in_epoch: int = 0
    """Number of finished steps of the current epoch."""
    skipped: int = 0
    """Number of steps without an update, because a loss was not finite."""
    best: float | None = None
    """Best value of the metric that selects the weights."""
    best_epoch: int | None = None
    """Epoch of that value, from 1."""
    mark: float | None = None
    """Value that the next epoch must improve on by min_delta to count as progress."""
    without_progress: int = 0
    """Number of epochs since the last progress."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """Lines of metrics.jsonl."""

    def update_best(self, value: float, mode: Mode) -> bool:
        """Record the metric that selects weights, and return whether this epoch is the best so far.

        NaN is never better.
        """
        better = _gain(value, self.best, mode) > 0
        if better:
            self.best, self.best_epoch = value, self.epoch
        return better

    def update_patience(self, value: float, mode: Mode, min_delta: float) -> None:
        """Record the metric of early stopping: progress, or one more epoch without it."""
        if _gain(value, self.mark, mode) > min_delta:
            self.mark, self.without_progress = value, 0
        else:
            self.without_progress += 1

    def finished(self, epochs: int, patience: int | None) -> bool:
        """Return whether training is complete: after the last epoch, or without progress."""
        waited = patience is not None and self.without_progress >= max(1, patience)
        return self.epoch >= epochs or waited

    def state_dict(self) -> dict[str, Any]:
        """Return all fields, for a checkpoint."""
        return asdict(self)


@dataclass
class RunningMetrics:
    """Training loss and confusion matrix of an epoch on one rank, from its training steps.

    Example:
        >>> import torch
        >>> from ham10000.training.state import RunningMetrics
        >>> metrics = RunningMetrics()
        >>> metrics.add(torch.tensor([0.5, 1.5]), torch.eye(7)[:2], torch.tensor([0, 2]))
        >>> metrics.summarize()
        {'loss': 1.0, 'accuracy': 0.5, 'balanced_accuracy': 0.5}
    """

    loss: float = 0.0
    """Sum of the losses."""
    confusion: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.long))
    """(C, C), number of images by true class and predicted class; (0, 0) before the first batch."""

    def add(self, losses: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: losses (B,), logits (B, C), and targets (B,) or probabilities (B, C)."""
        targets = targets.argmax(1) if targets.ndim == 2 else targets
        classes = logits.shape[1]
        cells = (targets * classes + logits.argmax(1)).cpu()
        counts = torch.bincount(cells, minlength=classes * classes).reshape(classes, classes)
        self.loss += losses.sum(dtype=torch.float64).item()
        self.confusion = counts + self.confusion if len(self.confusion) else counts

    def summarize(self) -> dict[str, float]:
        """Return the mean loss, the accuracy, and the mean recall of the classes present."""
        seen, right = self.confusion.sum(1), self.confusion.diagonal()
        total = max(1, int(seen.sum()))
        present = seen > 0
        recall = right[present].double() / seen[present]
        return {
            "loss": self.loss / total,
            "accuracy": int(right.sum()) / total,
            "balanced_accuracy": float(recall.mean()) if len(recall) else 0.0,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, for a checkpoint."""
        return {"loss": self.loss, "confusion": self.confusion.clone()}

    @classmethod
    def sum(cls, states: list[dict[str, Any]]) -> "RunningMetrics":
        """Return the metrics of several ranks together, from their `state_dict`."""
        whole = cls()
        for state in states:
            whole.loss += state["loss"]
            counts = state["confusion"]
            if len(counts):
                whole.confusion = counts + whole.confusion if len(whole.confusion) else counts
        return whole


@dataclass
class TrainState:
    """Everything that a training step or the end of an epoch changes, on this rank."""

    model: LesionClassifier
    """The model as it was built."""
    ema: AveragedModel | None
    """Moving average of the weights, if the recipe has one."""
    optimizer: Optimizer
    schedule: Schedule
    counters: Counters = field(default_factory=Counters)
    metrics: RunningMetrics = field(default_factory=RunningMetrics)
    wrapped_model: Any = None
    """The model inside DDP, as Fabric returns it."""
    wrapped_optimizer: Any = None
    """The optimizer, as Fabric returns it."""
    head_only: bool | None = None
    """Whether the backbone is frozen; `None` before the first step."""
    unsaved_best: dict[str, Any] | None = None
    """Content of best.pt while it is not on disk yet, on rank 0."""

    @property
    def evaluated_model(self) -> nn.Module:
        """The model that is evaluated: the moving average if there is one."""
        return self.model if self.ema is None else self.ema.module


def _gain(value: float, over: float | None, mode: Mode) -> float:
    if math.isnan(value):
        return -math.inf
    if over is None:
        return math.inf
    return value - over if mode == "max" else over - value
