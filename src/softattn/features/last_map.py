"""Search for the last feature map: in the outputs of encoders, or in a traced model."""

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from itertools import takewhile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from softattn._validation import describe
from softattn.errors import ModelError
from softattn.features.dry_run import (
    ImageSize,
    copy_sharing_parameters,
    declares_main_input,
    dry_run,
    keep_random_state,
    random_images,
)
from softattn.features.inference import follows_positions, infer_layout
from softattn.features.layout import Layout, MapLayout, declared_map, tensors_in
from softattn.features.truncate import trace

__all__ = ["find_image_encoder", "find_last_feature_map", "run_failed"]


def find_image_encoder(model: nn.Module, input_size: ImageSize) -> str | None:
    """Return the name of the image encoder in a transformers model; "" is the model itself.

    This is the outermost module that takes the images and returns a feature map in a field that
    conventionally holds features, such as `last_hidden_state`.

    Args:
        model: Left unchanged.
        input_size: (C, H, W) of the image to run.

    Returns:
        The name, or `None` if no module declares `main_input_name`, as transformers models do, or
        none returns such a field.

    Raises:
        ModelError: The model can't be copied or run, or the field is not a feature map or is the
            output of a decoder.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if not declares_main_input(model):
        return None
    doing = f"looking for the last feature map of {type(model).__name__}"
    image = random_images(model, input_size)
    try:
        run = dry_run(model, (image,), keep=modules, doing=doing)
    except Exception as error:
        raise run_failed(model, input_size, error) from error
    others = []
    for name in sorted(modules, key=lambda name: name.count(".") if name else -1):
        call = run.calls[name]
        if call.count != 1 or call.input_shape != image.shape or isinstance(call.output, Tensor):
            continue
        features = declared_map(call.output)
        if features is None:
            continue
        if hasattr(call.output, "encoder_last_hidden_state"):
            raise ModelError(
                f"{doing}: its last hidden state, {describe(features)}, is the output of a "
                "decoder, whose queries are not positions of the image. Pass its encoder alone."
            )
        layout = infer_layout(features, input_size[1:])
        if layout is not None and _is_map(run.model.get_submodule(name), layout, image):
            return name
        others.append(f"{name or 'it'} returns {describe(features)}")
    if others:
        raise ModelError(
            f"{doing} for an input of {input_size}: {'; '.join(others)}. Expected a map of at "
            "least 2 x 2 positions, (B, C, H, W), (B, H, W, C) or (B, tokens, C), whose last "
            "tokens are the positions of the image in row-major order. Pass a larger input_size "
            "if the map has fewer positions."
        )
    return None


def _is_map(encoder: nn.Module, layout: MapLayout, image: Tensor) -> bool:
    if layout.layout is not Layout.NLC or layout.grid is None:
        return True
    height, width = image.shape[2:]

    def read(images: Tensor) -> Tensor:
        features = declared_map(encoder(images))
        assert features is not None  # as in the dry run
        return layout.to_nchw(features, (height, width))

    with keep_random_state(encoder):
        return follows_positions(read, image, (layout.grid.rows, layout.grid.columns))


def find_last_feature_map(model: nn.Module, input_size: ImageSize) -> str:
    """Return the name of the last feature map on the way to a model's output, before pooling.

    Example:
        >>> import torchvision
        >>> from softattn.features.last_map import find_last_feature_map
        >>> find_last_feature_map(torchvision.models.resnet18(), (3, 64, 64))
        'layer4'

    Candidates are the outputs of the modules and functions that the model's own forward calls.
    The search goes into a module if nothing outside of it returns a map, or if the module holds a
    convolution of more than 1 x 1 and returns a vector.

    Args:
        model: Left unchanged.
        input_size: (C, H, W) of the image to run.

    Returns:
        The name of a module or of a node, for `truncate`.

    Raises:
        ModelError: There is no map, or the model can't be traced, copied or run, or it computes
            dense predictions, whose last map is not a map of features.
    """
    model = copy_sharing_parameters(model, "looking for the last feature map")
    inside: set[str] = set()
    while True:
        with keep_random_state(model):
            nodes = trace(model, inside, training=False)
        values = _values(model, next(iter(nodes.values())).graph, input_size)
        if not inside:
            # A model may also return its input, as encoders of segmentation networks do.
            computed = [n for n in _output(values).all_input_nodes if n.op != "placeholder"]
            _refuse_dense_predictor(model, [values[n] for n in computed], input_size)
        names = {node: name for name, node in nodes.items()}
        found, after = _last(model, values, input_size)
        closed = [node for node in after if _hides_map(model, node, found is None)]
        if not closed:
            break
        inside.add(str(closed[0].target))
    if found is None:
        given = values[_output(values)]
        raise ModelError(
            f"looking for the last feature map of {type(model).__name__}: nothing on the way to "
            f"its output, {describe(given)}, is a map of at least 2 x 2 positions for an input of "
            f"{input_size}. Pass a larger input_size, or at= with the name of a module "
            "that returns a map."
        )
    return names[found]


class _Recorder(fx.Interpreter):
    """Run a graph and record the shape of each value."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        shape_only = isinstance(value, Tensor)
        self.values[n] = torch.empty(value.shape, device="meta") if shape_only else value
        return value


