"""Dry run of a model: one recorded run of a copy that shares the model's parameters.

All properties of a model that softattn infers come from such a record. The model itself is never
run, so its buffers, modes, hooks, flags and caches do not change.
"""

import copy
import random
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from softattn.errors import ModelError
from softattn.features.layout import find_map
from softattn.ops import device_and_dtype

__all__ = [
    "Call",
    "DryRun",
    "ImageSize",
    "Inputs",
    "argument_values",
    "call_model",
    "candidate_sizes",
    "copy_sharing_parameters",
    "declares_main_input",
    "dry_run",
    "image_shapes",
    "image_size",
    "keep_random_state",
    "random_images",
    "random_volumes",
    "takes_volumes",
]

Inputs = tuple[Any, ...] | Mapping[str, Any]
"""Positional arguments of a model, or keyword arguments by name."""
ImageSize = tuple[int, int, int]
"""(C, H, W)."""


@dataclass
class Call:
    """Calls of one module during a dry run."""

    count: int = 0
    input_shape: tuple[int, ...] = ()
    """Shape of the first positional or keyword argument of the last call, if it is a tensor."""
    ndim: int = 0
    """Number of dimensions of the map in the last output, or 0 if there is none."""
    output: object = None
    """The last output, for modules in `keep`."""


@dataclass(frozen=True)
class DryRun:
    """Record of a dry run."""

    model: nn.Module
    """The copy that ran, in eval mode."""
    inputs: Inputs
    output: Any
    """Output of the run, with its autograd graph."""
    calls: Mapping[str, Call]
    """Calls by module name, as in `named_modules(remove_duplicate=False)`."""
    parameters: Mapping[Tensor, nn.Parameter]
    """The model's parameters, by those of the copy."""

    def was_called(self, name: str) -> bool:
        """Return whether a module or any module inside it was called."""
        return any(
            call.count and (called == name or called.startswith(f"{name}."))
            for called, call in self.calls.items()
        )

    def reached(self, output: Tensor) -> set[nn.Parameter] | None:
        """Return the parameters that an output depends on; `None` if they can't be determined.

        The autograd graph does not contain operations inside a reentrant checkpoint.
        """
        found: set[nn.Parameter] = set()
        seen, waiting = set(), [output.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if "CheckpointFunction" in node.name():
                return None
            variable = getattr(node, "variable", None)
            if variable is not None and variable in self.parameters:
                found.add(self.parameters[variable])
            waiting.extend(following for following, _ in node.next_functions)
        return found


def dry_run(
    model: nn.Module,
    inputs: Inputs,
    *,
    read: Callable[..., Any] | None = None,
    keep: Collection[str] = (),
    prepare: Callable[[nn.Module], None] | None = None,
    doing: str = "running a model",
) -> DryRun:
    """Run a copy of a model once, in eval mode and with gradients, and record what happened.

    Example:
        >>> import torch
        >>> from softattn.features.dry_run import dry_run
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> run = dry_run(net, (torch.zeros(1, 3, 8, 8),), keep={"0"})
        >>> tuple(run.calls["0"].output.shape), len(run.reached(run.output))
        ((1, 8, 6, 6), 2)

    Args:
        model: It is not changed.
        inputs: Arguments of the model.
        read: Called with the copy and the values of the inputs; by default the copy is called with
            the inputs.
        keep: Names of modules whose outputs are kept.
        prepare: Called with the copy before it runs.
        doing: The beginning of error messages.

    Raises:
        ModelError: The model can't be copied.
        Exception: Any that the model raises.
    """
    copied = copy_sharing_parameters(model, doing)
    if prepare is not None:
        prepare(copied)
    named = dict(copied.named_modules(remove_duplicate=False))
    calls = {name: Call() for name in named}
    originals = dict(model.named_parameters(remove_duplicate=False))
    parameters: dict[Tensor, nn.Parameter] = {
        parameter: originals[name]
        for name, parameter in copied.named_parameters(remove_duplicate=False)
        if name in originals
    }
    with ExitStack() as stack:
        for name, module in named.items():
            stack.callback(_watch(module, calls[name], name in keep).remove)
        stack.enter_context(torch.enable_grad())
        stack.enter_context(keep_random_state(model))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # such as of checkpointing without gradients
        output = (
            call_model(copied, inputs) if read is None else read(copied, *argument_values(inputs))
        )
    return DryRun(copied, inputs, output, calls, parameters)


def call_model(model: nn.Module, inputs: Inputs) -> Any:
    """Call a model with positional or keyword arguments.

    >>> import torch
    >>> from softattn.features.dry_run import call_model
    >>> call_model(torch.nn.ReLU(), {"input": torch.tensor([-1.0])})
    tensor([0.])
    """
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def argument_values(inputs: Inputs) -> tuple[Any, ...]:
    """Return the values of positional or keyword arguments.

    >>> from softattn.features.dry_run import argument_values
    >>> argument_values({"x": 1, "y": 2})
    (1, 2)
    """
    return tuple(inputs.values()) if isinstance(inputs, Mapping) else inputs


def declares_main_input(model: nn.Module) -> bool:
    """Return whether any module of a model has `main_input_name`, as transformers models do."""
    return any(hasattr(module, "main_input_name") for module in model.modules())


@contextmanager
def keep_random_state(model: nn.Module) -> Iterator[None]:
    """Restore the random states of torch, also on a model's devices, of Python and of NumPy."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def _watch(module: nn.Module, call: Call, keep: bool) -> RemovableHandle:
    def note(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
    ) -> None:
        call.count += 1
        first = next(iter((*args, *kwargs.values())), None)
        if isinstance(first, Tensor):
            call.input_shape = tuple(first.shape)
        found = find_map(output)
        call.ndim = 0 if found is None else found.ndim
        call.output = output if keep else None

    # Run before other hooks, like the hook that applies attention.
    return module.register_forward_hook(note, prepend=True, with_kwargs=True)


def copy_sharing_parameters(model: nn.Module, doing: str = "running a model") -> nn.Module:
    """Return a copy of a model in eval mode that shares the values of its parameters only.

    Example:
        >>> import torch
        >>> from softattn.features.dry_run import copy_sharing_parameters
        >>> norm = torch.nn.BatchNorm2d(8)
        >>> copied = copy_sharing_parameters(norm)
        >>> copied.weight.data_ptr() == norm.weight.data_ptr()
        True
        >>> copied.running_mean.data_ptr() == norm.running_mean.data_ptr()
        False

    All floating-point parameters of the copy require gradients.

    Raises:
        ModelError: The model can't be copied, or has parameters without a shape yet.
    """
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise ModelError(
            f"{doing}: {type(model).__name__} has lazy parameters, whose shapes are unknown before "
            "the first pass. Run the model once first."
        )
    if not torch.is_inference_mode_enabled() and any(p.is_inference() for p in model.parameters()):
        raise ModelError(
            f"{doing}: {type(model).__name__} was built in torch.inference_mode, so that it cannot "
            "be trained. Build it outside."
        )
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        # Subclasses, such as quantized weights, define how they are copied.
        shared = (
            nn.Parameter(parameter.detach(), parameter.is_floating_point())
            if type(parameter) is nn.Parameter
            else parameter
        )
        memo[id(parameter)] = shared
    for module in model.modules():
        # torch.nn.utils.weight_norm stores a computed tensor, which deepcopy rejects.
        results = (v for v in vars(module).values() if isinstance(v, Tensor) and not v.is_leaf)
        memo.update({id(result): result.detach() for result in results})
    try:
        copied = copy.deepcopy(model, dict(memo))
    except Exception:
        # Objects that can't be copied, such as a lock or an open file, are shared with the copy.
        _share_uncopyable(model, memo)
        try:
            copied = copy.deepcopy(model, memo)
        except Exception as error:
            raise ModelError(
                f"{doing}: {type(model).__name__} can't be copied for a dry run: "
                f"{type(error).__name__}: {error}. Make copy.deepcopy(model) work first."
            ) from error
    # accelerate's init_empty_weights puts parameters on the meta device, and buffers not.
    without_values = device_and_dtype(model).is_meta
    for module in copied.modules():
        module.training = False  # not eval(), which a model may override
        for name, buffer in module.named_buffers(recurse=False) if without_values else ():
            setattr(module, name, buffer.to("meta"))
    return copied


def _share_uncopyable(
    value: Any, memo: dict[int, Any], around: frozenset[int] = frozenset()
) -> None:
    """Add what cannot be copied to a memo of `copy.deepcopy`, so that it is shared."""
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:
        parts = vars(value) if isinstance(value, nn.Module) else value
        parts = parts.values() if isinstance(parts, dict) else parts
        known, inside = len(memo), around | {id(value)}
        for part in parts if isinstance(value, nn.Module | dict | list | tuple) else ():
            if id(part) not in inside:
                _share_uncopyable(part, memo, inside)
        # Not a list itself, or a module, to which the copy could write.
        if len(memo) == known and not isinstance(value, nn.Module):
            memo[id(value)] = value


def candidate_sizes(
    model: nn.Module,
    pretrained_cfg: Mapping[str, Any] | None = None,
    given: tuple[int, ...] | None = None,
) -> list[ImageSize]:
    """Return the image sizes (C, H, W) that a model may accept, most likely first.

    Example:
        >>> import torch
        >>> from softattn.features.dry_run import candidate_sizes
        >>> candidate_sizes(torch.nn.Conv2d(1, 8, 3))
        [(1, 224, 224), (3, 224, 224)]

    A model may be built for another size or number of channels than its configuration says, which
    is that of its weights. Its first convolution may follow a rearrangement of the channels.

    Args:
        model: The model.
        pretrained_cfg: Its configuration, with timm's keys; by default that of the model or of
            the first module that has one.
        given: (H, W) or (C, H, W), instead of the sizes that the model declares.
    """
    config = pretrained_cfg or _first_attribute(model, "pretrained_cfg")
    declared = tuple(config.get("input_size") or ()) if isinstance(config, Mapping) else ()
    convolution = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    channels = [declared[0] if declared else convolution, convolution, 3]
    if given is not None:
        sizes = [given]
    else:
        own = (_first_attribute(model, name) for name in ("img_size", "image_size"))
        # Models of transformers declare it in their configuration.
        config_size = _pair(getattr(getattr(model, "config", None), "image_size", None))
        found = [*(_pair(size) for size in own), config_size, declared[1:], (224, 224)]
        sizes = [tuple(size) for size in found if size]
    full = ((c, *size) if len(size) == 2 else size for c in channels for size in sizes)
    return list(dict.fromkeys((int(c), int(h), int(w)) for c, h, w in full))


def _first_attribute(model: nn.Module, name: str) -> Any:
    values = (getattr(module, name, None) for module in model.modules())
    return next((value for value in values if value), None)


def _pair(size: object) -> tuple[int, int] | None:
    if isinstance(size, int):
        return (size, size)
    if isinstance(size, tuple | list) and len(size) == 2:
        return (int(size[0]), int(size[1]))
    return None


def random_images(model: nn.Module, size: tuple[int, ...], batch: int = 1) -> Tensor:
    """Return the same random images at each call, with the device and dtype of the parameters."""
    # Random, since equal positions would not show the order of tokens.
    # On the CPU, whatever the default device is: the generator is one of the CPU.
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, *size, generator=generator, device="cpu")
    return images.to(device_and_dtype(model))


def image_size(inputs: Inputs) -> tuple[int, int] | None:
    """Return the height and width of the first argument that holds images or volumes."""
    return next(((shape[-2], shape[-1]) for shape in image_shapes(inputs)), None)


def image_shapes(inputs: Inputs) -> list[tuple[int, ...]]:
    """Return the shapes (B, C, ..., H, W) of the arguments that hold images or volumes.

    Detection models take a list of images, and some video models a list of videos.

    >>> import torch
    >>> from softattn.features.dry_run import image_shapes
    >>> image_shapes(([torch.zeros(3, 32, 48), torch.zeros(3, 32, 48)], 0.5))
    [(2, 3, 32, 48)]
    """
    shapes: list[tuple[int, ...]] = []
    for value in argument_values(inputs):
        parts = value if isinstance(value, list | tuple) else [value]
        found = [tuple(x.shape) for x in parts if isinstance(x, Tensor)]
        shapes += [shape for shape in found if len(shape) in (4, 5)]
        if parts is value and found and all(len(shape) == 3 for shape in found):
            shapes.append((len(found), *found[0]))
    return shapes


def takes_volumes(model: nn.Module) -> bool:
    """Return whether a model begins with a 3-D convolution, and so probably takes volumes.

    >>> from torch import nn
    >>> from softattn.features.dry_run import takes_volumes
    >>> takes_volumes(nn.Conv2d(3, 8, 3)), takes_volumes(nn.Conv3d(3, 8, 3))
    (False, True)
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return isinstance(next((m for m in model.modules() if isinstance(m, kinds)), None), nn.Conv3d)


def random_volumes(model: nn.Module) -> Iterator[Tensor]:
    """Yield batches of two random volumes that a model may accept, most likely first."""
    channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv3d)), 3)
    own = _first_attribute(model, "img_size")
    declared = [own] if isinstance(own, tuple | list) and len(own) == 3 else []
    # Frames of a video, a volume that a network can halve five times, and the input of MViT.
    for size in (*declared, (16, 64, 64), (64, 64, 64), (16, 224, 224)):
        yield random_images(model, (channels, *size), batch=2)
