"""The moving average of the weights, with a decay that begins small."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

__all__ = ["average_weights"]


def average_weights(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """Return what follows the weights of a model as an average; `None` without a decay.

    After n updates the decay is at most (1 + n) / (10 + n), so that a short run's average isn't of
    the weights that it began with. The running statistics of batch norms are averaged too.

    Example:
        >>> import torch
        >>> from ham10000.training.averaging import average_weights
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(0)
        >>> ema = average_weights(model, 0.9)
        >>> for value in (0, 1):
        ...     _ = model.weight.data.fill_(value)
        ...     ema.update_parameters(model)
        >>> round(ema.module.weight.item(), 4)
        0.8182

    Args:
        model: what is followed.
        decay: of the average, from 0 to 1.
    """
    if decay is None:
        return None
    limit = decay

    @torch.no_grad()
    def follow(averaged: Any, current: Any, updates: Tensor | int) -> None:
        count = int(updates)
        share = 1 - min(limit, (1 + count) / (10 + count))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, share)
        else:  # counters, as those of batch norms
            torch._foreach_copy_(averaged, current)

    averaged = AveragedModel(model, multi_avg_fn=follow, use_buffers=True)
    averaged.requires_grad_(False)
    return averaged
