"""What values a recipe's fields can have, beside their types."""

import math
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from ham10000.data import CLASSES, PRESETS
from ham10000.errors import RecipeError, closest
from ham10000.recipe.fields import Recipe

__all__ = ["check_values"]

_POSITIVE = (
    "data.size",
    "data.epoch_samples",
    "model.num_maps",
    "model.pool",
    "optimizer.lr",
    "optimizer.eps",
    "optimizer.head_lr_scale",
    "optimizer.clip_norm",
    "optimizer.accumulate",
    "training.epochs",
    "training.batch_size",
    "training.eval_batch_size",
    "training.keep",
    "training.checkpoint_steps",
    "training.checkpoint_minutes",
    "training.max_minutes",
)
_NOT_NEGATIVE = (
    "seed",
    "data.split_seed",
    "data.fold",
    "data.workers",
    "optimizer.weight_decay",
    "schedule.warmup_epochs",
    "schedule.patience",
    "loss.gamma",
    "loss.logit_adjustment",
    "training.head_first_epochs",
    "training.patience",
    "training.min_delta",
    "training.max_bad_steps",
    "logging.profile",
    "logging.attention_images",
)
_BELOW_ONE = (
    "model.block_drop_rate",
    "model.drop_rate",
    "optimizer.betas",
    "optimizer.momentum",
    "schedule.factor",
    "loss.label_smoothing",
    "loss.beta",
    "training.ema",
)
_AT_MOST_ONE = ("optimizer.layer_decay", "schedule.final")

_RANGES: tuple[tuple[Callable[[float], bool], str, tuple[str, ...]], ...] = (
    (lambda value: 0 < value < math.inf, "more than 0", _POSITIVE),
    (lambda value: 0 <= value < math.inf, "0 or more", _NOT_NEGATIVE),
    (lambda value: 0 <= value < 1, "in [0, 1)", _BELOW_ONE),
    (lambda value: 0 <= value <= 1, "in [0, 1]", _AT_MOST_ONE),
)


def check_values(recipe: Recipe, doing: str) -> None:
    """Refuse values that can't be.

    Raises:
        RecipeError: it names the field, what was found and what would work.
    """
    for holds, expected, names in _RANGES:
        for name in names:
            value: Any = attrgetter(name)(recipe)
            values = value if isinstance(value, tuple) else (value,)
            if value is not None and not all(map(holds, values)):
                raise RecipeError(f"{doing}: {name} must be {expected}, found {value}.")
    if recipe.data.augment not in PRESETS:
        raise RecipeError(
            f"{doing}: data.augment names no preset, found {recipe.data.augment!r}. "
            f"{closest(recipe.data.augment, PRESETS)}"
        )
    _check_model(recipe, doing)
    _check_schedule(recipe, doing)
    _check_weights(recipe, doing)


def _check_model(recipe: Recipe, doing: str) -> None:
    model = recipe.model
    if model.pretrained and model.weights is not None:
        raise RecipeError(
            f"{doing}: model.pretrained and model.weights both say where the backbone starts. "
            "Give one of them."
        )
    if min(model.std) <= 0:
        raise RecipeError(f"{doing}: model.std must be more than 0, found {list(model.std)}.")


def _check_schedule(recipe: Recipe, doing: str) -> None:
    schedule, epochs = recipe.schedule, recipe.training.epochs
    if schedule.name == "plateau" and schedule.warmup_epochs:
        raise RecipeError(f"{doing}: schedule.warmup_epochs is not for the schedule plateau.")
    if schedule.warmup_epochs >= epochs:
        raise RecipeError(
            f"{doing}: schedule.warmup_epochs must be less than training.epochs ({epochs}), found "
            f"{schedule.warmup_epochs}."
        )


def _check_weights(recipe: Recipe, doing: str) -> None:
    weights = recipe.loss.class_weights
    if weights is not None and recipe.loss.name == "class_balanced":
        raise RecipeError(
            f"{doing}: loss.class_weights and loss.name class_balanced both weigh the classes. "
            "Leave one out."
        )
    if not isinstance(weights, dict):
        return
    for name, weight in weights.items():
        if name not in CLASSES:
            raise RecipeError(
                f"{doing}: loss.class_weights names {name!r}, which is no class. "
                f"{closest(name, CLASSES)}"
            )
        if weight <= 0:
            raise RecipeError(
                f"{doing}: loss.class_weights of {name} must be more than 0, found {weight}."
            )