def _values(model: nn.Module, graph: fx.Graph, input_size: ImageSize) -> dict[fx.Node, Any]:
    recorder = _Recorder(model, graph)
    placeholders = sum(node.op == "placeholder" for node in graph.nodes)
    try:
        with torch.no_grad(), keep_random_state(model):
            image = random_images(model, input_size)
            recorder.run(image, *[None] * (placeholders - 1))
    except Exception as error:
        raise run_failed(model, input_size, error) from error
    return recorder.values


def run_failed(model: nn.Module, input_size: ImageSize, error: Exception) -> ModelError:
    """Return the error for a model that doesn't run on an input of this size."""
    first_line = str(error).partition("\n")[0].rstrip(".")  # torch.fx appends its graph
    takes = getattr(model, "main_input_name", "pixel_values")
    if takes != "pixel_values":
        return ModelError(
            f"running {type(model).__name__} on images: its main input is {takes}. Pass a model "
            "that takes images alone, such as its vision encoder."
        )
    return ModelError(
        f"running {type(model).__name__} on an input of {input_size}: "
        f"{type(error).__name__}: {first_line}. If it needs an input of another size, pass "
        "input_size=(C, H, W)."
    )


def _refuse_dense_predictor(model: nn.Module, output: object, input_size: ImageSize) -> None:
    """Raise an error if a model downsamples its input and upsamples its output, as U-Nets do."""
    size = torch.Size(input_size[1:])
    maps = (x for x in tensors_in(output) if x.ndim == 4 and x.numel())
    if not any(x.shape[2] >= size[0] and x.shape[3] >= size[1] for x in maps):
        return
    sizes: dict[str, torch.Size] = {}  # in the order of calls

    def note(name: str, _module: nn.Module, _args: object, value: object) -> None:
        if isinstance(value, Tensor) and value.ndim == 4 and min(value.shape[2:]) > 1:
            sizes[name] = value.shape[2:]

    with torch.no_grad(), keep_random_state(model), ExitStack() as stack:
        for name, module in model.named_modules():
            stack.enter_context(module.register_forward_hook(partial(note, name)))
        model(random_images(model, input_size))
    smallest = min(sizes.values(), key=lambda found: found.numel(), default=size)
    if smallest.numel() >= size.numel():
        return
    names = [name for name, found in sizes.items() if found == smallest]
    encoder = names[0].partition(".")[0]
    inside = [name for name in names if name.partition(".")[0] == encoder]
    depth = min(name.count(".") for name in inside)
    last = [name for name in inside if name.count(".") == depth][-1]
    raise ModelError(
        f"looking for the last feature map of {type(model).__name__}: its output is a map of the "
        f"input's size, {size[0]} x {size[1]}, as of a dense predictor, and its last map holds "
        f"predictions instead of features. Pass at= with the name of the last module of its "
        f"encoder, such as {last!r}, or pass the encoder alone."
    )


def _output(values: Iterable[fx.Node]) -> fx.Node:
    return next(node for node in values if node.op == "output")


def _last(
    model: nn.Module, values: dict[fx.Node, Any], input_size: ImageSize
) -> tuple[fx.Node | None, list[fx.Node]]:
    """Return the last node with a map, and the nodes between it and the output, last first."""
    output = _output(values)
    way, used = [], {output}
    for node in reversed(values):
        if node in used:
            used.update(node.all_input_nodes)
            way.append(node)
    maps = [
        node
        for node in way
        if node.op not in ("output", "placeholder")
        and not _is_pool(model, node)
        and infer_layout(values[node], input_size[1:]) is not None
    ]
    found = _before_class_map(model, values, maps, values[output])
    return found, way if found is None else way[: way.index(found)]


def _before_class_map(
    model: nn.Module, values: dict[fx.Node, Any], maps: list[fx.Node], scores: object
) -> fx.Node | None:
    """Return the last map before class maps, which a 1 x 1 convolution computes."""
    classes = scores.shape[-1] if isinstance(scores, Tensor) and scores.ndim == 2 else None
    of_head = list(takewhile(lambda node: values[node].shape[1] == classes, maps))
    if any(_kernel(model, node) == 1 for node in of_head):
        maps = maps[len(of_head) :]
    return maps[0] if maps else None


def _kernel(model: nn.Module, node: fx.Node) -> int:
    """Return the largest kernel size of the convolutions that a node calls, or 0."""
    if node.op != "call_module":
        return 0
    modules = model.get_submodule(str(node.target)).modules()
    return max((max(m.kernel_size) for m in modules if isinstance(m, nn.Conv2d)), default=0)


def _is_pool(model: nn.Module, node: fx.Node) -> bool:
    """Return whether a node pools to a fixed size, such as VGG's 7 x 7."""
    if node.op == "call_function":
        return node.target in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)
    if node.op != "call_module":
        return False
    module = model.get_submodule(str(node.target))
    return isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)


def _hides_map(model: nn.Module, node: fx.Node, nothing_found: bool) -> bool:
    """Return whether to search inside the module that a node calls."""
    if node.op != "call_module":
        return False
    if next(model.get_submodule(str(node.target)).children(), None) is None:
        return False
    return nothing_found or _kernel(model, node) > 1
