"""Losses: cross-entropy, focal, class-balanced and multi-weighted, on hard or soft targets.

They return a weighted loss for each sample. Training minimizes the mean over the samples of a step,
as Keras does, and so the authors' code. PyTorch's own mean divides by the sum of the weights of a
batch, with which two ranks would compute other gradients than one.
"""

from collections.abc import Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ham10000.data import CLASSES
from ham10000.recipe import LossRecipe

__all__ = [
    "ClassLoss",
    "MultiWeightedLoss",
    "build_loss",
    "class_weights",
    "confirmation_weights",
    "cumulative_share",
    "effective_weights",
    "log_priors",
]

_LEAST = 0.1
"""Probability below which the multi-weighted loss of a class is constant, so that outliers and
wrong labels have no gradient."""


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
        label_smoothing: Part of each target that is spread evenly over all classes.
        gamma: Exponent of the focal factor.
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

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which does not change this loss."""

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


class MultiWeightedLoss(nn.Module):
    """Focal one-vs-all loss, weighted by inverse counts of the classes from a later epoch on.

    With the sigmoid p of the logits, q = p for the true class and 1 - p for the others, the loss of
    a sample is its weight times the sum over classes of -(1 - q)^gamma * log q, where a q below 0.1
    counts as 0.1. The weight of class c is proportional to n_c^(-power * a), with a mean of 1 over
    the classes, and a is the `cumulative_share` of the epoch.

    Example:
        >>> import torch
        >>> from ham10000.training.losses import MultiWeightedLoss
        >>> loss = MultiWeightedLoss(torch.tensor([90, 10]), power=1.0, cumulative=(2, 4))
        >>> loss.weight.tolist()
        [1.0, 1.0]
        >>> loss.set_epoch(4)
        >>> [round(weight, 4) for weight in loss.weight.tolist()]
        [0.2, 1.8]

    Args:
        class_counts: (K,), number of training images of each class.
        power: Exponent of the inverse counts.
        gamma: Exponent of the focal factor.
        cumulative: Epochs at whose start the weights begin to grow and are complete; `None` for the
            complete weights in all epochs.

    Shape:
        - logits: (B, K), of any floating point type; the loss is computed in at least float32.
        - targets: (B,), int64; or (B, K), probabilities of the classes.
        - output: (B,).

    Source: Yao et al., Single model deep learning on imbalanced small datasets for skin lesion
    classification, arXiv:2102.01284.
    """

    weight: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        power: float = 1.2,
        gamma: float = 2.0,
        cumulative: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.counts = class_counts.double().cpu()
        self.power, self.gamma, self.cumulative = power, gamma, cumulative
        self.register_buffer("weight", torch.ones(len(class_counts)), persistent=False)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Set the weights of an epoch, counted from 0."""
        share = cumulative_share(epoch, self.cumulative)
        present = self.counts > 0
        weights = torch.where(present, self.counts.clamp(min=1) ** (-self.power * share), 0.0)
        self.weight.copy_(weights * present.sum() / weights.sum())

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample."""
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        t = F.one_hot(targets, logits.shape[1]) if targets.ndim == 1 else targets
        t = t.to(logits.dtype)
        p = logits.sigmoid()
        losses = t * self._focal(p) + (1 - t) * self._focal(1 - p)
        return losses.sum(1) * (t @ self.weight.to(logits.dtype))

    def _focal(self, q: Tensor) -> Tensor:
        q = q.clamp(min=_LEAST)
        return -((1 - q) ** self.gamma) * q.log()


def cumulative_share(epoch: int, cumulative: tuple[float, float] | None) -> float:
    """Return the share a of the class weights in an epoch: 0, then a parabola, then 1.

    Example:
        >>> from ham10000.training.losses import cumulative_share
        >>> [cumulative_share(epoch, (2, 6)) for epoch in (0, 2, 4, 6, 9)]
        [0.0, 0.0, 0.25, 1.0, 1.0]
    """
    if cumulative is None:
        return 1.0
    first, last = cumulative
    if epoch >= last:
        return 1.0
    return max(0.0, (epoch - first) / (last - first)) ** 2


def build_loss(
    recipe: LossRecipe,
    class_counts: Sequence[int] | Tensor,
    frequencies: Sequence[float] | Tensor | None = None,
    classes: Sequence[str] = CLASSES,
) -> ClassLoss | MultiWeightedLoss:
    """Build the loss of a recipe.

    Example:
        >>> from ham10000.recipe import LossRecipe
        >>> from ham10000.training import build_loss
        >>> build_loss(LossRecipe(class_weights={"mel": 5}), [1] * 7).weight
        tensor([1., 1., 1., 1., 5., 1., 1.])

    Args:
        recipe: The part `loss` of a recipe.
        class_counts: Number of training images of each class, in the order of `classes`.
        frequencies: How often each class is sampled, in any unit; `class_counts` by default.
        classes: Names of the classes.
    """
    if recipe.name == "multi_weighted":
        counts = torch.as_tensor(class_counts)
        return MultiWeightedLoss(counts, recipe.power, recipe.gamma, recipe.cumulative)
    return ClassLoss(
        class_weights(recipe, class_counts, classes),
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


def class_weights(
    recipe: LossRecipe,
    class_counts: Sequence[int] | Tensor,
    classes: Sequence[str] = CLASSES,
) -> Tensor | None:
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
    return torch.tensor([recipe.class_weights.get(name, 1.0) for name in classes])


def confirmation_weights(recipe: LossRecipe, table: pd.DataFrame) -> Tensor | None:
    """Return the weight of each image by how its diagnosis was confirmed, (N,), or `None`.

    It multiplies the loss of the image, and so the weight of its class. A confirmation without a
    weight in the recipe has weight 1.

    Example:
        >>> import pandas as pd
        >>> from ham10000.recipe import LossRecipe
        >>> from ham10000.training.losses import confirmation_weights
        >>> table = pd.DataFrame({"dx_type": ["histo", "follow_up", "consensus"]})
        >>> confirmation_weights(LossRecipe(dx_type_weights={"follow_up": 0.5}), table)
        tensor([1.0000, 0.5000, 1.0000])

    Args:
        recipe: The part `loss` of a recipe.
        table: Rows of the metadata table, one per image.

    Source: Gessert et al., Skin lesion classification using CNNs with patch-based attention and
    diagnosis-guided loss weighting, arXiv:1905.02793.
    """
    if recipe.dx_type_weights is None:
        return None
    weights = [recipe.dx_type_weights.get(name, 1.0) for name in table["dx_type"]]
    return torch.tensor(weights, dtype=torch.float32)


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
