"""Sites for inserted attention after named modules, or an error with the reason.

Everything is read from a dry run, so that errors are raised before a model is changed.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from softattn._validation import closest, describe, listed
from softattn.errors import ModelError
from softattn.features import (
    REORDERED_TOKENS,
    DryRun,
    Inputs,
    Layout,
    LayoutHints,
    MapLayout,
    ObservedOutput,
    argument_values,
    call_model,
    declares_main_input,
    find_map,
    follows_positions,
    image_shapes,
    image_size,
    infer_layout,
    infer_layout_strictly,
    is_reordered,
    keep_random_state,
    reference_maps,
    replace_map,
    tensors_in,
)
from softattn.insertion.placement import find_targets, run_with_parents, target_of

__all__ = ["Site", "find_sites"]


@dataclass(frozen=True)
class Site:
    """Insertion site: the modules involved, and the layout of the feature map."""

    target: str
    """Module whose output is attended: the named one, or the last of its sequence."""
    parent: str
    """Module that the attention becomes a child of, relative to the target; "" for the target."""
    caller: str
    """Nearest module around the target that is called; "" for the model."""
    image_module: str | None
    """Module that takes the images and runs in each pass, if there is one."""
    inside: bool
    """Whether the output is a tuple, a mapping or a data class that holds the feature map."""
    map_layout: MapLayout
    channels: int
    size: tuple[int, ...]
    """Spatial size of the map in the dry run."""
    has_effect: bool
    """Whether the model's output depends on the attended positions."""
    device: torch.device
    dtype: torch.dtype


def find_sites(
    model: nn.Module, names: Iterable[str], inputs: Inputs | None, hints: LayoutHints, doing: str
) -> list[Site]:
    """Return the site for each name.

    Example:
        >>> import torch
        >>> from softattn.features import LayoutHints
        >>> from softattn.insertion.sites import find_sites
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> [site] = find_sites(net, ["0"], None, LayoutHints(), "inserting")
        >>> site.map_layout.layout.value, site.channels
        ('NCHW', 8)

    Args:
        model: It is not changed.
        names: Names of modules, as in `named_modules()`.
        inputs: Inputs of the dry run; `None` for random images of the size that it declares.
        hints: Layout given by the caller.
        doing: The beginning of error messages.

    Raises:
        ArgumentError: There is no module of this name, or two names have the same output.
        ModelError: Attention can't be inserted there.
    """
    targets = find_targets(model, names, doing)
    run, parents = run_with_parents(model, targets, inputs, doing)
    # LayoutHints also state that tokens are in row-major order.
    own = (
        reference_maps(run.model, run.inputs, _tokens(run, targets))
        if hints == LayoutHints()
        else {}
    )
    sites = [
        _site(run, target, parents[target], name, hints, own, doing)
        for target, name in targets.items()
    ]
    if (
        hints == LayoutHints()
        and declares_main_input(model)
        and len(argument_values(run.inputs)) == 1
    ):
        _check_arranged(run, sites, targets, doing)
    return sites


def _site(
    run: DryRun,
    target: str,
    parent: str,
    name: str,
    hints: LayoutHints,
    own: Mapping[str, Tensor],
    doing: str,
) -> Site:
    try:
        x = _single_output(run, target, name)
        layout = _infer(run, target, x, hints)
        maps = layout.to_nchw(x, image_size(run.inputs))
        if name in own and is_reordered(maps, own[name]):
            raise ModelError(
                f"its output {tuple(x.shape)} is not a feature map: {REORDERED_TOKENS}."
            )
    except ModelError as error:
        ndims = _ndims_of_maps(run)
        found = closest(name, _with_ndim(run, ndims))
        others = f"Other modules return a tensor of {ndims[0]} or {ndims[1]} dimensions. {found}"
        raise ModelError(f"{doing} at {name!r}: {error} {others}") from None
    return Site(
        target,
        parent,
        _caller(run, target),
        _image_module(run),
        run.calls[target].output is not x,
        layout,
        maps.shape[1],
        tuple(maps.shape[2:]),
        _has_effect(run, target, x, layout),
        x.device,
        x.dtype,
    )


