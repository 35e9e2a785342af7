"""SpatialBackbone and find_backbone: the part of a model that computes its last feature map."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import Tensor, fx, nn

from softattn._validation import check_mapping, describe, parse_input_size
from softattn.errors import ArgumentTypeError, ModelError
from softattn.features.dry_run import (
    DryRun,
    ImageSize,
    candidate_sizes,
    copy_sharing_parameters,
    dry_run,
    random_images,
    takes_volumes,
)
from softattn.features.inference import (
    REORDERED_TOKENS,
    declared_layout,
    infer_layout,
    is_reordered,
    reference_maps,
)
from softattn.features.last_map import find_image_encoder, find_last_feature_map, run_failed
from softattn.features.layout import Layout, MapLayout, Size, declared_map
from softattn.features.truncate import find_checkpointing_switch, truncate, truncate_to_module
from softattn.ops import outside_inference_mode

__all__ = [
    "BackbonePlan",
    "FeatureMap",
    "Source",
    "SpatialBackbone",
    "find_backbone",
    "plan_backbone",
]

_LISTS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)

_DOING = "looking for the last feature map"

_logger = logging.getLogger("softattn")


class Source(StrEnum):
    """Method of a model that returns its last feature map."""

    FEATURES = "forward_features"
    NORMED_INTERMEDIATES = "forward_intermediates, with the last norm"
    INTERMEDIATES = "forward_intermediates"
    TRUNCATED = "forward, truncated"
    FORWARD = "forward"

    def read(self, model: Any, x: Tensor) -> Any:
        """Return the model's last feature map, in the model's layout."""
        if self is Source.FEATURES:
            return model.forward_features(x)
        if self in (Source.TRUNCATED, Source.FORWARD):
            return model(x)
        maps = model.forward_intermediates(
            x,
            indices=1,
            norm=self is Source.NORMED_INTERMEDIATES,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return maps[-1]


@dataclass(frozen=True)
class FeatureMap:
    """Feature map of a model: its shape and how it is computed and read."""

    channels: int
    size: Size
    """(H, W) for an input of `input_size`."""
    input_size: ImageSize
    source: Source
    map_layout: MapLayout
    at: str | None = None
    """Module or node at which the model was truncated."""

    @property
    def reduction(self) -> int:
        """Number of input pixels per position, in each direction."""
        return round(self.input_size[1] / self.size[0])


def _to_nchw(output: Any, map_layout: MapLayout, image: Size) -> Tensor:
    features = declared_map(output)
    assert features is not None  # as in the dry run
    return map_layout.to_nchw(features, image)


# One node in a symbolic trace, since it checks sizes, which are unknown in a trace.
fx.wrap("_to_nchw")


class SpatialBackbone(nn.Module):
    """A model that returns its last spatial feature map as (B, C, H, W).

    Example:
        >>> import torch, torchvision
        >>> from softattn import find_backbone
        >>> backbone = find_backbone(torchvision.models.resnet18())
        >>> backbone(torch.zeros(2, 3, 96, 64)).shape
        torch.Size([2, 512, 3, 2])
        >>> backbone.feature_map.source.value, backbone.feature_map.at
        ('forward, truncated', 'layer4')

    Args:
        model: The model. Its parameters keep their names, after the prefix `model.`.
        feature_map: The map, and how the model computes it.
        pretrained_cfg: Preprocessing, with timm's keys.
        dropped: Names of the modules that were removed, since the map doesn't depend on them.

    Shape:
        - x: (B, 3, H', W'), as the model expects.
        - output: (B, C, H, W) for every layout of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        feature_map: FeatureMap,
        pretrained_cfg: Mapping[str, Any],
        dropped: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.feature_map = feature_map
        self.pretrained_cfg: dict[str, Any] = dict(pretrained_cfg)
        self.dropped = dropped

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map of a batch of images."""
        features = self.feature_map.source.read(self.model, x)
        # Not unpacked, which torch.fx could not trace.
        return _to_nchw(features, self.feature_map.map_layout, (x.shape[-2], x.shape[-1]))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute parts of the model in the backward pass instead of storing them."""
        doing = f"setting gradient checkpointing of {type(self.model).__name__}"
        switch = find_checkpointing_switch(self.model)
        if switch is None:
            raise ModelError(
                f"{doing}: it has no set_grad_checkpointing. Models of timm and transformers, and "
                "models truncated by at=, support it."
            )
        try:
            switch(enable)
        except (AssertionError, NotImplementedError, ValueError) as error:
            raise ModelError(f"{doing}: the model rejects it: {error}.") from error

    def extra_repr(self) -> str:
        """Describe the map, for `print(module)`."""
        found, (height, width) = self.feature_map, self.feature_map.size
        at = f", at={found.at!r}" if found.at is not None else ""
        return f"{found.channels} x {height} x {width}, {found.source.value}{at}"


