"""What training has seen of itself in an epoch, without a second pass over the images."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ham10000.data import CLASSES

__all__ = ["Tally"]

_N = len(CLASSES)


@dataclass
class Tally:
    """The sum of the losses, and which class was taken for which, of one rank.

    Example:
        >>> import torch
        >>> from ham10000.training.tally import Tally
        >>> tally = Tally()
        >>> tally.add(torch.tensor([0.5, 1.5]), torch.eye(7)[:2], torch.tensor([0, 2]))
        >>> tally.metrics()
        {'loss': 1.0, 'accuracy': 0.5, 'balanced_accuracy': 0.5}
    """

    loss: float = 0.0
    confusion: Tensor = field(default_factory=lambda: torch.zeros(_N, _N, dtype=torch.long))

    def add(self, losses: Tensor, scores: Tensor, targets: Tensor) -> None:
        """Count a batch: (B,) losses, (B, 7) scores, and targets, (B,) or as shares (B, 7)."""
        targets = targets.argmax(1) if targets.ndim == 2 else targets
        cells = (targets * _N + scores.argmax(1)).cpu()
        self.loss += losses.sum(dtype=torch.float64).item()
        self.confusion += torch.bincount(cells, minlength=_N * _N).reshape(_N, _N)

    def metrics(self) -> dict[str, float]:
        """Return the mean loss, the accuracy, and the mean recall of the classes seen."""
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
        """Return the counts, for a checkpoint."""
        return {"loss": self.loss, "confusion": self.confusion.clone()}

    @classmethod
    def sum(cls, states: list[dict[str, Any]]) -> "Tally":
        """Return what several ranks have seen together."""
        whole = cls()
        for state in states:
            whole.loss += state["loss"]
            whole.confusion += state["confusion"]
        return whole
