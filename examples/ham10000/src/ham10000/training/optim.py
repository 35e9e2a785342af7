"""Optimizers, learning rate schedules and the moving average of the weights."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from ham10000.models import LesionClassifier
from ham10000.recipe import OptimizerRecipe, ScheduleRecipe

__all__ = ["KerasAdam", "Schedule", "average_weights", "build_optimizer", "build_schedule"]

# Defaults of torch and of the article on one-cycle schedules.
_CYCLE_RISE = 0.3
_CYCLE_START = 25.0
_CYCLE_END = 1e4


class KerasAdam(torch.optim.Adam):
    """Adam with eps where Keras has it: added before the bias correction of the second moment.

    With the moments m and v, step t of Keras is lr * sqrt(1 - b2^t) / (1 - b1^t) * m /
    (sqrt(v) + eps). torch divides sqrt(v) by sqrt(1 - b2^t) first, so its eps must be
    eps / sqrt(1 - b2^t) for the same step: 32 times as large in the first one. With eps 1e-8 this
    does not matter; with 0.1, as in the authors' code, it does in the first thousands of steps.

    Example:
        >>> import torch
        >>> from ham10000.training.optim import KerasAdam
        >>> weight = torch.zeros(1, requires_grad=True)
        >>> optimizer = KerasAdam([weight], lr=0.01, eps=0.1)
        >>> weight.grad = torch.ones(1)
        >>> optimizer.step()
        >>> round(weight.item(), 5), optimizer.param_groups[0]["eps"]  # torch: -0.00909
        (-0.0024, 0.1)

    Arguments and errors are those of `torch.optim.Adam`.

    Source: `keras.optimizers.Adam`; Kingma and Ba, arXiv:1412.6980, section 2, where this eps is
    called epsilon hat.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make a step, see `torch.optim.Adam.step`."""
        given = [group["eps"] for group in self.param_groups]
        for group in self.param_groups:
            # Parameters of a group that have a gradient have had one equally often.
            states = [self.state.get(p, {}) for p in group["params"] if p.grad is not None]
            done = float(states[0].get("step", 0)) if states else 0.0
            group["eps"] /= math.sqrt(1 - group["betas"][1] ** (done + 1))
        try:
            return super().step(closure)
        finally:
            for group, eps in zip(self.param_groups, given, strict=True):
                group["eps"] = eps


def build_optimizer(
    recipe: OptimizerRecipe, model: LesionClassifier, *, fused: bool = False
) -> Optimizer:
    """Build the optimizer of a recipe, over all parameters of a model.

    Build it before `model.freeze_backbone()`, so that it includes the parameters that are trained
    later. An optimizer skips parameters without a gradient.

    Example:
        >>> from ham10000.models import build_model
        >>> from ham10000.recipe import OptimizerRecipe, load_recipe
        >>> from ham10000.training import build_optimizer
        >>> model = build_model(load_recipe("smoke"))
        >>> recipe = OptimizerRecipe("sgd", lr=0.1, head_lr_scale=10, weight_decay=1e-4)
        >>> groups = build_optimizer(recipe, model).param_groups
        >>> [(group["lr"], group["weight_decay"]) for group in groups]
        [(0.1, 0.0001), (0.1, 0.0), (1.0, 0.0001), (1.0, 0.0)]

    Args:
        recipe: The part `optimizer` of a recipe.
        model: The model, from `build_model`.
        fused: Use torch's fused kernels for Adam and AdamW, which read each weight once. With a
            gradient scaler they would also unscale, and gradients could not be clipped before.
    """
    groups = model.param_groups(
        recipe.lr, recipe.head_lr_scale, recipe.weight_decay, recipe.layer_decay
    )
    if recipe.name == "sgd":
        # Not fused: fused SGD needs a momentum buffer for all weights or for none, and frozen
        # weights have none yet.
        return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    kinds: dict[str, Any] = {
        "adam": torch.optim.Adam,
        "adam_keras": KerasAdam,
        "adamw": torch.optim.AdamW,
    }
    kind = kinds[recipe.name]
    optimizer: Optimizer = kind(groups, betas=recipe.betas, eps=recipe.eps, fused=fused or None)
    return optimizer


class Schedule:
    """A torch scheduler that is stepped after every step and after every epoch.

    Example:
        >>> import torch
        >>> from ham10000.recipe import ScheduleRecipe
        >>> from ham10000.training import build_schedule
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> recipe = ScheduleRecipe("cosine", warmup_epochs=1)
        >>> schedule = build_schedule(recipe, optimizer, steps_per_epoch=2, epochs=3)
        >>> rates = []
        >>> for _ in range(6):
        ...     rates.append(round(schedule.lr, 3))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]

    Args:
        optimizer: The optimizer whose learning rates change.
        scheduler: A scheduler of `torch.optim.lr_scheduler`.
    """

    def __init__(
        self, optimizer: Optimizer, scheduler: LambdaLR | OneCycleLR | ReduceLROnPlateau
    ) -> None:
        self.optimizer = optimizer
        self.scheduler = scheduler

    @property
    def lr(self) -> float:
        """The largest current learning rate of a parameter group."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def step(self, metric: float | None = None) -> None:
        """Advance by one optimizer step, or, if a metric is given, by one epoch.

        Plateau advances only with a metric, all others only without. So call this without a metric
        after each step, and with the validation metric after each epoch.
        """
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if metric is not None:
                self.scheduler.step(metric)
        elif metric is None and not self._over:
            self.scheduler.step()

    @property
    def _over(self) -> bool:
        # After its last step OneCycleLR increases the rate again and then raises an error. A run
        # that is resumed with fewer processes can have one step more in an epoch than at its start.
        cycle = self.scheduler
        return isinstance(cycle, OneCycleLR) and cycle.last_epoch >= cycle.total_steps - 1

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the schedule, without functions."""
        state: dict[str, Any] = self.scheduler.state_dict()
        return {name: value for name, value in state.items() if name != "lr_lambdas"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state of another schedule; the rates are part of the optimizer's state."""
        if isinstance(self.scheduler, LambdaLR):
            state = {**state, "lr_lambdas": [None] * len(self.scheduler.lr_lambdas)}
        self.scheduler.load_state_dict(state)