@dataclass(frozen=True)
class BackbonePlan:
    """Backbone found in a model. The model is not changed before `build` is called."""

    name: str
    """Class name of the original model."""
    model: nn.Module
    """The module that computes the map: the model, or a truncated one."""
    feature_map: FeatureMap
    pretrained_cfg: Mapping[str, Any]
    dropped: tuple[str, ...]
    """Names of the modules that the map doesn't depend on."""
    unused: tuple[nn.Parameter, ...]
    """Parameters of the other modules that the map doesn't depend on."""

    def build(self) -> SpatialBackbone:
        """Drop the modules that the map doesn't depend on, and return the backbone."""
        if self.feature_map.source is not Source.TRUNCATED:
            for name in self.dropped:
                identity = nn.Identity().train(self.model.get_submodule(name).training)
                self.model.set_submodule(name, identity)
        for parameter in self.unused:
            parameter.requires_grad_(False)
        if self.dropped:
            _logger.info(
                "%s: dropped %s, which the feature map doesn't depend on.",
                self.name,
                ", ".join(self.dropped),
            )
        auxiliary = getattr(self.model, "training_only", ())
        if auxiliary:
            _logger.warning(
                "%s: dropped the auxiliary heads %s, so training has no auxiliary outputs.",
                self.name,
                ", ".join(auxiliary),
            )
        return SpatialBackbone(self.model, self.feature_map, self.pretrained_cfg, self.dropped)


@outside_inference_mode
def find_backbone(
    model: nn.Module,
    at: str | None = None,
    input_size: int | tuple[int, ...] | None = None,
    pretrained_cfg: Mapping[str, Any] | None = None,
) -> SpatialBackbone:
    """Return a model's backbone: the part that computes its last spatial feature map.

    Example:
        >>> import torch, torchvision
        >>> from softattn import find_backbone
        >>> model = torchvision.models.resnet18()
        >>> find_backbone(model, at="layer3").feature_map.channels
        256

    Everything after the map is dropped: modules that the map doesn't depend on are replaced with
    `nn.Identity`, and remaining unused parameters are frozen, so that all trainable parameters get
    gradients, as distributed training requires. If `at` is given or the model is traced, the model
    is not changed, and the result shares its parameters.

    Args:
        model: Any module that takes a batch of images and computes a feature map on the way.
        at: The name of a module or of a node of the traced graph that returns the map. By default
            the last map is found: by timm's `forward_features`, then `forward_intermediates`, if
            the model has them; otherwise in the traced graph, before the pooling. The order of
            tokens is checked against the map that the model itself returns for a stage, except
            on the meta device, where there are no values to compare.
        input_size: (C, H, W), (H, W) or one number, if the model doesn't declare its image size.
        pretrained_cfg: Preprocessing, with timm's keys, if the model doesn't declare it.

    Raises:
        ArgumentError: `input_size` is not a size.
        ArgumentTypeError: Another argument has the wrong type. For names, use `wrap_backbone`.
        ModelError: The model has no such map, can't be run, or takes volumes; or without `at`, it
            is a dense predictor, whose output has the size of the input. It is left unchanged.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            f"{_DOING}: expected a torch.nn.Module, found {type(model).__name__}."
        )
    return plan_backbone(model, at, input_size, pretrained_cfg).build()


def plan_backbone(
    model: nn.Module,
    at: str | None = None,
    input_size: int | tuple[int, ...] | None = None,
    pretrained_cfg: Mapping[str, Any] | None = None,
) -> BackbonePlan:
    """Find the backbone of `find_backbone` without changing the model."""
    if not isinstance(at, str | None):
        raise ArgumentTypeError(
            f"{_DOING}: at must be the name of a module or of a node, found {at!r} "
            f"({type(at).__name__})."
        )
    check_mapping(_DOING, "pretrained_cfg", pretrained_cfg)
    if takes_volumes(model):
        raise ModelError(
            f"{_DOING}: {type(model).__name__} begins with a 3-D convolution, and only models of "
            "images are supported. insert_attention works with models of volumes and videos too."
        )
    cfg = pretrained_cfg if pretrained_cfg is not None else getattr(model, "pretrained_cfg", None)
    cfg = dict(cfg) if isinstance(cfg, Mapping) else {}
    first, *others = candidate_sizes(model, cfg, parse_input_size(_DOING, input_size))
    try:
        return _plan(model, at, first, cfg)
    except ModelError:
        for size in others:
            with suppress(ModelError):
                return _plan(model, at, size, cfg)
        raise


def _plan(
    model: nn.Module, at: str | None, size: ImageSize, cfg: Mapping[str, Any]
) -> BackbonePlan:
    if at is None and hasattr(model, "forward_features"):
        part = model
        source, layout, run = _run_timm_methods(model, size)
    else:
        part, source, at = _truncated(model, at, size)
        layout, run = _run_truncated(model, part, at, size)
        _check_order(model, at, layout, run, size)
    features = _to_nchw(run.output, layout, size[1:])
    reached = run.reached(features)
    dropped: tuple[str, ...] = ()
    unused: tuple[nn.Parameter, ...] = ()
    if part is not model:
        kept = set(part.parameters())
        dropped = tuple(_outermost(model, lambda _, m: kept.isdisjoint(m.parameters())))
    elif reached is not None and source is not Source.FORWARD:
        # A whole forward may use the weights of a module that it does not call.
        dropped = tuple(
            _outermost(
                model,
                lambda name, m: not run.was_called(name) and reached.isdisjoint(m.parameters()),
            )
        )
    if reached is not None:
        gone = {p for name in dropped for p in model.get_submodule(name).parameters()}
        unused = tuple(
            p
            for p in part.parameters()
            if p.is_floating_point() and p not in reached and p not in gone
        )
    height, width = features.shape[2:]
    found = FeatureMap(features.shape[1], (height, width), size, source, layout, at or None)
    return BackbonePlan(type(model).__name__, part, found, cfg, dropped, unused)


def _run_timm_methods(model: nn.Module, size: ImageSize) -> tuple[Source, MapLayout, DryRun]:
    """Return the first of timm's methods that returns a map, with the layout and the run."""
    tried = []
    inputs = (random_images(model, size),)
    for source in (Source.FEATURES, Source.NORMED_INTERMEDIATES, Source.INTERMEDIATES):
        if source is not Source.FEATURES and not hasattr(model, "forward_intermediates"):
            break
        try:
            run = dry_run(model, inputs, read=source.read, doing=_DOING)
        except Exception as error:
            if source is Source.FEATURES:
                raise run_failed(model, size, error) from error
            tried.append(f"{source.value} raises {type(error).__name__}: {error}")
            continue
        features = declared_map(run.output)
        layout = infer_layout(features, size[1:], **declared_layout(model, last=True))
        if layout is not None:
            return source, layout, run
        tried.append(f"{source.value} returns {describe(run.output)}")
    raise ModelError(
        f"{_DOING} of {type(model).__name__} for an input of {size}: {'; '.join(tried)}. Expected "
        "a map of at least 2 x 2 positions. Pass a larger input_size, or at= with the name of a "
        "module that returns one tensor (B, C, H, W), (B, H, W, C) or (B, tokens, C)."
    )


