"""insert_attention and remove_attention.

Attention becomes a child of the module whose output it attends, and a forward hook of that module
applies it. No module is replaced and no key renamed, so code that indexes, iterates, checkpoints,
saves or compares the network works as before.
"""

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from softattn._validation import check_int, describe
from softattn.attention import Block, attention_factory
from softattn.errors import ArgumentError, ArgumentTypeError, ModelError
from softattn.features import Inputs, Layout, LayoutHints, dry_run, random_images
from softattn.functional import Activation
from softattn.insertion.hooks import InputSize, attach, detach, restore
from softattn.insertion.residual import GatedBlock, ResidualAttention
from softattn.insertion.sites import Site, find_sites
from softattn.ops import is_compiled

__all__ = ["insert_attention", "remove_attention"]

DOING = "inserting attention"
ModelT = TypeVar("ModelT", bound=nn.Module)


def insert_attention(
    model: ModelT,
    at: str | Sequence[str],
    *,
    block: Block | None = None,
    gamma: float = 0.0,
    num_maps: int = 16,
    kernel_size: int | tuple[int, ...] = 3,
    activation: Activation = None,
    bias: bool = True,
    layout: Layout | str | None = None,
    grid: tuple[int, int] | None = None,
    num_prefix_tokens: int | None = None,
    example: Tensor | tuple[Any, ...] | Mapping[str, Any] | None = None,
) -> ModelT:
    """Insert attention after the named modules. Outputs do not change until training starts.

    The output x of each module becomes x + gamma * a * x, where a is the sum of its attention maps
    and gamma a learned factor. With gamma 0 the result is x to the last bit, and gamma has a
    gradient, so training determines how strongly the attention is applied. With `block`, another
    kind of attention is inserted in the same way: x becomes x + gamma * (block(x) - x).

    Example:
        >>> import torch
        >>> from torchvision.models import resnet18
        >>> from softattn import capture_maps, insert_attention, remove_attention
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
    before the insertion loads with `strict=True` and leaves the attention as it is. With
    `assign=True`, attention on the meta device is initialized on torch's default device. In a plain
    `Sequential`, the last module holds the attention, so that gradient checkpointing, which calls
    the modules of the sequence directly, applies it too. Insert before `torch.compile` and
    `DistributedDataParallel`.

    Tools that replace modules, such as `SyncBatchNorm.convert_sync_batchnorm`, may drop the hook
    that applies the attention. The next pass registers it again. If a tool drops the attention
    itself, the next pass raises a `ModelError`: insert after calling such a tool.

    In a model that classifies from a class token, only later layers that mix tokens propagate
    attention on patch tokens. Inserting after the last block has no effect and issues a warning.

    Attention on tokens gets the grid from the size of the images of the last pass. With gradient
    checkpointing, a recomputation takes that size too: after a pass, call `backward` before a pass
    with images of another aspect ratio.

    If a module returns a tuple, a mapping or a data class, as in models of transformers, its
    feature map is attended and the rest is returned unchanged. The map is `last_hidden_state`, the
    last of `feature_maps`, or else the first floating-point tensor of three or more dimensions.

    Modules are inspected in a dry run in eval mode, on a copy that shares the parameters. All
    errors are raised before the model is changed.

    Args:
        model: Any network on images, volumes or videos.
        at: The name of a module, as in `named_modules()`, or several names.
        block: Builds attention of another kind: a function from the number of channels to a module
            that keeps the shape of a map (B, C, H, W), or (B, C, D, H, W) for volumes, or the name
            of an attention of timm ("se", "eca", "cbam").
        gamma: Initial value of the learned factor.
        num_maps: K, the number of attention maps.
        kernel_size: As in `SoftAttention`, or in `SoftAttention3d` for volumes.
        activation: As in `SoftAttention`.
        bias: As in `SoftAttention`.
        layout: Layout of the outputs, if their shapes are ambiguous: `"NCHW"`, `"NHWC"`, `"NLC"`,
            or `"NCDHW"` or `"NDHWC"` for volumes.
        grid: (height, width) of the tokens, if their number is ambiguous. Passing this,
            `num_prefix_tokens` or `layout` disables the check that tokens are in row-major order.
        num_prefix_tokens: Number of leading tokens that are not positions, such as the class token.
        example: An input for the dry run, a tuple of all inputs, or a mapping of keyword arguments.
            By default random images of the size that the model declares, or of 224 x 224. If the
            first convolution is 3-D, random videos of 16 x 64 x 64, or volumes of 64 x 64 x 64.

    Returns:
        The model.

    Raises:
        ArgumentError: There is no module of this name, two names have the same output, `block`
            raises an error or returns a module that is already in use, or another argument is out
            of range.
        ArgumentTypeError: An argument has the wrong type, or `block` does not return a module.
        MissingExtraError: `block` is a name of timm, which is not installed.
        ModelError: A module returns no feature map, or several outputs, or runs several times or
            never, or has attention already; `block` does not keep the shape of the map; or the
            model can't be run, is compiled, or is distributed.
    """
    names = _names(at)
    hints = LayoutHints(_layout(layout), _grid(grid), _prefix(num_prefix_tokens))
    _check_open(model)
    restore(model)
    make_block = None if block is None else attention_factory(DOING, block)
    if block is not None:
        _refuse_with_block(
            num_maps=num_maps, kernel_size=kernel_size, activation=activation, bias=bias
        )
    sites = find_sites(model, names, _inputs(example), hints, DOING)
    for name, site in zip(names, sites, strict=True):
        if not site.has_effect:
            warnings.warn(
                f"{DOING} at {name!r}: the model's output depends on no position of this map, as "
                "after the last block of a model that classifies from its class token, or after a "
                "module that also pools. The attention has no effect and gets no gradient. Insert "
                "after an earlier block.",
                stacklevel=2,
            )
    input_size = InputSize()
    attentions: list[nn.Module] = []
    for name, site in zip(names, sites, strict=True):
        shared: dict[str, Any] = {"gamma": gamma, "map_layout": site.map_layout}
        shared |= {"device": site.device, "dtype": site.dtype}
        shared |= {"input_size": input_size if site.map_layout.layout is Layout.NLC else None}
        with torch.inference_mode(False):  # parameters made in inference mode can't be trained
            attentions.append(
                GatedBlock(_block(make_block, site, name), **shared)
                if make_block is not None
                else ResidualAttention(
                    site.channels,
                    num_maps,
                    kernel_size,
                    # Each attention has a module of its own, as it has weights of its own.
                    activation=copy.deepcopy(activation),
                    bias=bias,
                    **shared,
                )
            )
    _check_separate(model, attentions)
    # From here on nothing can fail.
    for site, attention in zip(sites, attentions, strict=True):
        attach(model, attention, site.target, site.parent, site.caller, site.inside)
    for taker in {s.image_module for s in sites if s.map_layout.layout is Layout.NLC}:
        if taker is not None:
            model.get_submodule(taker).register_forward_pre_hook(input_size, with_kwargs=True)
    return model


