"""Hosts and holders: which module gives an output, and which can hold attention for it.

A child is added to a module that exists. That must neither be in the way of a sequence that is
walked, nor of a module that runs its children one after another.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from softattn._validation import closest, describe
from softattn.errors import ArgumentError, ModelError
from softattn.features import (
    Calls,
    Inputs,
    copy_sharing_parameters,
    default_inputs,
    record_calls,
)
from softattn.insertion.hooks import CHILD
from softattn.ops import children

__all__ = ["Rehearsal", "find_hosts", "join", "rehearse"]


def join(*names: str) -> str:
    """Join names of modules, of which some may be the module itself.

    >>> from softattn.insertion.hosts import join
    >>> join("layer4", "", "1")
    'layer4.1'
    """
    return ".".join(name for name in names if name)


def find_hosts(model: nn.Module, names: Iterable[str], doing: str) -> dict[str, str]:
    """Find the modules that give the outputs of the named ones: themselves, mostly.

    What is around a plain sequence may walk it instead of calling it, as checkpointing does. What
    gives its output either way is its last module.

    Example:
        >>> from torchvision.models import resnet18
        >>> from softattn.insertion.hosts import find_hosts
        >>> find_hosts(resnet18(), ["maxpool", "layer4"], "inserting")
        {'maxpool': 'maxpool', 'layer4.1': 'layer4'}

    Returns:
        From each host to the name that it was found for.

    Raises:
        ArgumentError: no module has this name, or two names have one host.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    hosts: dict[str, str] = {}
    for name in names:
        if name == "":
            raise ArgumentError(f"{doing}: '' is the whole model. Name modules inside of it.")
        if name not in modules:
            known = closest(name, (known for known in modules if known))
            raise ArgumentError(f"{doing}: {type(model).__name__} has no module {name!r}. {known}")
        host = join(name, _last(modules[name], _is_sequence))
        if host in hosts:
            raise ArgumentError(
                f"{doing}: two insertions at one place: {hosts[host]!r} and {name!r} have the "
                "same output. Leave one out."
            )
        hosts[host] = name
    return hosts


def _last(module: nn.Module, is_kind: Callable[[nn.Module], bool]) -> str:
    """Name the last module inside of nested modules of a kind; "" if this is none."""
    path: list[str] = []
    while is_kind(module) and children(module):
        path.append(list(children(module))[-1])
        module = module.get_submodule(path[-1])
    return ".".join(path)


def _is_sequence(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward


def _is_container(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)


@dataclass(frozen=True)
class Rehearsal:
    """What a dry run with stand-ins for the attention has shown."""

    model: nn.Module
    """The copy that ran, in evaluation."""
    inputs: Inputs
    calls: Mapping[str, Calls]
    holders: Mapping[str, str]
    """From each host to the module in it that can hold the attention; "" for the host itself."""


class _StandIn(nn.Module):
    """Stands where attention would, and tells whether the module around runs its children."""

    ran = False

    def forward(self, *args: Any) -> Any:
        self.ran = True
        return args[0]


def rehearse(
    model: nn.Module, hosts: Mapping[str, str], inputs: Inputs | None, doing: str
) -> Rehearsal:
    """Run a copy of the model, and find a holder for each host.

    Args:
        model: isn't touched.
        hosts: from `find_hosts`.
        inputs: for the run; `None` for those that the model declares.
        doing: how an error begins.

    Raises:
        ModelError: the model doesn't run, or a holder is taken, or there is none.
    """
    failure: Exception | None = None
    tried: list[str] = []
    for given in [inputs] if inputs is not None else default_inputs(model):
        tried.append(describe(given[0] if len(given) == 1 else given))
        holders = {host: _last(model.get_submodule(host), _is_container) for host in hosts}
        while True:
            run, failure, meddled = _try_holders(model, hosts, holders, given, doing)
            if not meddled:
                break
            for host in meddled:
                holders[host] = _deeper(model, host, holders[host], f"{doing} at {hosts[host]!r}")
        if failure is None:
            return run
    raise ModelError(
        f"{doing}: {type(model).__name__} doesn't run on {' or '.join(tried)} "
        f"({type(failure).__name__}: {failure}). Pass example=, an input that it runs on."
    ) from failure


def _try_holders(
    model: nn.Module,
    hosts: Mapping[str, str],
    holders: dict[str, str],
    inputs: Inputs,
    doing: str,
) -> tuple[Rehearsal, Exception | None, Sequence[str]]:
    """Run a copy with stand-ins; say what it raised, and whose stand-ins it ran."""
    copied = copy_sharing_parameters(model, doing)
    stand_ins = {host: _StandIn() for host in hosts}
    for host, stand_in in stand_ins.items():
        holder = copied.get_submodule(join(host, holders[host]))
        if hasattr(holder, CHILD):
            raise ModelError(
                f"{doing} at {hosts[host]!r}: two insertions at one place: "
                f"{join(host, holders[host])!r} would hold the attention, and holds a {CHILD!r} "
                "already. Name another module, or take back with remove_attention(model) what "
                "was inserted before."
            )
        holder.add_module(CHILD, stand_in)
    calls: Mapping[str, Calls] = {}
    failure: Exception | None = None
    try:
        calls = record_calls(copied, inputs, keep=set(hosts))
    except Exception as error:  # any that a model may raise
        failure = error
    meddled = [host for host, stand_in in stand_ins.items() if stand_in.ran]
    return Rehearsal(copied, inputs, calls, dict(holders)), failure, meddled


def _deeper(model: nn.Module, host: str, holder: str, doing: str) -> str:
    """Name the next module that may hold the attention: the last inside of the one that can't."""
    names = list(children(model.get_submodule(join(host, holder))))
    if not names:
        raise ModelError(
            f"{doing}: {join(host, holder)!r} would run the attention as one of its own modules, "
            "and has no other to hold it. Name another module."
        )
    below = join(holder, names[-1])
    return join(below, _last(model.get_submodule(join(host, below)), _is_container))
