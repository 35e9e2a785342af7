"""A model truncated at an inner module or node.

`torchvision.models.feature_extraction.create_feature_extractor` traces into every module that is
not a layer of `torch.nn`, so it fails on control flow anywhere in the model, and removes gradient
checkpointing and everything else that depends on the pass. Here, only the modules around the
truncation point are traced. All others are called as they are.
"""

import inspect
import operator
import pickle
import random
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.feature_extraction import NodePathTracer

from softattn._validation import closest
from softattn.errors import ModelError
from softattn.features.dry_run import copy_sharing_parameters, keep_random_state
from softattn.ops import children, is_persistent

__all__ = ["TruncatedModel", "find_checkpointing_switch", "trace", "truncate", "truncate_to_module"]


_NUM_TRACES = 8  # that must agree if a model draws random numbers


class _ShallowTracer(NodePathTracer):  # type: ignore[misc]
    """Trace into the named modules only."""

    # Changes of buffers, such as a norm's count of batches, must be nodes of the graph. Otherwise
    # they happen during tracing.
    proxy_buffer_attributes = True

    def __init__(self, inside: Collection[str]) -> None:
        # timm lists functions whose control flow can't be traced, for this purpose.
        layers = sys.modules.get("timm.layers")
        functions = layers.get_notrace_functions() if layers is not None else ()
        super().__init__(autowrap_functions=tuple(functions))
        self.inside = inside

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.inside