def remove_attention(model: ModelT) -> ModelT:
    """Remove all inserted attention: keys, outputs, types and hooks are as before.

    Example:
        >>> import torch
        >>> from softattn import insert_attention, remove_attention
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> _ = insert_attention(net, at="0")
        >>> list(net.state_dict())
        ['0.weight', '0.bias', '0.soft_attention.weight', ...]
        >>> list(remove_attention(net).state_dict())
        ['0.weight', '0.bias']

    The model is changed in place. Attention is also removed if no pass reaches it any more, since
    a tool replaced the module that it follows.

    Args:
        model: A network, or a copy of one.

    Returns:
        The model.

    Raises:
        ModelError: The model has no inserted attention, or is compiled or distributed.
    """
    doing = "removing attention"
    _check_open(model, doing)
    if not detach(model, (ResidualAttention, GatedBlock)):
        raise ModelError(f"{doing}: {type(model).__name__} has no attention from insert_attention.")
    return model


def _refuse_with_block(**arguments: object) -> None:
    defaults = inspect.signature(insert_attention).parameters
    given = [name for name, value in arguments.items() if value != defaults[name].default]
    if given:
        raise ArgumentError(
            f"{DOING}: {', '.join(given)} applies only to the default attention. Set it in the "
            "block, as in block=partial(SoftAttention, num_maps=8)."
        )


