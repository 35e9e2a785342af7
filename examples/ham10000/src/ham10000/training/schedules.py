"""Schedules: how the learning rates change from step to step, or when a metric stands still."""

import math
from collections.abc import Callable
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau

from ham10000.recipe import ScheduleRecipe

__all__ = ["Schedule", "build_schedule"]

_CYCLE_RISE = 0.3
_CYCLE_START = 25.0
_CYCLE_END = 1e4


class Schedule:
    """One of torch's schedulers, told of every step and of every epoch's end.

    Example:
        >>> import torch
        >>> from ham10000.recipe import ScheduleRecipe
        >>> from ham10000.training.schedules import build_schedule
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
        optimizer: whose learning rates change.
        scheduler: of `torch.optim.lr_scheduler`.
    """

    def __init__(
        self, optimizer: Optimizer, scheduler: LambdaLR | OneCycleLR | ReduceLROnPlateau
    ) -> None:
        self.optimizer = optimizer
        self.scheduler = scheduler

    @property
    def lr(self) -> float:
        """The largest learning rate of a group, now."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def step(self, metric: float | None = None) -> None:
        """Go on: without a metric by one step of the optimizer, with one by an epoch.

        Plateau listens to epochs alone, and the others to steps alone, so that a loop calls it
        without a metric after each step, and with the validation metric after each epoch.
        """
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if metric is not None:
                self.scheduler.step(metric)
        elif metric is None and not self._over:
            self.scheduler.step()

    @property
    def _over(self) -> bool:
        # Beyond its last rate one cycle rises again, and then refuses to go on. A run that is
        # resumed on fewer processes may have a step more in an epoch than it was begun with.
        cycle = self.scheduler
        return isinstance(cycle, OneCycleLR) and cycle.last_epoch >= cycle.total_steps - 1

    def state_dict(self) -> dict[str, Any]:
        """Return where the schedule is, in plain numbers."""
        state: dict[str, Any] = self.scheduler.state_dict()
        return {name: value for name, value in state.items() if name != "lr_lambdas"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go where another schedule was; the optimizer's own state has its rates."""
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
    """Build the schedule of a recipe.

    Args:
        recipe: the part `schedule` of a recipe.
        optimizer: from `build_optimizer`; each group's rate is the highest it gets.
        steps_per_epoch: steps of the optimizer, not batches.
        epochs: how long the whole run is.
        mode: whether less or more of the metric is better, for plateau.
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
    # torch divides by the lengths of rise and fall, so that each must be one step at least.
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
