"""Target and parent of inserted attention: the module that it follows, and its parent module.

The parent must not be a sequence, nor another module that runs all its children in order: it would
run the attention as one more step.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from softattn._validation import closest, describe
from softattn.errors import ArgumentError, ModelError
from softattn.features import (
    DryRun,
    Inputs,
    candidate_sizes,
    dry_run,
    random_images,
    random_volumes,
    takes_volumes,
)
from softattn.insertion.hooks import CHILD, join
from softattn.ops import children

__all__ = ["find_targets", "run_with_parents", "target_of"]


def find_targets(model: nn.Module, names: Iterable[str], doing: str) -> dict[str, str]:
    """Return the target of each named module: the module whose output is attended.

    This is the named module itself, or the last module of a plain `Sequential`: gradient
    checkpointing does not call a sequence but its modules, and the last one runs in both cases.

    Example:
        >>> from torchvision.models import resnet18
        >>> from softattn.insertion.placement import find_targets
        >>> find_targets(resnet18(), ["maxpool", "layer4"], "inserting")
        {'maxpool': 'maxpool', 'layer4.1': 'layer4'}

    Returns:
        The given names by the names of their targets.

    Raises:
        ArgumentError: There is no module of this name, or two names have the same target.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    targets: dict[str, str] = {}
    for name in names:
        if name == "":
            raise ArgumentError(f"{doing}: '' is the whole model. Name modules inside of it.")
        if name not in modules:
            known = closest(name, (known for known in modules if known))
            raise ArgumentError(f"{doing}: {type(model).__name__} has no module {name!r}. {known}")
        target = target_of(name, modules[name])
        if target in targets:
            raise ArgumentError(
                f"{doing}: two insertions at one place: {targets[target]!r} and {name!r} have the "
                "same output. Leave one out."
            )
        targets[target] = name
    return targets


def target_of(name: str, module: nn.Module) -> str:
    """Return the name of the target of a named module, as `find_targets`, without checks.

    >>> from torch import nn
    >>> from softattn.insertion.placement import target_of
    >>> target_of("stage", nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
    'stage.1'
    """
    return join(name, _last(module, _is_sequence))


def _last(module: nn.Module, is_kind: Callable[[nn.Module], bool]) -> str:
    """Return the name of the last module in nested modules of a kind, "" for `module` itself."""
    path: list[str] = []
    while is_kind(module) and (names := list(children(module))):
        path.append(names[-1])
        module = module.get_submodule(path[-1])
    return ".".join(path)


def _is_sequence(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward


def _is_container(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)


class _StandIn(nn.Module):
    """Placeholder for attention that records whether its parent runs it."""

    ran = False

    def forward(self, *args: Any) -> Any:
        self.ran = True
        return args[0]


def run_with_parents(
    model: nn.Module, targets: Mapping[str, str], inputs: Inputs | None, doing: str
) -> tuple[DryRun, dict[str, str]]:
    """Run a copy of a model, and find a parent for the attention of each target.

    Args:
        model: It is not changed.
        targets: From `find_targets`.
        inputs: Arguments of the model; `None` for random images of the size that it declares, or
            random volumes.
        doing: The beginning of error messages.

    Returns:
        The run, and the names of the parents relative to their targets, "" for the target itself.

    Raises:
        ModelError: The model doesn't run, or a parent has attention already, or there is none.
    """
    failure: Exception | None = None
    tried: list[str] = []
    for given in [inputs] if inputs is not None else _default_inputs(model):
        tried.append(describe(given[0] if isinstance(given, tuple) and len(given) == 1 else given))
        parents = {target: _last(model.get_submodule(target), _is_container) for target in targets}
        while True:
            run, failure, interfering = _run_with_stand_ins(model, targets, parents, given, doing)
            if not interfering:
                break
            for target in interfering:
                parents[target] = _deeper(
                    model, target, parents[target], f"{doing} at {targets[target]!r}"
                )
        if run is not None:
            return run, parents
    raise ModelError(
        f"{doing}: {type(model).__name__} doesn't run on {' or '.join(tried)} "
        f"({type(failure).__name__}: {failure}). Pass example=, an input that it runs on."
    ) from failure


def _default_inputs(model: nn.Module) -> Iterator[Inputs]:
    if takes_volumes(model):
        yield from ((volumes,) for volumes in random_volumes(model))
        return
    for size in candidate_sizes(model):
        # Two images, so that a batch can be told from windows.
        yield (random_images(model, size, batch=2),)


def _run_with_stand_ins(
    model: nn.Module,
    targets: Mapping[str, str],
    parents: Mapping[str, str],
    inputs: Inputs,
    doing: str,
) -> tuple[DryRun | None, Exception | None, list[str]]:
    """Return the run, or the error of the model; and the targets whose placeholders were run."""
    stand_ins = {target: _StandIn() for target in targets}
    for target in targets:
        parent = join(target, parents[target])
        if hasattr(model.get_submodule(parent), CHILD):
            raise ModelError(
                f"{doing} at {targets[target]!r}: two insertions at one place: {parent!r} would "
                f"hold the attention, and has a child {CHILD!r} already. Name another module, or "
                "call remove_attention(model) first."
            )

    def prepare(copied: nn.Module) -> None:
        for target, stand_in in stand_ins.items():
            copied.get_submodule(join(target, parents[target])).add_module(CHILD, stand_in)

    run: DryRun | None = None
    failure: Exception | None = None
    try:
        run = dry_run(model, inputs, keep=set(targets), prepare=prepare, doing=doing)
    except ModelError:
        raise
    except Exception as error:  # any that a model may raise
        failure = error
    return run, failure, [target for target, stand_in in stand_ins.items() if stand_in.ran]


def _deeper(model: nn.Module, target: str, parent: str, doing: str) -> str:
    """Return the next parent to try: the last module inside the one that runs its children."""
    names = list(children(model.get_submodule(join(target, parent))))
    if not names:
        raise ModelError(
            f"{doing}: {join(target, parent)!r} would run the attention as one of its own modules, "
            "and has no other module to hold it. Name another module."
        )
    below = join(parent, names[-1])
    return join(below, _last(model.get_submodule(join(target, below)), _is_container))