def _block(make: Callable[[int], nn.Module], site: Site, name: str) -> nn.Module:
    """Build a block for a site, and check that it keeps the shape of the map."""
    with torch.device(site.device):
        block = make(site.channels)
    shape = (site.channels, *site.size)
    doing = f"{DOING} at {name!r}: applying {type(block).__name__} to a map {(2, *shape)}"
    try:
        block = block.to(device=site.device, dtype=site.dtype)
        x = random_images(block, shape, batch=2).to(device=site.device, dtype=site.dtype)
        given = x.clone()
        output = dry_run(block, (given,)).output
    except Exception as error:
        raise ModelError(f"{doing}: it raises {type(error).__name__}: {error}") from error
    if not isinstance(output, Tensor) or output.shape != x.shape:
        raise ModelError(
            f"{doing}: it returns {describe(output)}, and must return a map of the same shape."
        )
    if not output.is_floating_point():
        raise ModelError(
            f"{doing}: it returns {output.dtype}, and must return floating-point numbers."
        )
    if not x.is_meta and not torch.equal(given, x):
        raise ModelError(
            f"{doing}: it changes its input in place, and with it the output of the network. Build "
            "it from modules with inplace=False."
        )
    return block


def _check_separate(model: nn.Module, attentions: Sequence[nn.Module]) -> None:
    known = set(model.modules())
    for attention in attentions:
        if not known.isdisjoint(attention.modules()):
            raise ArgumentError(
                f"{DOING}: block returned a module that is in use already. It must build a new one "
                "in each call."
            )
        known.update(attention.modules())


def _inputs(example: Tensor | tuple[Any, ...] | Mapping[str, Any] | None) -> Inputs | None:
    return example if isinstance(example, tuple | Mapping | None) else (example,)


def _names(at: str | Sequence[str]) -> list[str]:
    names = [at] if isinstance(at, str) else list(at) if isinstance(at, Sequence) else [at]
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise ArgumentTypeError(
            f"{DOING}: at must be the name of a module, or a list of names, found {wrong[0]!r} "
            f"({type(wrong[0]).__name__})."
        )
    if not names:
        raise ArgumentError(f"{DOING}: at is empty. Pass one or more names of modules.")
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
    return check_int(DOING, "grid", grid[0]), check_int(DOING, "grid", grid[1])


def _prefix(count: int | None) -> int | None:
    return None if count is None else check_int(DOING, "num_prefix_tokens", count, minimum=0)


def _check_open(model: nn.Module, doing: str = DOING) -> None:
    """Raise an error for models that are scripted, compiled or distributed already."""
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            f"{doing}: expected a torch.nn.Module, found {type(model).__name__}."
        )
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{doing}: {type(module).__name__} is a TorchScript module, whose code cannot be "
                "changed. Do it in the original model, and convert that with torch.export or "
                "torch.jit.trace. torch.jit.script cannot convert inserted attention."
            )
        if is_compiled(module):
            raise ModelError(
                f"{doing}: {type(module).__name__} is compiled, and the compiled code would not "
                "change. Do it before torch.compile."
            )
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise ModelError(
                f"{doing}: the model is in DistributedDataParallel, which does not reduce the "
                "gradients of parameters that are added later. Do it before wrapping."
            )
