"""Losses: cross-entropy, focal and class-balanced, on hard or soft targets.

They return a weighted loss for each sample. Training minimizes the mean over the samples of a step,
as Keras does, and so the authors' code. PyTorch's own mean divides by the sum of the weights of a
batch, with which two ranks would compute other gradients than one.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ham10000.data import CLASSES
from ham10000.recipe import LossRecipe

__all__ = ["ClassLoss", "build_loss", "class_weights", "effective_weights", "log_priors"]


class ClassLoss(nn.Module):
    """Cross-entropy of each sample, with class weights, smoothing, offsets and the focal factor.

    With the smoothed target t and the softmax p of the logits, the loss of a sample is
    -sum over classes of t * weight * (1 - p)^gamma * log p. With gamma 0 this is cross-entropy.

    Example:
        >>> import torch
        >>> from ham10000.training.losses import ClassLoss
        >>> logits, targets = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
        >>> ClassLoss(weight=torch.tensor([1.0, 3.0]))(logits, targets)
        tensor([0.1269, 1.3133])

    Args:
        weight: (K,), weights of the classes; 1 by default.
        label_smoothing: part of each target that is spread evenly over all classes.
        gamma: exponent of the focal factor.
        offsets: (K,), added to the logits first.

    Shape:
        - logits: (B, K), of any floating point type; the loss is computed in at least float32.
        - targets: (B,), int64; or (B, K), probabilities of the classes.
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

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample."""
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        if self.offsets is not None:
            logits = logits + self.offsets.to(logits.dtype)
        weight = None if self.weight is None else self.weight.to(logits.dtype)
        if self.gamma == 0:
            return F.cross_entropy(
                logits, targets, weight, reduction="none", label_smoothing=self.label_smoothing
            )
        log_p = logits.log_softmax(1)
        t = F.one_hot(targets, logits.shape[1]) if targets.ndim == 1 else targets
        smooth = self.label_smoothing
        t = (1 - smooth) * t.to(log_p.dtype) + smooth / logits.shape[1]
        # Never 0, where a power below 1 has an infinite gradient.
        one_minus_p = (-log_p.expm1()).clamp(min=torch.finfo(log_p.dtype).eps)
        losses = -t * one_minus_p**self.gamma * log_p
        return (losses if weight is None else losses * weight).sum(1)


def build_loss(
    recipe: LossRecipe,
    class_counts: Sequence[int] | Tensor,
    frequencies: Sequence[float] | Tensor | None = None,
) -> ClassLoss:
    """Build the loss of a recipe.

    Example:
        >>> from ham10000.recipe import LossRecipe
        >>> from ham10000.training import build_loss
        >>> build_loss(LossRecipe(class_weights={"mel": 5}), [1] * 7).weight
        tensor([1., 1., 1., 1., 5., 1., 1.])

    Args:
        recipe: the part `loss` of a recipe.
        class_counts: number of training images of each class, in the order of `CLASSES`.
        frequencies: how often each class is sampled, in any unit; `class_counts` by default.
    """
    return ClassLoss(
        class_weights(recipe, class_counts),
        recipe.label_smoothing,
        recipe.gamma if recipe.name == "focal" else 0.0,
        log_priors(class_counts if frequencies is None else frequencies, recipe.logit_adjustment),
    )


def log_priors(frequencies: Sequence[float] | Tensor, strength: float) -> Tensor | None:
    """Return the offsets of logit adjustment, (K,), or `None` for a strength of 0.

    The offset of a class that is never sampled is 0, because no target is of it.

    Example:
        >>> from ham10000.training.losses import log_priors
        >>> log_priors([3, 1], strength=1.0)
        tensor([-0.2877, -1.3863])
    """
    if strength == 0:
        return None
    counts = torch.as_tensor(frequencies, dtype=torch.float64)
    shares = torch.where(counts > 0, counts / counts.sum(), 1.0)
    return (strength * shares.log()).float()


def class_weights(recipe: LossRecipe, class_counts: Sequence[int] | Tensor) -> Tensor | None:
    """Return the weight of each class, (K,), or `None` if all are equal.

    A class without images has weight 0 if the weights depend on the counts.
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
    """Return class weights inverse to the effective numbers of images, with a mean of 1.

    The effective number of n images is (1 - beta^n) / (1 - beta): 1 for beta 0, and n in the limit
    of beta 1.

    Example:
        >>> from ham10000.training.losses import effective_weights
        >>> effective_weights([100, 10], beta=0.9)
        tensor([0.7889, 1.2111])

    Source: Cui et al., class-balanced loss, arXiv:1901.05555.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    present = counts > 0
    weights = torch.where(present, (1 - beta) / (1 - beta ** counts.clamp(min=1)), 0.0)
    return (weights * present.sum() / weights.sum()).float()