def _check_arranged(run: DryRun, sites: list[Site], targets: Mapping[str, str], doing: str) -> None:
    """Raise an error for tokens that do not follow the positions of the image.

    timm models return maps to compare with; most transformers models do not.
    """
    outputs: dict[Any, Mapping[str, Tensor]] = {}  # of all targets, by the grid that is tested

    def read(site: Site, images: Tensor) -> Tensor:
        grid, image = site.map_layout.grid, (images.shape[2], images.shape[3])
        if grid not in outputs:
            outputs[grid] = _outputs(run, targets, images)
        return site.map_layout.to_nchw(outputs[grid][site.target], image)

    [image] = argument_values(run.inputs)
    for site in sites:
        grid = site.map_layout.grid
        if grid and not follows_positions(
            partial(read, site), image[:1], (grid.rows, grid.columns)
        ):
            raise ModelError(
                f"{doing} at {targets[site.target]!r}: its tokens are not those of a {grid.rows} x "
                f"{grid.columns} grid in row-major order: changing the image at one position "
                "changes the tokens of other positions more than its own. If they are in this "
                "order, pass grid= and num_prefix_tokens=."
            )


def _outputs(run: DryRun, targets: Iterable[str], images: Tensor) -> Mapping[str, Tensor]:
    """Return the maps in the outputs of targets for other images."""
    outputs = {}

    def note(target: str, _module: nn.Module, _args: object, output: object) -> None:
        outputs[target] = find_map(output)

    with ExitStack() as stack:
        stack.enter_context(keep_random_state(run.model))
        for target in targets:
            module = run.model.get_submodule(target)
            stack.enter_context(module.register_forward_hook(partial(note, target), prepend=True))
        call_model(run.model, (images,))
    return {target: x for target, x in outputs.items() if x is not None}


def _ndims_of_maps(run: DryRun) -> tuple[int, int]:
    return (4, 5) if _takes_volumes(run) else (3, 4)


def _takes_volumes(run: DryRun) -> bool:
    return any(len(shape) == 5 for shape in image_shapes(run.inputs)[:1])


def _with_ndim(run: DryRun, ndims: tuple[int, int]) -> list[str]:
    """Return names of modules whose target runs once and returns a map with one of these ndims."""
    modules = dict(run.model.named_modules(remove_duplicate=False))
    targets = {name: run.calls[target_of(name, modules[name])] for name in modules if name}
    return [name for name, call in targets.items() if call.count == 1 and call.ndim in ndims]


def _tokens(run: DryRun, targets: Mapping[str, str]) -> list[str]:
    return [name for target, name in targets.items() if run.calls[target].ndim == 3]


def _caller(run: DryRun, target: str) -> str:
    while target:
        target = target.rpartition(".")[0]
        if run.calls[target].count:
            break
    return target


def _image_module(run: DryRun) -> str | None:
    # The deepest one, which runs in each method of the model that takes images, such as timm's
    # forward_features. Not a single layer, which tools replace.
    shapes = image_shapes(run.inputs)
    takes = [n for n, call in run.calls.items() if call.count and call.input_shape in shapes[:1]]
    parts = [n for n in takes if next(run.model.get_submodule(n).children(), None) is not None]
    return max(parts, key=lambda name: len(name.split(".")) if name else 0, default=None)


def _single_output(run: DryRun, target: str, name: str) -> Tensor:
    call = run.calls[target]
    named = "it" if target == name else f"its last module {target!r}"
    if call.count == 0:
        raise ModelError(f"{named} doesn't run in eval mode, so attention has no effect there.")
    if call.count > 1:
        raise ModelError(
            f"{named} runs {call.count} times in a pass, and attention needs a module that runs "
            f"once.{_shared(run.model, target)}"
        )
    x = find_map(call.output)
    if x is None or not x.is_floating_point():
        found = describe(call.output) if x is None else f"of {x.dtype}"
        fewer, more = _ndims_of_maps(run)
        raise ModelError(
            f"its output is {found}, and attention needs a tensor of floating-point numbers with "
            f"{fewer} or {more} dimensions, alone or in a tuple, a mapping or a data class."
        )
    return x


def _shared(model: nn.Module, target: str) -> str:
    modules = dict(model.named_modules(remove_duplicate=False))
    same = [repr(n) for n, m in modules.items() if m is modules[target] and n != target]
    return f" It is the same module as {listed(same, 3)}: use a separate one." if same else ""