def build_schedule(
    recipe: ScheduleRecipe,
    optimizer: Optimizer,
    steps_per_epoch: int,
    epochs: int,
    mode: Literal["min", "max"] = "min",
) -> Schedule:
    """Build the learning rate schedule of a recipe.

    Example: see `Schedule`.

    Args:
        recipe: The part `schedule` of a recipe.
        optimizer: From `build_optimizer`; the rate of each group is the highest it gets.
        steps_per_epoch: Number of optimizer steps in an epoch, not of batches.
        epochs: Number of epochs of the whole run.
        mode: Whether a lower or a higher metric is better, for plateau.
    """
    steps = steps_per_epoch * epochs
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    if recipe.name == "plateau":
        lowest = [recipe.final * rate for rate in rates]
        return Schedule(
            optimizer,
            ReduceLROnPlateau(
                optimizer, mode, recipe.factor, recipe.patience, threshold=0.0, min_lr=lowest
            ),
        )
    if recipe.name == "one_cycle":
        return Schedule(optimizer, _one_cycle(recipe, optimizer, rates, steps, warmup))
    shape = _cosine if recipe.name == "cosine" else _constant
    return Schedule(optimizer, LambdaLR(optimizer, shape(warmup, steps, recipe.final)))


def _one_cycle(
    recipe: ScheduleRecipe, optimizer: Optimizer, rates: list[float], steps: int, warmup: int
) -> OneCycleLR:
    group = optimizer.param_groups[0]
    # torch divides by the lengths of rise and fall, so each must be at least one step.
    total = max(steps, 3)
    rise = min(warmup + 1, total - 1) / total if warmup else _CYCLE_RISE
    end = 1 / (_CYCLE_START * recipe.final) if recipe.final else _CYCLE_END
    return OneCycleLR(
        optimizer,
        rates,
        total_steps=total,
        pct_start=rise,
        cycle_momentum="betas" in group or group.get("momentum", 0) > 0,
        div_factor=_CYCLE_START,
        final_div_factor=end,
    )


def _constant(warmup: int, steps: int, final: float) -> Callable[[int], float]:
    return lambda step: min(1.0, (step + 1) / warmup) if step < warmup else 1.0


def _cosine(warmup: int, steps: int, final: float) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        part = min(1.0, (step - warmup) / max(1, steps - warmup))
        return final + (1 - final) * (1 + math.cos(math.pi * part)) / 2

    return factor


def average_weights(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """Return an exponential moving average of the weights of a model; `None` without a decay.

    After n updates the decay is at most (1 + n) / (10 + n), so the average of a short run is not
    dominated by the initial weights. Running statistics of batch norms are averaged too.

    Example:
        >>> import torch
        >>> from ham10000.training.optim import average_weights
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(0)
        >>> ema = average_weights(model, 0.9)
        >>> for value in (0, 1):
        ...     _ = model.weight.data.fill_(value)
        ...     ema.update_parameters(model)
        >>> round(ema.module.weight.item(), 4)
        0.8182

    Args:
        model: The model to average.
        decay: Decay of the average, from 0 to 1.
    """
    if decay is None:
        return None
    limit = decay

    @torch.no_grad()
    def update(averaged: Any, current: Any, updates: Tensor | int) -> None:
        count = int(updates)
        share = 1 - min(limit, (1 + count) / (10 + count))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, share)
        else:  # integer counters of batch norms
            torch._foreach_copy_(averaged, current)

    averaged = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    averaged.requires_grad_(False)
    return averaged
