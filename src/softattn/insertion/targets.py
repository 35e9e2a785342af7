"""Targets: what attention meets behind each named module, or why it can't go there.

Everything is read off a rehearsal, so that what can't be is refused before a model is changed.
"""

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from softattn._validation import closest, describe
from softattn.errors import ModelError
from softattn.features import (
    ANOTHER_ORDER,
    Hints,
    Inputs,
    Output,
    Reading,
    find_grid,
    is_reordered,
    own_maps,
    read_map,
    to_nchw,
)
from softattn.insertion.hosts import Rehearsal, find_hosts, rehearse

__all__ = ["Target", "find_targets"]


@dataclass(frozen=True)
class Target:
    """Where attention goes, and what it meets there."""

    host: str
    """The module whose output is attended: the one asked for, or the last of its sequence."""
    holder: str
    """The module that the attention is a child of, seen from the host; "" for the host."""
    caller: str
    """The nearest module around the host that is called; "" for the model."""
    reading: Reading
    stem: str | None
    """The first module inside the model that takes the images, if there is one."""
    stride: tuple[int, bool] | None
    """Of a grid of tokens, and whether it rounds up, if it is the grid of a stride."""
    channels: int
    device: torch.device
    dtype: torch.dtype


def find_targets(
    model: nn.Module, names: Iterable[str], inputs: Inputs | None, hints: Hints, doing: str
) -> list[Target]:
    """Find what attention meets behind each module, or raise an error; the model isn't touched.

    Example:
        >>> import torch
        >>> from softattn.features import Hints
        >>> from softattn.insertion.targets import find_targets
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> [target] = find_targets(net, ["0"], None, Hints(), "inserting")
        >>> target.reading.layout.value, target.channels
        ('NCHW', 8)

    Args:
        model: the network.
        names: of modules, as in `named_modules()`.
        inputs: of the dry run; `None` for those that the model declares.
        hints: what the caller says about the outputs.
        doing: how an error begins.

    Raises:
        ArgumentError: no module has this name, or two names mean one place.
        ModelError: attention can't go there.
    """
    hosts = find_hosts(model, names, doing)
    seen = rehearse(model, hosts, inputs, doing)
    # Who gives hints knows the order of the tokens too.
    own = own_maps(seen.model, seen.inputs, _tokens(seen, hosts)) if hints == Hints() else {}
    return [_target(seen, host, name, hints, own, doing) for host, name in hosts.items()]


def _target(
    seen: Rehearsal,
    host: str,
    name: str,
    hints: Hints,
    own: Mapping[str, Tensor],
    doing: str,
) -> Target:
    may = [n for n, call in seen.calls.items() if n and call.count == 1 and call.ndim in (3, 4)]
    try:
        x = _single_output(seen, host, name)
        reading = _read(seen, host, x, hints)
        maps = to_nchw(x, reading.layout, reading.grid, reading.num_prefix_tokens)
        if name in own and is_reordered(maps, own[name]):
            raise ModelError(f"its output {tuple(x.shape)} is no spatial map: {ANOTHER_ORDER}.")
    except ModelError as error:
        others = f"Others give a tensor of 3 or 4 dimensions. {closest(name, may)}"
        raise ModelError(f"{doing} at {name!r}: {error} {others}") from None
    return Target(
        host,
        seen.holders[host],
        _caller(seen, host),
        reading,
        _stem(seen),
        _stride(seen, reading),
        maps.shape[1],
        x.device,
        x.dtype,
    )


def _caller(seen: Rehearsal, host: str) -> str:
    while host:
        host = host.rpartition(".")[0]
        if seen.calls[host].count:
            break
    return host