class TruncatedModel(nn.Module):
    """Part of a model: its modules with their names, and a graph for each mode.

    It can be copied, pickled, compiled and exported.

    Args:
        root: The model, whose modules, parameters and buffers are shared.
        train_graph: The graph in training mode.
        eval_graph: The graph in eval mode.
        training_only: Names of modules that the whole model calls in training only, such as
            auxiliary heads.
        constants: Tensors that tracing created, by name.
    """

    def __init__(
        self,
        root: nn.Module,
        train_graph: fx.Graph,
        eval_graph: fx.Graph,
        training_only: tuple[str, ...] = (),
        constants: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        constants = constants or {}
        self.training_only = training_only
        self._graphs = (eval_graph, train_graph)
        self._checkpointing = False
        for graph in self._graphs:
            for node in graph.nodes:
                target = str(node.target)
                if node.op == "get_attr" and target in constants:
                    self.register_buffer(target, constants[target])
                elif node.op in ("call_module", "get_attr"):
                    _share(root, self, target)
        self.training: bool = root.training
        self._compile()

    def forward(self, x: Tensor) -> Tensor:
        """Return the value at the truncation point."""
        # torch.compile of torch 2.11 can't index with a bool.
        features: Tensor = self._steps[int(self.training)](self, x)
        return features

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the inside of modules in the backward pass instead of storing it."""
        self._checkpointing = enable
        self._compile()

    def _compile(self) -> None:
        steps = []
        for graph in self._graphs:
            graph = _checkpointed(self, graph) if self._checkpointing else graph
            code = graph.python_code(root_module="self")
            scope = dict(code.globals)
            # torch.fx generates the source from a graph of this process, as for a GraphModule.
            exec(code.src, scope)  # nosec B102
            steps.append(scope["forward"])
        self._steps = tuple(steps)

    def __getstate__(self) -> dict[str, Any]:
        # Generated functions can't be pickled; the graphs can.
        return {name: value for name, value in self.__dict__.items() if name != "_steps"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._compile()


def find_checkpointing_switch(model: nn.Module) -> Callable[[bool], None] | None:
    """Return the function that switches gradient checkpointing of a model, `None` without one.

    In transformers models, also nested ones, each layer is recomputed.
    """
    for module in model.modules():
        # transformers 5 uses the first names, transformers 4 the second.
        for kind in ("activation", "gradient"):
            if hasattr(module, f"{kind}_checkpointing_enable"):
                return partial(_set_transformers_checkpointing, module, kind)
    switch: Callable[[bool], None] | None = getattr(model, "set_grad_checkpointing", None)
    return switch


def _set_transformers_checkpointing(model: Any, kind: str, enable: bool) -> None:
    switch = getattr(model, f"{kind}_checkpointing_{'enable' if enable else 'disable'}")
    switch(*([{"use_reentrant": False}] if enable else []))


def _checkpointed(model: nn.Module, graph: fx.Graph) -> fx.Graph:
    """Return a copy of a graph with a checkpoint around each module that has children."""
    result = fx.Graph()
    result.output(result.graph_copy(graph, {}))
    for node in result.nodes:
        if node.op == "call_module" and _is_block(model.get_submodule(str(node.target))):
            with result.inserting_before(node):
                module = result.get_attr(str(node.target))
            node.op, node.target, node.args = "call_function", _recomputed, (module, *node.args)
    return result


def _is_block(module: nn.Module) -> bool:
    # Not a single ReLU, which may change in place the input that a checkpoint stores.
    return any(True for _ in module.children()) and any(True for _ in module.parameters())


def _recomputed(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return checkpoint(module, *args, use_reentrant=False, **kwargs)


def _share(root: nn.Module, copy: nn.Module, target: str) -> None:
    """Register a module, parameter or buffer of the root in the copy, with the same name."""
    *path, name = target.split(".")
    for part in path:
        root = getattr(root, part)
        if part not in children(copy):
            copy.add_module(part, nn.Module().train(root.training))
        copy = getattr(copy, part)
    value = getattr(root, name)
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        copy.register_buffer(name, value, is_persistent(root, name))
    else:
        setattr(copy, name, value)


def trace(model: nn.Module, inside: Collection[str], training: bool) -> dict[str, fx.Node]:
    """Trace a copy of a model in one mode, and return the nodes of the graph by name.

    Args:
        model: A copy, whose mode changes and which gets attributes for constants. All arguments
            of its forward but the first have their default values.
        inside: Names of the modules to trace into.
        training: The mode.

    Raises:
        ModelError: The model can't be traced.
    """
    tracer = _ShallowTracer(inside)
    defaults = list(inspect.signature(model.forward).parameters.values())[1:]
    concrete = {
        p.name: p.default for p in defaults if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    # Not train() or eval(), which a model may override.
    for module in model.modules():
        module.training = training
    try:
        tracer.trace(model, concrete_args=concrete)
    except Exception as error:
        raise ModelError(
            f"tracing {type(model).__name__}: its forward can't be traced "
            f"({type(error).__name__}: {error}). Only at= and models without forward_features(x) "
            "need tracing. insert_attention never does."
        ) from error
    _use_values_after_changes(tracer.graph, model)
    return _names(tracer.node_to_qualname)


def _use_values_after_changes(graph: fx.Graph, model: nn.Module) -> None:
    """Let nodes after a change in place use its result, so that they depend on it.

    torch.fx records `x += y` as an addition, which is a change in place that this can't see.
    """
    order = {node: number for number, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        changed = next(iter(node.all_input_nodes), None)
        if changed is not None and _is_in_place(node, model):
            for user in [user for user in changed.users if order[user] > order[node]]:
                user.replace_input_with(changed, node)


def _is_in_place(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return getattr(model.get_submodule(str(node.target)), "inplace", False) is True
    if node.op == "call_method":
        return _is_name_in_place(str(node.target))
    if node.op != "call_function" or not callable(node.target):
        return False
    name = getattr(node.target, "__name__", "")
    # operator.and_ and others have an underscore because `and` is a keyword.
    if _is_name_in_place(name) and getattr(operator, name, None) is not node.target:
        return True
    try:
        arguments = inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments
    except (TypeError, ValueError):  # of built-in functions, which have no inplace argument
        return False
    return arguments.get("inplace") is True


def _is_name_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _names(paths: Mapping[fx.Node, str]) -> dict[str, fx.Node]:
    """Name the first call of a module by the module, and other nodes by their position."""
    modules: dict[str, fx.Node] = {}
    for node in paths:
        if node.op == "call_module":
            modules.setdefault(str(node.target), node)
    names = {node: name for name, node in modules.items()}
    # torchvision parses the end of a module's name as a count (`conv1_1`), so names can collide.
    taken = set(modules)
    for node, path in paths.items():
        if node not in names:
            options = (path, *(f"{path}_{count}" for count in range(1, len(paths) + 1)))
            names[node] = next(option for option in options if option not in taken)
            taken.add(names[node])
    return {names[node]: node for node in paths}


def truncate(model: nn.Module, at: str) -> TruncatedModel:
    """Return the part of a model that computes the output of an inner module or node.

    Example:
        >>> import torch, torchvision
        >>> from softattn.features.truncate import truncate
        >>> model = torchvision.models.resnet18()
        >>> part = truncate(model, "layer3")
        >>> part(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 256, 4, 4])

    Args:
        model: It is not changed. Its parameters are shared.
        at: The name of a module, as in `named_modules()`, or of a node of the traced graph, as in
            `torchvision.models.feature_extraction.get_graph_node_names`.

    Raises:
        ModelError: There is no such name, the model can't be traced, or random numbers that its
            forward draws would be the same in all passes.
    """
    around = {at[:place] for place, letter in enumerate(at) if letter == "."}
    copied = copy_sharing_parameters(model, f"truncating {type(model).__name__} at {at!r}")
    with keep_random_state(model):
        before = _random_states()
        in_training, in_evaluation = (trace(copied, around, training) for training in (True, False))
        if _random_states() != before and _depends_on_seed(model, at, around):
            raise ModelError(
                f"truncating {type(model).__name__} at {at!r}: a trace would repeat the random "
                "numbers that its forward draws. Draw them in a module, or use insert_attention."
            )
    for nodes in (in_training, in_evaluation):
        if at not in nodes:
            raise _not_there(model, at, nodes)
    called, always_called = map(_called, (in_training.values(), in_evaluation.values()))
    return TruncatedModel(
        model,
        _cut(in_training[at], copied),
        _cut(in_evaluation[at], copied),
        tuple(name for name in called if name not in always_called),
        _constants(copied, model),
    )


def _random_states() -> bytes:
    return pickle.dumps((torch.get_rng_state().numpy(), random.getstate(), np.random.get_state()))


def _depends_on_seed(model: nn.Module, at: str, around: Collection[str]) -> bool:
    """Return whether traces in training mode depend on random numbers, as with layer dropping."""
    found = set()
    for seed in range(_NUM_TRACES):
        copied = copy_sharing_parameters(model)
        # Not torch.manual_seed, which also seeds GPUs.
        for set_seed in (torch.default_generator.manual_seed, random.seed, np.random.seed):
            set_seed(seed)
        nodes = trace(copied, around, training=True)
        graph = _cut(nodes[at], copied) if at in nodes else fx.Graph()
        constants = _constants(copied, model)
        used = [str(constants.get(str(node.target))) for node in graph.nodes]
        found.add((str(graph), *used))
    return len(found) > 1


def _constants(copied: nn.Module, model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that tracing has added to a copy of a model."""
    own, all_of_it = vars(model), vars(copied).items()
    return {name: x for name, x in all_of_it if isinstance(x, Tensor) and name not in own}


