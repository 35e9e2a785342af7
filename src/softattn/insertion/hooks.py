"""Hooks that apply inserted attention, and that detect when a tool replaces their module.

Tools such as `SyncBatchNorm.convert_sync_batchnorm` replace modules. Some copy only the children,
some only the hooks, some neither.
"""

import threading
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from softattn.errors import ModelError
from softattn.features import find_map, replace_map
from softattn.ops import (
    backward_hooks,
    children,
    forward_hooks,
    forward_pre_hooks,
    remove_hook,
)

__all__ = ["CHILD", "InputSize", "attach", "detach", "is_reached", "join", "restore"]

CHILD = "soft_attention"
"""Name of the attention in the module that holds it."""


def join(*names: str) -> str:
    """Join names of modules, of which some may be the module itself.

    >>> from softattn.insertion.hooks import join
    >>> join("layer4", "", "1")
    'layer4.1'
    """
    return ".".join(name for name in names if name)


class _AttendOutput:
    """Forward hook that passes the output of its module through attention inside this module.

    The attention is looked up from the module that the hook is called with, so that a copy of a
    module, or its replica on another device, uses its own.
    """

    def __init__(self, path: str, inside: bool) -> None:
        self.path = path
        self.inside = inside

    def __call__(self, module: nn.Module, args: object, output: Any) -> Any:
        attention = self.find(module)
        if attention is None:
            raise _lost(f"{type(module).__name__}, which has its hooks but not its children")
        if backward_hooks(module) and any(
            p.requires_grad for p in module.parameters(recurse=False)
        ):
            warnings.warn(
                f"applying inserted attention: a backward hook of {type(module).__name__}, after "
                "which attention was inserted, gets the gradient of the attended output. A tool "
                "that computes gradients of the module's parameters from it, such as Opacus, gets "
                "wrong ones. Insert attention after a module without parameters of its own, such "
                "as an activation or a block.",
                stacklevel=2,
            )
        x = find_map(output) if self.inside else None
        return attention(output) if x is None else replace_map(output, attention(x))

    def find(self, module: nn.Module) -> nn.Module | None:
        """Return the attention, or `None` if the module does not contain it."""
        return _inside(module, self.path)


