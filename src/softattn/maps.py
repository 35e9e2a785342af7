"""`capture_maps`: the attention maps of any model, with no state left behind."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from softattn.attention import SpatialAttention, observers
from softattn.errors import ModelError

__all__ = ["capture_maps"]


@contextmanager
def capture_maps(model: nn.Module) -> Iterator[Mapping[str, Tensor]]:
    """Collect the maps of every attention module in a model, for the passes inside the `with`.

    Example:
        >>> import torch
        >>> from softattn import SoftAttention, capture_maps
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), SoftAttention(8, num_maps=4))
        >>> with capture_maps(model) as maps:
        ...     _ = model(torch.randn(2, 3, 16, 16))
        >>> {name: tuple(values.shape) for name, values in maps.items()}
        {'1': (2, 4, 14, 14)}

    The model isn't touched: no hooks, no stored tensors, nothing to remove. It may be compiled
    before, inside or after; it is compiled once more for the passes inside.

    Args:
        model: anything that holds a `SpatialAttention`, compiled or not.

    Yields:
        A mapping from the names of the modules, as in `named_modules()`, to their maps
        (B, K, H, W), in the order in which the modules ran. A later pass replaces the maps of an
        earlier one. Maps carry gradients like any output; `detach()` those that you keep.

    Raises:
        ModelError: the model holds no attention.
    """
    names = {
        module: _without_compiler(name)
        for name, module in model.named_modules()
        if isinstance(module, SpatialAttention)
    }
    if not names:
        raise ModelError(
            f"capturing attention maps: {type(model).__name__} holds no attention module. "
            "Put a softattn.SoftAttention into it, or anything that derives from "
            "softattn.SpatialAttention."
        )
    captured: dict[str, Tensor] = {}

    def observe(module: SpatialAttention, maps: Tensor) -> None:
        if module in names:
            name = names[module]
            captured.pop(name, None)  # so that the order is that of the last pass
            captured[name] = maps

    observers.append(observe)
    try:
        yield captured
    finally:
        observers.remove(observe)


def _without_compiler(name: str) -> str:
    # torch.compile puts a module of its own around the one that it compiles.
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
