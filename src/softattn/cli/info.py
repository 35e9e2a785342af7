"""The command info: position of the attention in a model, and the cost of each part."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from softattn.errors import SoftAttnError
from softattn.models import SoftAttentionClassifier, wrap_backbone
from softattn.ops import device_and_dtype

__all__ = ["PartCost", "part_costs", "summarize"]


class PartCost(NamedTuple):
    """Cost of one part of a model."""

    name: str
    """Name of the part."""
    parameters: int
    """Number of parameters."""
    multiply_adds: int
    """Number of multiply-adds of matrix products and convolutions, for one image."""


def part_costs(model: SoftAttentionClassifier) -> list[PartCost]:
    """Count parameters and multiply-adds of backbone, attention and head, for one image.

    Example:
        >>> import torch
        >>> from softattn import wrap_backbone
        >>> from softattn.cli.info import part_costs
        >>> with torch.device("meta"):
        ...     model = wrap_backbone("torchvision:resnet18", num_classes=7)
        >>> part_costs(model)[1]
        PartCost(name='attention', parameters=73745, multiply_adds=3612672)

    Args:
        model: Runs once, on the device of its parameters. The meta device works.
    """
    parts = [("backbone", model.backbone), ("attention", model.attention), ("head", model.head)]
    image = torch.zeros(1, *model.backbone.feature_map.input_size).to(device_and_dtype(model))
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
            # torch counts a multiply-add as two operations.
            sum(by_module.get(f"{type(model).__name__}.{name}", {}).values()) // 2,
        )
        for name, part in parts
    ]


def summarize(name: str, *, at: str | None = None, num_classes: int, num_maps: int) -> str:
    """Describe the attention in a model and the cost of each part, as text.

    Example:
        >>> from softattn.cli.info import summarize
        >>> print(summarize("torchvision:resnet18", num_classes=7, num_maps=16))
        torchvision:resnet18
          input        3 x 224 x 224
          attention at layer4, by forward, truncated
          feature map  512 x 7 x 7, one position for 32 x 32 pixels
          maps         16 x 7 x 7
          dropped      fc
        ...

    Args:
        name: Name of the model, as for `wrap_backbone`.
        at: Name of a module, as for `wrap_backbone`.
        num_classes: Number of class scores.
        num_maps: K, the number of attention maps.

    Raises:
        SoftAttnError: As raised by `wrap_backbone`.
    """
    model = _build(name, partial(wrap_backbone, at=at, num_classes=num_classes, num_maps=num_maps))
    found = model.backbone.feature_map
    costs = part_costs(model)
    total = PartCost("total", *(sum(column) for column in list(zip(*costs, strict=True))[1:]))
    where = found.at if found.at is not None else "its last feature map"
    lines = [
        str((model.wrap_arguments or {})["backbone"]),  # the name with its library
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
        # Some constructors compute with weights, which have no values on the meta device.
        return build(name)


def _times(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))