def _truncated(model: nn.Module, at: str | None, size: ImageSize) -> tuple[nn.Module, Source, str]:
    """Return the part of a model that returns its last map, how it is read, and its name."""
    encoder = find_image_encoder(model, size) if at is None else None
    if encoder == "":
        return model, Source.FORWARD, ""
    if encoder is not None:
        return truncate_to_module(model, encoder), Source.TRUNCATED, encoder
    at = at if at is not None else find_last_feature_map(model, size)
    return truncate(model, at), Source.TRUNCATED, at


def _run_truncated(
    model: nn.Module, part: nn.Module, at: str, size: ImageSize
) -> tuple[MapLayout, DryRun]:
    try:
        run = dry_run(part, (random_images(model, size),), doing=_DOING)
    except Exception as error:
        raise run_failed(model, size, error) from error
    features = declared_map(run.output)
    layout = infer_layout(features, size[1:], **declared_layout(model, last=False))
    if layout is None:
        raise ModelError(
            f"looking for a feature map of {type(model).__name__} at {at!r}: it returns "
            f"{describe(run.output)} for an input of {size}. Expected a map of at least "
            "2 x 2 positions. Pass the name of a module that returns one tensor (B, C, H, W), "
            "(B, H, W, C) or (B, tokens, C)."
        )
    return layout, run


def _check_order(
    model: nn.Module, at: str, layout: MapLayout, run: DryRun, size: ImageSize
) -> None:
    """Raise an error if tokens are not in the row-major order of the model's own map."""
    if layout.layout is not Layout.NLC:
        return
    own = reference_maps(copy_sharing_parameters(model, _DOING), run.inputs, [at])
    if at in own and is_reordered(_to_nchw(run.output, layout, size[1:]), own[at]):
        raise ModelError(
            f"looking for a feature map of {type(model).__name__} at {at!r}: its output is not a "
            f"feature map: {REORDERED_TOKENS}. Pass the name of another stage, or omit at= to use "
            "the last map."
        )


def _outermost(
    module: nn.Module, useless: Callable[[str, nn.Module], bool], prefix: str = ""
) -> Iterator[str]:
    """Yield the names of the outermost useless modules that have parameters."""
    for name, child in module.named_children():
        if next(child.parameters(), None) is None:
            continue
        # Keep lists: a model may use their length.
        if useless(prefix + name, child) and not isinstance(child, _LISTS):
            yield prefix + name
        else:
            yield from _outermost(child, useless, f"{prefix}{name}.")