def _stem(seen: Rehearsal) -> str | None:
    """Name the deepest module that takes the images, and is not one layer that tools replace."""
    shapes = [tuple(part.shape) for part in seen.inputs if isinstance(part, Tensor)]
    takes = [n for n, call in seen.calls.items() if call.input_shape in shapes[:1] and call.count]
    of_parts = [n for n in takes if next(seen.model.get_submodule(n).children(), None) is not None]
    return max(of_parts, key=lambda name: name.count(".") + bool(name), default=None)


def _stride(seen: Rehearsal, reading: Reading) -> tuple[int, bool] | None:
    picture = _picture(seen)
    if picture is None or reading.grid is None:
        return None
    found = find_grid(math.prod(reading.grid), *picture)
    if found is None or found.size(*picture) != reading.grid:
        return None
    return found.stride, found.round_up


def _picture(seen: Rehearsal) -> tuple[int, int] | None:
    pictures = [part.shape for part in seen.inputs if isinstance(part, Tensor) and part.ndim == 4]
    return (pictures[0][2], pictures[0][3]) if pictures else None


def _tokens(seen: Rehearsal, hosts: Mapping[str, str]) -> list[str]:
    """Give the names of what has tokens for an output, which may be in any order."""
    outputs = {name: seen.calls[host].output for host, name in hosts.items()}
    return [name for name, x in outputs.items() if isinstance(x, Tensor) and x.ndim == 3]


def _single_output(seen: Rehearsal, host: str, name: str) -> Tensor:
    call = seen.calls[host]
    named = "it" if host == name else f"its last module {host!r}"
    if call.count == 0:
        raise ModelError(
            f"{named} doesn't run in a pass in evaluation, so attention there would never be felt."
        )
    if call.count > 1:
        raise ModelError(
            f"{named} runs {call.count} times in a pass, and one attention can't be at "
            f"{call.count} places."
        )
    x = call.output
    if not isinstance(x, Tensor) or not x.is_floating_point():
        found = f"of {x.dtype}" if isinstance(x, Tensor) else describe(x)
        raise ModelError(
            f"its output is {found}, and attention needs one tensor of floating point numbers."
        )
    return x


def _read(seen: Rehearsal, host: str, x: Tensor, hints: Hints) -> Reading:
    pictures = [part.shape for part in seen.inputs if isinstance(part, Tensor) and part.ndim == 4]
    if pictures and (x.ndim == 0 or x.shape[0] != pictures[0][0]):
        raise ModelError(
            f"its output {tuple(x.shape)} hasn't the input's batch of {pictures[0][0]} in front: "
            "these are windows, or sums over the batch."
        )
    vectors = [p for p in seen.model.get_submodule(host).parameters() if p.ndim == 1]
    output = Output(
        tuple(x.shape),
        _picture(seen),
        frozenset(vector.shape[0] for vector in vectors),
        _declared(seen.model, host, "num_prefix_tokens"),
        partial(_shape_of_half, seen, host),
    )
    return read_map(output, hints)


def _shape_of_half(seen: Rehearsal, host: str) -> tuple[int, ...] | None:
    """Give the shape of a host's output for a picture half as high, if it runs on that."""
    halves = [
        part[:, :, : part.shape[2] // 2] if isinstance(part, Tensor) and part.ndim == 4 else part
        for part in seen.inputs
    ]
    shapes: list[tuple[int, ...]] = []

    def note(_module: nn.Module, _args: object, output: object) -> None:
        shapes.append(tuple(output.shape) if isinstance(output, Tensor) else ())

    handle = seen.model.get_submodule(host).register_forward_hook(note, prepend=True)
    # A network that takes one size raises, before the host has run or after.
    with handle, torch.no_grad(), suppress(Exception):
        seen.model(*halves)
    return shapes[0] if shapes and len(shapes[0]) == 4 else None


def _declared(model: nn.Module, name: str, attribute: str) -> Any:
    """Give an attribute of the nearest module around a name that has it, or `None`."""
    parts = name.split(".")
    around = [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]
    return next((getattr(m, attribute) for m in reversed(around) if hasattr(m, attribute)), None)
