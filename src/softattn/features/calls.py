"""A dry run: what each module of a model gives in one pass, seen without touching the model.

The pass runs on a copy that shares the model's parameters and has its own buffers, modes, hooks
and caches, so that a pass which changes any of these changes nothing of the model's.
"""

import copy
import itertools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from softattn.errors import ModelError

__all__ = ["Calls", "copy_sharing_parameters", "default_inputs", "record_calls"]

Inputs = tuple[Any, ...]


@dataclass
class Calls:
    """How often a module ran in a pass, and what it gave the last time."""

    count: int = 0
    ndim: int = 0
    """Of the output, if it is a tensor."""
    output: object = None
    """Where it was to be kept."""
    input_shape: tuple[int, ...] = ()
    """Of the first argument, if it is a tensor."""


def copy_sharing_parameters(model: nn.Module, doing: str) -> nn.Module:
    """Copy a model, with the very parameters of the original and everything else of its own.

    Example:
        >>> import torch
        >>> from softattn.features.calls import copy_sharing_parameters
        >>> norm = torch.nn.BatchNorm2d(8)
        >>> copied = copy_sharing_parameters(norm, "copying a norm")
        >>> copied.weight is norm.weight, copied.running_mean is norm.running_mean
        (True, False)

    Raises:
        ModelError: the model can't be copied, or has parameters of no shape yet.
    """
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise ModelError(
            f"{doing}: {type(model).__name__} has lazy parameters, whose shapes its first pass "
            "decides. Run it once before."
        )
    memo: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    for module in model.modules():
        # What torch.nn.utils.weight_norm leaves on a module can't be copied: it is a result.
        results = (v for v in vars(module).values() if isinstance(v, Tensor) and not v.is_leaf)
        memo.update({id(result): result.detach() for result in results})
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(
            f"{doing}: {type(model).__name__} can't be copied for a dry run: "
            f"{type(error).__name__}: {error}"
        ) from error


def default_inputs(model: nn.Module) -> Iterator[Inputs]:
    """Give the inputs that a model may want, the likeliest first, as far as it says so itself.

    A batch of two, so that a batch can be told from a stack of windows.

    Example:
        >>> import torch
        >>> from softattn.features.calls import default_inputs
        >>> [tuple(x.shape) for (x,) in default_inputs(torch.nn.Conv2d(1, 8, 3))]
        [(2, 1, 224, 224), (2, 3, 224, 224)]
    """
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    like = parameters[0] if parameters else torch.empty(0)
    convolutions = [m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    config = _first_attribute(model, "pretrained_cfg")
    declared = config.get("input_size") if isinstance(config, Mapping) else None
    channels = [*convolutions[:1], declared[0] if declared else 3]
    sizes = [
        _pair(_first_attribute(model, "img_size")),
        tuple(declared[1:]) if declared else None,
        _pair(_first_attribute(model, "image_size")),
        (224, 224),
    ]
    generator = torch.Generator().manual_seed(0)
    shapes = itertools.product(channels, (size for size in sizes if size is not None))
    for depth, size in dict.fromkeys(shapes):
        x = torch.randn(2, depth, *size, generator=generator)
        yield (x.to(like.device, like.dtype),)


def _first_attribute(model: nn.Module, name: str) -> Any:
    values = (getattr(module, name, None) for module in model.modules())
    return next((value for value in values if value is not None), None)


def _pair(size: object) -> tuple[int, int] | None:
    if isinstance(size, int):
        return (size, size)
    if isinstance(size, tuple | list) and len(size) == 2:
        return (int(size[0]), int(size[1]))
    return None


def record_calls(model: nn.Module, inputs: Inputs, keep: set[str]) -> dict[str, Calls]:
    """Run a model once, in evaluation, and tell what each of its modules did.

    The model is left in evaluation: pass a copy.

    Example:
        >>> import torch
        >>> from softattn.features.calls import record_calls
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> calls = record_calls(net, (torch.zeros(1, 3, 8, 8),), keep={"0"})
        >>> calls["0"].count, tuple(calls["0"].output.shape), calls["1"]
        (1, (1, 8, 6, 6), Calls(count=1, ndim=4, output=None, input_shape=(1, 8, 6, 6)))

    Args:
        model: whose modules are watched.
        inputs: its arguments.
        keep: the modules whose outputs are kept.
    """
    calls = {name: Calls() for name, _ in model.named_modules(remove_duplicate=False)}

    def watch(name: str, module: nn.Module) -> RemovableHandle:
        def note(_module: nn.Module, args: tuple[Any, ...], output: object) -> None:
            calls[name].count += 1
            if args and isinstance(args[0], Tensor):
                calls[name].input_shape = tuple(args[0].shape)
            calls[name].ndim = output.ndim if isinstance(output, Tensor) else 0
            calls[name].output = output if name in keep else None

        # In front, where the attention's hook is going to be.
        return module.register_forward_hook(note, prepend=True)

    named = model.named_modules(remove_duplicate=False)
    handles = [watch(name, module) for name, module in named]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.no_grad(), torch.random.fork_rng(list(devices)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of checkpointing where no gradient is needed
        model.eval()(*inputs)
    for handle in handles:
        handle.remove()
    return calls