def truncate_to_module(model: nn.Module, name: str) -> TruncatedModel:
    """Truncate a model to one of its modules, which is called with the model's input.

    Module names are kept, and nothing is traced.

    Example:
        >>> import torch
        >>> from softattn.features.truncate import truncate_to_module
        >>> model = torch.nn.ModuleDict({"encoder": torch.nn.ReLU(), "head": torch.nn.ReLU()})
        >>> truncate_to_module(model, "encoder")(torch.tensor([-1.0]))
        tensor([0.])
    """
    graph = fx.Graph()
    graph.output(graph.call_module(name, (graph.placeholder("x"),)))
    return TruncatedModel(model, graph, graph)


def _changes_any(change: fx.Node, needed: Collection[fx.Node], model: nn.Module) -> bool:
    """Return whether a change in place is of a needed value, of a view of one, or of a buffer."""
    node = next(iter(change.all_input_nodes), None)
    while node is not None and node not in needed and node.op.startswith("call"):
        if node.op == "call_module" and [*model.get_submodule(str(node.target)).parameters()]:
            return False
        node = next(iter(node.all_input_nodes), None)  # of a view, or of a copy, which is harmless
    return node is not None and (node in needed or node.op in ("get_attr", "placeholder"))


def _called(nodes: Iterable[fx.Node]) -> list[str]:
    return [str(node.target) for node in nodes if node.op == "call_module"]


def _not_there(model: nn.Module, at: str, nodes: Mapping[str, fx.Node]) -> ModelError:
    doing = f"truncating {type(model).__name__} at {at!r}"
    names = [name for name, _ in model.named_modules() if name]
    if at in names:
        called = [name for name, node in nodes.items() if node.op == "call_module"]
        return ModelError(
            f"{doing}: forward doesn't call this module, or not in both modes. The last modules "
            f"that it calls are {', '.join(called[-5:])}."
        )
    options = dict.fromkeys([*names, *nodes])
    return ModelError(f"{doing}: there is no module or node of this name. {closest(at, options)}")


def _cut(point: fx.Node, model: nn.Module) -> fx.Graph:
    """Return the graph that ends at a node, without nodes that it doesn't depend on."""
    graph = point.graph
    needed: set[fx.Node] = set()
    waiting = [point]
    before = takewhile(lambda node: node is not point, graph.nodes)
    changes = [node for node in before if _is_in_place(node, model)]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
        # A change in place of a view affects nodes that don't use its result.
        if not waiting:
            waiting = [n for n in changes if n not in needed and _changes_any(n, needed, model)]
    for node in reversed(graph.nodes):
        if node.op == "output":
            node.args = (point,)
        elif node not in needed and (node.op != "placeholder" or node.prev.op == "placeholder"):
            graph.erase_node(node)
    graph.lint()
    return graph