class InputSize:
    """Forward pre-hook that records the size of the images of the current pass.

    It is registered on a module that takes the images. Attention on tokens reads the size to
    determine their grid.

    Example:
        >>> import torch
        >>> from softattn.insertion.hooks import InputSize
        >>> size, layer = InputSize(), torch.nn.Conv2d(3, 8, 16, stride=16)
        >>> handle = layer.register_forward_pre_hook(size)
        >>> _ = layer(torch.zeros(1, 3, 144, 256))
        >>> size.get()
        (144, 256)
    """

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None
        self._of_thread: dict[int, tuple[int, int]] = {}

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Record the size of the first argument."""
        first = next(iter((*args, *(kwargs or {}).values())), None)
        if isinstance(first, Tensor) and first.ndim == 4:
            self._last = self._of_thread[_thread()] = (first.shape[2], first.shape[3])

    def get(self) -> tuple[int, int] | None:
        """Return (height, width), or `None` before the first pass."""
        # Gradient checkpointing recomputes in another thread, where no size was recorded.
        return self._of_thread.get(_thread(), self._last)

    def __reduce__(self) -> tuple[Any, ...]:
        return InputSize, ()


def _thread() -> int:
    # torch.compile can't trace get_ident, and a compiled graph is one pass of one thread.
    return 0 if torch.compiler.is_compiling() else threading.get_ident()


class _KeepAttached:
    """Forward pre-hook that checks before each pass that an inner module still has its hook.

    If a tool replaced the inner module and copied only the children, the hook is registered again.
    """

    def __init__(self, path: str, hook: _AttendOutput, key: int) -> None:
        self.path = path
        self.hook = hook
        self.key = key

    def __call__(self, module: nn.Module, args: object) -> None:
        target = _inside(module, self.path)
        if target is not None and self.key not in forward_hooks(target):
            self._restore(target)

    def _restore(self, target: nn.Module) -> None:
        targets = [module for module in target.modules() if _has_hook(module)]
        if targets:  # the module was wrapped, not replaced
            known = {p for inner in targets for p in inner.parameters()}
            if not known.issuperset(target.parameters()):
                raise _adapted(type(target))
            return
        if self.hook.find(target) is None:
            raise _lost(f"{type(target).__name__}, which has neither its hooks nor its children")
        self.key = target.register_forward_hook(self.hook, prepend=True).id

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # torch numbers hooks from 0 in a new process. Without this, a new hook could get the number
        # of the unpickled one and replace it.
        RemovableHandle.next_id = max(RemovableHandle.next_id, self.key + 1)


def _inside(module: nn.Module, path: str) -> nn.Module | None:
    # Not get_submodule, which torch 2.6 can't compile.
    for name in path.split("."):
        if not hasattr(module, name):
            return None
        module = getattr(module, name)
    return module


def _has_hook(module: nn.Module) -> bool:
    return any(isinstance(hook, _AttendOutput) for hook in forward_hooks(module).values())


def _adapted(kind: type[nn.Module]) -> ModelError:
    return ModelError(
        "applying inserted attention: the module after which attention was inserted was wrapped in "
        f"{kind.__module__}.{kind.__name__}, which has parameters of its own, as an adapter has. "
        "Attention would apply to the module without the adapter, and to both after merging. "
        "Insert attention after a module that contains the adapted one, such as its block."
    )


def _lost(found: str) -> ModelError:
    return ModelError(
        "applying inserted attention: the module after which attention was inserted was replaced "
        f"by {found}, and its attention is gone. Call remove_attention(model), then the tool that "
        "replaces modules, then insert_attention again."
    )


def attach(
    model: nn.Module,
    attention: nn.Module,
    target: str,
    parent: str,
    caller: str,
    inside: bool = False,
) -> None:
    """Add attention to a model, and pass the output of a module through it.

    Args:
        model: It is changed.
        attention: Becomes a child of the parent.
        target: Name of the module whose output is attended.
        parent: Name of the attention's parent, relative to the target; "" for the target itself.
        caller: Name of a module around the target that is called, "" for the model. It checks the
            target in each pass.
        inside: Whether the output is a tuple, a mapping or a data class that holds the map.
    """
    module = model.get_submodule(target)
    module.get_submodule(parent).add_module(CHILD, attention.train(module.training))
    hook = _AttendOutput(join(parent, CHILD), inside)
    # Before existing hooks, so that they get the attended output, like the next layer.
    key = module.register_forward_hook(hook, prepend=True).id
    path = target.removeprefix(f"{caller}.") if caller else target
    model.get_submodule(caller).register_forward_pre_hook(_KeepAttached(path, hook, key))


def restore(model: nn.Module) -> None:
    """Register the hooks that tools dropped again, as the next pass would.

    Raises:
        ModelError: Attention was lost with the module after which it was inserted.
    """
    for module in model.modules():
        for hook in forward_pre_hooks(module).values():
            if isinstance(hook, _KeepAttached):
                hook(module, ())


def detach(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Remove attention of the given classes and all hooks of `attach`; return whether any existed.

    This includes attention that no hook calls any more, and hooks without attention.
    """
    found = False
    # From the inside, since a module of the user may have the name of the attention inside it.
    for module in reversed(list(model.modules())):
        for hooks in (forward_hooks(module), forward_pre_hooks(module)):
            for key, hook in list(hooks.items()):
                if isinstance(hook, _AttendOutput | _KeepAttached | InputSize):
                    remove_hook(module, key)
                    found = True
        # A tool may have wrapped the attention, as PEFT wraps modules_to_save.
        child = children(module).get(CHILD)
        if child is not None and any(isinstance(part, kinds) for part in child.modules()):
            delattr(module, CHILD)
            found = True
    return found


def is_reached(model: nn.Module, name: str) -> bool:
    """Return whether a module around an attention of this name has the hook that calls it."""
    modules = [model]
    for part in name.split("."):
        modules.append(getattr(modules[-1], part))
    # The hook may call a module that wraps the attention.
    return any(
        hook.find(module) in modules
        for module in modules
        for hook in forward_hooks(module).values()
        if isinstance(hook, _AttendOutput)
    )
