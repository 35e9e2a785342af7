"""Collection of attention maps: `capture_maps`, and the base class of attention modules."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from threading import local

import torch
from torch import Tensor, nn

from softattn.errors import ArgumentTypeError, ModelError
from softattn.ops import without_compiler

__all__ = ["SpatialAttention", "capture_maps"]


class _Capture:
    """The modules that one `capture_maps` block observes, and their maps."""

    def __init__(self, names: dict["SpatialAttention", str]) -> None:
        self.names = names
        self.maps: dict[str, Tensor] = {}

    def record(self, module: "SpatialAttention", maps: Tensor) -> None:
        if module in self.names:
            name = self.names[module]
            self.maps.pop(name, None)  # keeps the order of the last pass
            self.maps[name] = maps

    def close(self) -> None:
        # Tasks started inside the block run in copies of its context, perhaps for longer than
        # the block. They must record nothing more, so removing the capture from this context is
        # not enough.
        self.names = {}


# The captures that are active in the current thread or asyncio task. A context variable rather
# than hooks or attributes of modules, so that a model can be copied, pickled, compiled and shared
# by threads at any time.
_captures: ContextVar[tuple[_Capture, ...]] = ContextVar("softattn_captures", default=())


class _ThreadCaptures(local):
    """The captures that the current thread started."""

    def __init__(self) -> None:  # runs once in each thread
        self.active: tuple[_Capture, ...] = ()


# Before 2.14, torch.compile could not read context variables. It can guard on these, at the price
# of one compilation for each thread that captures.
_thread_captures = _ThreadCaptures()
# The version compares by its parts, not as text.
_CONTEXT_VARIABLES_COMPILE = torch.__version__ >= "2.14"


def _active_captures() -> tuple[_Capture, ...]:
    if _CONTEXT_VARIABLES_COMPILE or not torch.compiler.is_compiling():
        return _captures.get()
    return _thread_captures.active


class SpatialAttention(nn.Module):
    """Base class of all attention modules. Maps passed to `emit` are visible to `capture_maps`.

    To make an attention module of your own visible, derive from this class and end `forward` with
    `emit`.

    Example:
        >>> import torch
        >>> from softattn import SpatialAttention, functional
        >>> class Brightness(SpatialAttention):
        ...     def forward(self, x, return_maps=False):
        ...         maps = functional.spatial_softmax(x.mean(dim=1, keepdim=True))
        ...         return self.emit(functional.attend(x, maps), maps, return_maps)
        >>> Brightness()(torch.randn(2, 8, 7, 7)).shape
        torch.Size([2, 8, 7, 7])
    """

    def emit(
        self, features: Tensor, maps: Tensor, return_maps: bool
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Pass the maps to active captures and return the result of `forward`.

        Args:
            features: The attended feature map.
            maps: (B, K, H, W), or (B, K, ...) with another number of spatial dimensions.
            return_maps: Return (features, maps) instead of the features alone.
        """
        for capture in _active_captures():
            capture.record(self, maps)
        return (features, maps) if return_maps else features

    def _is_lost(self, model: nn.Module, name: str) -> bool:
        # Whether the model no longer calls this module, which has this name in the model.
        return False


@contextmanager
def capture_maps(model: nn.Module) -> Iterator[Mapping[str, Tensor]]:
    """Collect the maps of all attention modules of a model during the `with` block.

    Example:
        >>> import torch
        >>> from softattn import SoftAttention, capture_maps
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), SoftAttention(8, num_maps=4))
        >>> with capture_maps(model) as maps:
        ...     _ = model(torch.randn(2, 3, 16, 16))
        >>> {name: tuple(values.shape) for name, values in maps.items()}
        {'1': (2, 4, 14, 14)}

    The model is not modified: there are no hooks to remove and no tensors stored on it. It may be
    compiled before, inside or after the block; a compiled model is compiled once more for the
    passes inside.

    Thread safety: only passes in the current context are recorded: in the thread or asyncio task
    that entered the block, and in copies of its context, as made by `asyncio.to_thread`. Any number
    of threads and tasks may share a model and capture at the same time, without a lock. A thread or
    pool started inside the block is not recorded, unless it runs in
    `contextvars.copy_context().run`. (On torch before 2.14, a compiled model records the passes of
    the thread that entered the block.) Nor are the replicas of `nn.DataParallel` on several GPUs,
    which are copies of the model in threads of their own: capture `model.module` instead. With
    gradient checkpointing, a recomputation in `backward` on the CPU replaces the maps with equal
    ones.

    Args:
        model: Any module that contains a `SpatialAttention`, compiled or not.

    Yields:
        A mapping from the names of the modules, as in `named_modules()`, to their maps
        (B, K, ...), in the order in which the modules ran. A later pass replaces the maps of
        an earlier one. Maps carry gradients like any output; `detach()` those that you keep.

    Raises:
        ArgumentTypeError: `model` is not a module.
        ModelError: The model contains no attention module; or, at the end of the block, a tool
            has replaced a module that inserted attention follows, so that no pass reaches it.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            f"capturing maps: expected a torch.nn.Module, found {model!r} ({type(model).__name__})."
        )
    names = {
        module: without_compiler(name)
        for name, module in model.named_modules()
        if isinstance(module, SpatialAttention)
    }
    if not names:
        raise ModelError(
            f"capturing attention maps: {type(model).__name__} contains no attention module. "
            "Add a softattn.SoftAttention to it, or any module derived from "
            "softattn.SpatialAttention."
        )
    capture = _Capture(names)
    _captures.set((*_captures.get(), capture))
    _thread_captures.active = (*_thread_captures.active, capture)
    try:
        yield capture.maps
    finally:
        capture.close()
        # Not ContextVar.reset: blocks of generators may end in any order, and in another context.
        _captures.set(_without(capture, _captures.get()))
        _thread_captures.active = _without(capture, _thread_captures.active)
    for module, name in names.items():
        if name not in capture.maps and module._is_lost(model, name):
            raise ModelError(
                f"capturing attention maps: no pass reaches {name!r}, since the module that it "
                "follows was replaced. Call remove_attention(model), then the tool that replaces "
                "modules, then insert_attention again."
            )


def _without(capture: _Capture, captures: tuple[_Capture, ...]) -> tuple[_Capture, ...]:
    return tuple(other for other in captures if other is not capture)
