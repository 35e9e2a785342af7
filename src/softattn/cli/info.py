"""`info`: where attention goes in a model, and what each part of it costs."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from softattn.errors import SoftAttnError
from softattn.models import SoftAttentionClassifier, wrap_backbone

__all__ = ["PartCost", "part_costs", "summarize"]


class PartCost(NamedTuple):
    """What a part of a model costs."""

    name: str
    parameters: int
    multiply_adds: int
    """For one image, in matrix products and convolutions."""


def part_costs(model: SoftAttentionClassifier) -> list[PartCost]:
    """Count the parameters and multiply-adds of backbone, attention and head, for one image.

    Example:
        >>> import torch
        >>> from softattn import wrap_backbone
        >>> from softattn.cli.info import part_costs
        >>> with torch.device("meta"):
        ...     model = wrap_backbone("torchvision:resnet18", num_classes=7)
        >>> part_costs(model)[1]
        PartCost(name='attention', parameters=73745, multiply_adds=3612672)

    Args:
        model: it runs once, where its parameters are; on the meta device that costs nothing.
    """
    parts = [("backbone", model.backbone), ("attention", model.attention), ("head", model.head)]
    like = next(p for p in model.parameters() if p.is_floating_point())
    image = torch.zeros(1, *model.backbone.feature_map.input_size).to(like)
    training = model.training
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            model.eval()(image)
    finally:
        model.train(training)
    by_module = counter.get_flop_counts()
    return [
        PartCost(
            name,
            sum(parameter.numel() for parameter in part.parameters()),
            # torch counts a multiplication and an addition as two.
            sum(by_module.get(f"{type(model).__name__}.{name}", {}).values()) // 2,
        )
        for name, part in parts
    ]


def summarize(name: str, *, at: str | None = None, num_classes: int, num_maps: int) -> str:
    """Say in a few lines where attention goes in a model, and what it costs.

    Raises:
        SoftAttnError: what `wrap_backbone` raises.
    """
    model = _build(name, partial(wrap_backbone, at=at, num_classes=num_classes, num_maps=num_maps))
    found = model.backbone.feature_map
    costs = part_costs(model)
    total = PartCost("total", *(sum(column) for column in list(zip(*costs, strict=True))[1:]))
    where = found.at if found.at is not None else "its last feature map"
    lines = [
        name,
        f"  input        {_times(found.input_size)}",
        f"  attention at {where}, by {found.source.value}",
        f"  feature map  {_times((found.channels, *found.size))}, one position for "
        f"{found.reduction} x {found.reduction} pixels",
        f"  maps         {_times((num_maps, *found.size))}",
    ]
    if model.backbone.dropped:
        lines.append(f"  dropped      {', '.join(model.backbone.dropped)}")
    lines.append(f"\n  {'':12}{'parameters':>16}{'multiply-adds':>18}")
    lines += [f"  {c.name:12}{c.parameters:16,}{c.multiply_adds:18,}" for c in [*costs, total]]
    return "\n".join(lines)


def _build(name: str, build: Callable[[str], SoftAttentionClassifier]) -> SoftAttentionClassifier:
    try:
        with torch.device("meta"):
            return build(name)
    except SoftAttnError:
        raise
    except Exception:
        # Some constructors compute with their weights, which have no values on the meta device.
        return build(name)


def _times(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))
