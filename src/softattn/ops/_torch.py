"""Every private name of torch and accelerate that softattn uses, and modes of torch."""

import itertools
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")

# Name of the child in which torch.compile(module) stores the module.
_COMPILED_CHILD = "_orig_mod"

# torch 2.6 has no is_exporting; is_compiling is true for both.
_is_exporting: Callable[[], bool] = getattr(
    torch.compiler, "is_exporting", torch.compiler.is_compiling
)


def is_exporting() -> bool:
    """Return whether `torch.export` is tracing."""
    return _is_exporting()


def functorch_is_active() -> bool:
    """Return whether a transform of `torch.func` is active."""
    return torch._C._are_functorch_transforms_active()


def outside_inference_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that parameters that it makes can be trained."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False):
            return function(*args, **kwargs)

    return call


def device_and_dtype(model: nn.Module) -> Tensor:
    """Return a tensor with the device on which a model computes, and the dtype of its parameters.

    accelerate keeps offloaded parameters on the meta device, and moves them to an execution device
    in each pass.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    like = next((t for t in tensors if t.is_floating_point()), torch.empty(0))
    hooks = (getattr(m, "_hf_hook", None) for m in model.modules()) if like.is_meta else ()
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    device = next((d for d in devices if d is not None), like.device)
    return torch.empty(0, device=device, dtype=like.dtype)


def is_compiled(module: nn.Module) -> bool:
    """Return whether calls of a module run code of `torch.compile`."""
    return hasattr(module, _COMPILED_CHILD) or module._compiled_call_impl is not None


def without_compiler(name: str) -> str:
    """Return the name that a module has in a model without `torch.compile`.

    >>> from softattn.ops import without_compiler
    >>> without_compiler("_orig_mod.layer4.1._orig_mod.attention")
    'layer4.1.attention'
    """
    return ".".join(part for part in name.split(".") if part != _COMPILED_CHILD)


def forward_hooks(module: nn.Module) -> dict[int, Callable[..., Any]]:
    """Return the hooks that run after a module by number, in their order."""
    return module._forward_hooks


def forward_pre_hooks(module: nn.Module) -> dict[int, Callable[..., Any]]:
    """Return the hooks that run before a module by number, in their order."""
    return module._forward_pre_hooks


def backward_hooks(module: nn.Module) -> dict[int, Callable[..., Any]]:
    """Return the hooks that get the gradient of a module's output by number, in their order."""
    return module._backward_hooks


def remove_hook(module: nn.Module, number: int) -> None:
    """Remove a hook that runs before or after a module."""
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        hooks.pop(number, None)
    module._forward_pre_hooks_with_kwargs.pop(number, None)


def children(module: nn.Module) -> dict[str, nn.Module]:
    """Return all children by name, unlike `named_children` also those that occur twice."""
    return {name: child for name, child in module._modules.items() if child is not None}


def is_persistent(module: nn.Module, buffer: str) -> bool:
    """Return whether a buffer of a module is part of its state dict."""
    return buffer not in module._non_persistent_buffers_set