def _infer(run: DryRun, target: str, x: Tensor, hints: LayoutHints) -> MapLayout:
    images = image_shapes(run.inputs)
    if images and (x.ndim == 0 or x.shape[0] != images[0][0]):
        raise ModelError(
            f"its output {tuple(x.shape)} doesn't begin with the input's batch of {images[0][0]}: "
            "it holds windows, or sums over the batch."
        )
    module = run.model.get_submodule(target)
    # Buffers too: frozen norms have no parameters.
    vectors = [t for t in (*module.parameters(), *module.buffers()) if t.ndim == 1]
    output = ObservedOutput(
        tuple(x.shape),
        image_size(run.inputs),
        frozenset(vector.shape[0] for vector in vectors),
        _prefix_tokens(run, target, x),
        partial(_shape_of_half, run, target),
        is_volume=_takes_volumes(run),
    )
    layout = infer_layout_strictly(output, hints)
    if layout.layout is Layout.NCDHW and hints.layout is None:
        fewer = _shape_of_half(run, target, dim=1)
        if fewer is not None and fewer[1] < x.shape[1]:
            raise ModelError(
                f"its output {tuple(x.shape)} has a dimension of frames before its channels, which "
                "is not supported."
            )
    return layout


def _prefix_tokens(run: DryRun, target: str, x: Tensor) -> int | None:
    """Return the declared number, or one inferred from the shape if that is verified later."""
    declared: int | None = _declared(run.model, target, "num_prefix_tokens")
    image = image_size(run.inputs)
    if declared is None and image is not None and declares_main_input(run.model):
        likely = infer_layout(x, image)
        return None if likely is None else likely.num_prefix_tokens
    return declared


def _has_effect(run: DryRun, target: str, x: Tensor, layout: MapLayout) -> bool:
    # If the head reads only a class token, positions have no effect after the last block. The same
    # holds for a map if the model uses only other parts of that output, such as pooled features.
    is_part = run.calls[target].output is not x
    if not (layout.num_prefix_tokens or is_part) or not x.requires_grad or x.is_meta:
        return True
    output = run.output
    if is_part:
        x, output = _run_from(run, target, x)
    outputs = [y for y in tensors_in(output) if y.requires_grad]
    # Random weights, since the plain sum may be constant, for example of probabilities.
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(y.shape, generator=generator, device="cpu").to(y) for y in outputs]
    # A reentrant checkpoint hides its gradients.
    with suppress(RuntimeError):
        [grad] = torch.autograd.grad(outputs, x, weights, retain_graph=True, allow_unused=True)
        return grad is not None and bool(grad[:, layout.num_prefix_tokens :].any())
    return True


def _run_from(run: DryRun, target: str, x: Tensor) -> tuple[Tensor, Any]:
    """Run the model with the map of a target replaced by a leaf; return the leaf and the output."""
    leaf = x.detach().requires_grad_()

    def put(_module: nn.Module, _args: object, output: object) -> Any:
        return replace_map(output, leaf)

    handle = run.model.get_submodule(target).register_forward_hook(put, prepend=True)
    with handle, torch.enable_grad(), keep_random_state(run.model):
        return leaf, call_model(run.model, run.inputs)


def _shape_of_half(run: DryRun, target: str, dim: int = -2) -> tuple[int, ...] | None:
    """Return the shape of a target's output for half of an image, by default of half the height."""
    ndim = run.calls[target].ndim

    def half(part: Any) -> Any:
        is_image = isinstance(part, Tensor) and part.ndim in (4, 5)
        return part.narrow(dim, 0, max(part.shape[dim] // 2, 1)) if is_image else part

    inputs = run.inputs
    halves: Inputs = (
        {name: half(part) for name, part in inputs.items()}
        if isinstance(inputs, Mapping)
        else tuple(map(half, inputs))
    )
    shapes: list[tuple[int, ...]] = []

    def note(_module: nn.Module, _args: object, output: object) -> None:
        x = find_map(output)
        shapes.append(() if x is None else tuple(x.shape))

    handle = run.model.get_submodule(target).register_forward_hook(note, prepend=True)
    # A model for one size raises an error, before the target has run or after.
    with handle, torch.no_grad(), suppress(Exception):
        call_model(run.model, halves)
    return shapes[0] if shapes and len(shapes[0]) == ndim else None


def _declared(model: nn.Module, name: str, attribute: str) -> Any:
    """Return an attribute of the nearest module around a name that has it, or `None`."""
    parts = name.split(".")
    around = [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]
    return next((getattr(m, attribute) for m in reversed(around) if hasattr(m, attribute)), None)
