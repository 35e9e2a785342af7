"""One dry run through a model: what comes out, and what took part; the model stays as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = ["DryRun", "black_image", "dry_run", "untouched"]


@dataclass(frozen=True)
class DryRun:
    """What a dry run has shown."""

    output: Any
    """Its tensors carry the autograd graph."""
    called: frozenset[nn.Module]
    """The modules that were called."""

    def reached(self, output: Tensor) -> set[Tensor] | None:
        """Return the parameters that get a gradient from an output, or None if they don't show."""
        found: set[Tensor] = set()
        seen, waiting = set(), [output.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            # A reentrant checkpoint hides its parameters.
            if "CheckpointFunction" in node.name():
                return None
            if hasattr(node, "variable"):
                found.add(node.variable)
            waiting.extend(following for following, _ in node.next_functions)
        return found


def dry_run(
    model: nn.Module, read: Callable[[Tensor], Any], input_size: tuple[int, int, int]
) -> DryRun:
    """Run `read` once on one black image, where the model's parameters are.

    Example:
        >>> import torch
        >>> from softattn.features.dry_run import dry_run
        >>> model = torch.nn.Conv2d(3, 8, 3, device="meta")
        >>> run = dry_run(model, model, (3, 16, 16))
        >>> run.output.shape, len(run.reached(run.output))
        (torch.Size([1, 8, 14, 14]), 2)
    """
    called: set[nn.Module] = set()

    def note(module: nn.Module, args: Any) -> None:
        called.add(module)

    # For all modules of the process, so that the model itself gets no hook.
    handle = register_module_forward_pre_hook(note)
    try:
        with untouched(model), torch.enable_grad():
            for parameter in model.parameters():
                # Frozen parameters take part like others.
                parameter.requires_grad_(parameter.is_floating_point())
            output = read(black_image(model, input_size))
    finally:
        handle.remove()
    return DryRun(output, frozenset(called))


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation, and afterwards give back everything that it holds.

    That is modes, hooks, gradients' flags, random state, and what modules store in passing: some
    keep a table in evaluation (LeViT's attention biases), which with gradients could no longer
    be copied.
    """
    held = [(vars(module), _contents(module)) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    device = _place(model).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            # Not eval(), which a model may have changed to do more.
            for module in model.modules():
                module.training = False
            yield
        finally:
            for attributes, contents in held:
                attributes.clear()
                for name, (value, copied) in contents.items():
                    attributes[name] = value
                    if isinstance(value, dict):
                        value.clear()
                        value.update(copied)
                    elif isinstance(value, list):
                        value[:] = copied
            for parameter, flag in flags:
                parameter.requires_grad_(flag)


def _contents(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Return a module's attributes, each with a copy of what it contains."""
    return {
        name: (value, value.copy() if isinstance(value, dict | list) else None)
        for name, value in vars(module).items()
    }


def black_image(model: nn.Module, input_size: tuple[int, int, int]) -> Tensor:
    """Return a batch of one where and as the model's parameters are."""
    place = _place(model)
    return torch.zeros(1, *input_size, device=place.device, dtype=place.dtype)


def _place(model: nn.Module) -> Tensor:
    tensors = (*model.parameters(), *model.buffers())
    return next((t for t in tensors if t.is_floating_point()), torch.zeros(0))
