"""Optimizers: one of torch's, with groups of parameters by depth and by kind."""

from typing import Any

import torch
from torch.optim import Optimizer

from ham10000.models import LesionClassifier
from ham10000.recipe import OptimizerRecipe

__all__ = ["build_optimizer"]


def build_optimizer(
    recipe: OptimizerRecipe, model: LesionClassifier, *, fused: bool = False
) -> Optimizer:
    """Build the optimizer of a recipe, on the parameters that are trained.

    Build it before `model.freeze_backbone()`, so that it has the parameters that are trained later
    too: one without a gradient is left as it is.

    Example:
        >>> from ham10000.models import build_model
        >>> from ham10000.recipe import ModelRecipe, OptimizerRecipe
        >>> from ham10000.training.optimizers import build_optimizer
        >>> model = build_model(ModelRecipe("ham10000:tiny"))
        >>> recipe = OptimizerRecipe("sgd", lr=0.1, head_lr_scale=10, weight_decay=1e-4)
        >>> groups = build_optimizer(recipe, model).param_groups
        >>> [(group["lr"], group["weight_decay"]) for group in groups]
        [(0.1, 0.0001), (0.1, 0.0), (1.0, 0.0001), (1.0, 0.0)]

    Args:
        recipe: the part `optimizer` of a recipe.
        model: from `build_model`.
        fused: let adam and adamw update with torch's fused kernels, which go over each weight
            once. With a scaler of gradients they unscale too, and gradients couldn't be clipped
            before.
    """
    groups = model.param_groups(
        recipe.lr, recipe.head_lr_scale, recipe.weight_decay, recipe.layer_decay
    )
    if recipe.name == "sgd":
        # Not fused: that needs a momentum of all weights or none, and a frozen part has none yet.
        return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    kinds: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    kind = kinds[recipe.name]
    optimizer: Optimizer = kind(groups, betas=recipe.betas, eps=recipe.eps, fused=fused or None)
    return optimizer
