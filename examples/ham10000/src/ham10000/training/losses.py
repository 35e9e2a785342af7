"""Losses: cross-entropy, focal and class-balanced, on hard or soft targets.

They give a loss for each sample, weighted; the mean over a step's samples is what training makes
small, as in Keras, and so in the authors' code. PyTorch's own mean divides by the sum of a batch's
weights, with which two ranks would train otherwise than one.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ham10000.data import CLASSES
from ham10000.recipe import LossRecipe

__all__ = ["ClassLoss", "build_loss", "class_weights", "effective_weights", "log_shares"]


class ClassLoss(nn.Module):
    """Cross-entropy of each sample, with class weights, smoothing, offsets and the focal factor.

    For a target t, smoothed, and the probabilities p of the scores, a sample has
    -sum over classes of t * weight * (1 - p)^gamma * log p. With gamma 0 that is cross-entropy.

    Example:
        >>> import torch
        >>> from ham10000.training.losses import ClassLoss
        >>> scores, targets = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
        >>> ClassLoss(weight=torch.tensor([1.0, 3.0]))(scores, targets)
        tensor([0.1269, 1.3133])

    Args:
        weight: (K,), of each class; all 1 unless given.
        label_smoothing: the part of a target that goes to all classes alike.
        gamma: of the focal factor.
        offsets: (K,), added to the scores first; none unless given.

    Shape:
        - scores: (B, K), of any floating point type; the loss is computed in float32 at least.
        - targets: (B,), int64; or (B, K), shares of the classes.
        - output: (B,).

    Source: Lin et al., focal loss, arXiv:1708.02002; Menon et al., Long-tail learning via logit
    adjustment, arXiv:2007.07314.
    """

    weight: Tensor | None
    offsets: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        gamma: float = 0.0,
        offsets: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("offsets", offsets, persistent=False)
        self.label_smoothing, self.gamma = label_smoothing, gamma

    def forward(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Give the loss of each sample."""
        if scores.dtype in (torch.float16, torch.bfloat16):
            scores = scores.float()
        if self.offsets is not None:
            scores = scores + self.offsets.to(scores.dtype)
        weight = None if self.weight is None else self.weight.to(scores.dtype)
        if self.gamma == 0:
            return F.cross_entropy(
                scores, targets, weight, reduction="none", label_smoothing=self.label_smoothing
            )
        logs = scores.log_softmax(1)
        shares = F.one_hot(targets, scores.shape[1]) if targets.ndim == 1 else targets
        smooth = self.label_smoothing
        shares = (1 - smooth) * shares.to(logs.dtype) + smooth / scores.shape[1]
        # Never 0, where a power below 1 has no gradient.
        missing = (-logs.expm1()).clamp(min=torch.finfo(logs.dtype).eps)
        losses = -shares * missing**self.gamma * logs
        return (losses if weight is None else losses * weight).sum(1)


def build_loss(
    recipe: LossRecipe,
    class_counts: Sequence[int] | Tensor,
    drawn: Sequence[float] | Tensor | None = None,
) -> ClassLoss:
    """Build the loss of a recipe.

    Example:
        >>> from ham10000.recipe import LossRecipe
        >>> from ham10000.training.losses import build_loss
        >>> build_loss(LossRecipe(class_weights={"mel": 5}), [1] * 7).weight
        tensor([1., 1., 1., 1., 5., 1., 1.])

    Args:
        recipe: the part `loss` of a recipe.
        class_counts: how many images of each class train, in the order of `CLASSES`.
        drawn: how often each class is drawn, in any unit; as `class_counts` unless given.
    """
    return ClassLoss(
        class_weights(recipe, class_counts),
        recipe.label_smoothing,
        recipe.gamma if recipe.name == "focal" else 0.0,
        log_shares(class_counts if drawn is None else drawn, recipe.logit_adjustment),
    )


def log_shares(drawn: Sequence[float] | Tensor, strength: float) -> Tensor | None:
    """Return what logit adjustment adds to the scores, (K,), or nothing for a strength of 0.

    A class that is never drawn gets nothing: no target will ever be of it.

    Example:
        >>> from ham10000.training.losses import log_shares
        >>> log_shares([3, 1], strength=1.0)
        tensor([-0.2877, -1.3863])
    """
    if strength == 0:
        return None
    counts = torch.as_tensor(drawn, dtype=torch.float64)
    shares = torch.where(counts > 0, counts / counts.sum(), 1.0)
    return (strength * shares.log()).float()


def class_weights(recipe: LossRecipe, class_counts: Sequence[int] | Tensor) -> Tensor | None:
    """Return the weight of each class, (K,), or nothing where all are alike.

    A class without images has the weight 0 where weights depend on the counts.
    """
    if recipe.name == "class_balanced":
        return effective_weights(class_counts, recipe.beta)
    if recipe.class_weights == "balanced":
        counts = torch.as_tensor(class_counts, dtype=torch.float64)
        weights = counts.sum() / ((counts > 0).sum() * counts)
        return torch.where(counts > 0, weights, 0.0).float()
    if recipe.class_weights is None:
        return None
    return torch.tensor([recipe.class_weights.get(name, 1.0) for name in CLASSES])


def effective_weights(class_counts: Sequence[int] | Tensor, beta: float) -> Tensor:
    """Weigh classes by one over their effective number of images, with a mean of 1.

    The effective number of n images is (1 - beta^n) / (1 - beta): 1 for beta 0, n in the limit
    of beta 1.

    Example:
        >>> from ham10000.training.losses import effective_weights
        >>> effective_weights([100, 10], beta=0.9)
        tensor([0.7889, 1.2111])

    Source: Cui et al., class-balanced loss, arXiv:1901.05555.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    there = counts > 0
    weights = torch.where(there, (1 - beta) / (1 - beta ** counts.clamp(min=1)), 0.0)
    return (weights * there.sum() / weights.sum()).float()
