"""`insert_attention`, `remove_attention`: attention inside a network, at named modules.

Attention stands as a child in the module whose output it attends, and a forward hook of that
module sends the output through it. No module is replaced and no key renamed, so whatever indexes,
iterates, checkpoints, saves or compares the network finds what it found before.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from softattn._validation import whole_number
from softattn.errors import ArgumentError, ArgumentTypeError, ModelError
from softattn.features import Hints, Layout
from softattn.functional import Activation
from softattn.insertion.hooks import InputSize, attach, detach, restore
from softattn.insertion.residual import ResidualAttention
from softattn.insertion.targets import find_targets
from softattn.ops import is_compiled

__all__ = ["insert_attention", "remove_attention"]

DOING = "inserting attention"
ModelT = TypeVar("ModelT", bound=nn.Module)


def insert_attention(
    model: ModelT,
    at: str | Sequence[str],
    *,
    gamma: float = 0.0,
    num_maps: int = 16,
    kernel_size: int | tuple[int, int] = 3,
    activation: Activation = None,
    bias: bool = True,
    layout: Layout | str | None = None,
    grid: tuple[int, int] | None = None,
    num_prefix_tokens: int | None = None,
    example: Tensor | tuple[Any, ...] | None = None,
) -> ModelT:
    """Put attention behind modules of a network, which computes what it did until trained.

    The output x of each module becomes x + gamma * a * x, where a is the sum of its attention maps
    and gamma a learned factor. With gamma 0 that is x to the last bit, and gamma has a gradient:
    training learns how much attention to let in.

    Example:
        >>> import torch
        >>> from torchvision.models import resnet18
        >>> from softattn import capture_maps
        >>> from softattn import insert_attention, remove_attention
        >>> model, x = resnet18().eval(), torch.randn(1, 3, 64, 64)
        >>> before = model(x)
        >>> model = insert_attention(model, at=["layer3", "layer4"])
        >>> with capture_maps(model) as maps:
        ...     print(torch.equal(model(x), before))
        True
        >>> {name: tuple(values.shape) for name, values in maps.items()}
        {'layer3.1.soft_attention': (1, 16, 4, 4), 'layer4.1.soft_attention': (1, 16, 2, 2)}
        >>> torch.equal(remove_attention(model)(x), before)
        True

    The model is changed in place. No module is replaced and no key renamed: a checkpoint from
    before loads, strictly, and leaves the attention as it is. Of a plain `Sequential` the last
    module holds the attention, so that it is there too when checkpointing walks the sequence.
    Insert before `torch.compile` and before wrapping in `DistributedDataParallel`.

    In a network that classifies from a class token, attention on the other tokens is felt by what
    mixes tokens afterwards: behind the last block that is nothing.

    What the modules give is seen in a dry run, in evaluation, on a copy that shares the
    parameters. Whatever can't be is refused before the model is changed.

    Args:
        model: any network.
        at: the name of a module, as in `named_modules()`, or several names.
        gamma: where the learned factor starts.
        num_maps: K, the number of attention maps.
        kernel_size: as in `SoftAttention`.
        activation: as in `SoftAttention`.
        bias: as in `SoftAttention`.
        layout: of the outputs, where their shapes leave it open: `"NCHW"`, `"NHWC"` or `"NLC"`.
        grid: (height, width) of tokens, where their number leaves it open. Passing this,
            `num_prefix_tokens` or `layout` disables the check that tokens are in row-major
            order, as in the model's own map, if it has one.
        num_prefix_tokens: the tokens in front that are no position.
        example: an input for the dry run, or a tuple of all inputs. By default random numbers, of
            the size that the model declares, or else 224 x 224.

    Returns:
        The model.

    Raises:
        ArgumentError: a name is not there, or two mean one place, or another argument is out of
            range.
        ArgumentTypeError: an argument has the wrong type.
        ModelError: a module gives no map, or several outputs, or runs several times or never, or
            has attention already; or the model can't be run, is compiled, or is distributed.
    """
    names = _names(at)
    hints = Hints(_layout(layout), _grid(grid), _prefix(num_prefix_tokens))
    _check_open(model)
    restore(model)
    inputs = example if isinstance(example, tuple) or example is None else (example,)
    targets = find_targets(model, names, inputs, hints, DOING)
    input_size = InputSize()
    attentions = [
        ResidualAttention(
            target.channels,
            num_maps,
            kernel_size,
            gamma=gamma,
            activation=activation,
            bias=bias,
            layout=target.reading.layout,
            grid=target.reading.grid,
            num_prefix_tokens=target.reading.num_prefix_tokens,
            input_size=input_size if target.reading.layout is Layout.NLC else None,
            stride=target.stride,
            device=target.device,
            dtype=target.dtype,
        )
        for target in targets
    ]
    # From here on nothing can fail.
    for target, attention in zip(targets, attentions, strict=True):
        attach(model, attention, target.host, target.holder, target.caller)
    stems = {target.stem for target in targets if target.reading.layout is Layout.NLC}
    for stem in stems:
        if stem is not None:
            model.get_submodule(stem).register_forward_pre_hook(input_size)
    return model


def remove_attention(model: ModelT) -> ModelT:
    """Take back every `insert_attention`: the same keys, outputs, types and hooks as before.

    Example:
        >>> import torch
        >>> from softattn import insert_attention, remove_attention
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> _ = insert_attention(net, at="0")
        >>> list(net.state_dict())
        ['0.weight', '0.bias', '0.soft_attention.weight', ...]
        >>> list(remove_attention(net).state_dict())
        ['0.weight', '0.bias']

    The model is changed in place.

    Args:
        model: a network, or a copy of one.

    Returns:
        The model.

    Raises:
        ModelError: the model has no inserted attention, or is compiled or distributed.
    """
    doing = "removing attention"
    _check_open(model, doing)
    if not detach(model, ResidualAttention):
        raise ModelError(
            f"{doing}: {type(model).__name__} has none that insert_attention put there."
        )
    return model


def _names(at: str | Sequence[str]) -> list[str]:
    names = [at] if isinstance(at, str) else list(at) if isinstance(at, Sequence) else [at]
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise ArgumentTypeError(
            f"{DOING}: at must be the name of a module, or a list of names, found {wrong[0]!r} "
            f"({type(wrong[0]).__name__})."
        )
    if not names:
        raise ArgumentError(f"{DOING}: at names no module. Pass one name or more.")
    return names


def _layout(layout: Layout | str | None) -> Layout | None:
    values = [known.value for known in Layout]
    if layout is None or isinstance(layout, Layout):
        return layout
    if layout not in values:
        raise ArgumentError(f"{DOING}: layout must be one of {values}, found {layout!r}.")
    return Layout(layout)


def _grid(grid: tuple[int, int] | None) -> tuple[int, int] | None:
    if grid is None:
        return None
    if not isinstance(grid, tuple | list) or len(grid) != 2:
        raise ArgumentError(f"{DOING}: grid must be (height, width), found {grid!r}.")
    return whole_number(DOING, "grid", grid[0]), whole_number(DOING, "grid", grid[1])


def _prefix(count: int | None) -> int | None:
    return None if count is None else whole_number(DOING, "num_prefix_tokens", count, least=0)


def _check_open(model: nn.Module, doing: str = DOING) -> None:
    """Refuse models in which a change would go unnoticed by what was built on them."""
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            f"{doing}: expected a torch.nn.Module, found {type(model).__name__}."
        )
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(f"{doing}: {type(module).__name__} is scripted. Do it before.")
        if is_compiled(module):
            raise ModelError(
                f"{doing}: {type(module).__name__} is compiled, and what was compiled would not "
                "notice. Do it before torch.compile."
            )
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise ModelError(
                f"{doing}: the model is in DistributedDataParallel, which would not reduce the "
                "gradients of other parameters than it began with. Do it before wrapping."
            )
