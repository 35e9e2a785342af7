"""Where the last spatial feature map of a model is, found by one dry run."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from softattn._validation import describe
from softattn.errors import ArgumentTypeError, ModelError
from softattn.features.backbone import FeatureMap, Source, SpatialBackbone
from softattn.features.dry_run import DryRun, black_image, dry_run, untouched
from softattn.features.last_map import does_not_run, last_map
from softattn.features.layout import Layout
from softattn.features.places import Place, find_place, model_facts
from softattn.features.token_order import ANOTHER_ORDER, is_reordered, own_maps
from softattn.features.truncate import truncate

__all__ = ["BackbonePlan", "find_backbone", "plan_backbone"]

_LISTS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)

_logger = logging.getLogger("softattn")


@dataclass(frozen=True)
class BackbonePlan:
    """A feature map that was found in a model, which isn't changed until `build`."""

    name: str
    """Of the class of the model that was given."""
    model: nn.Module
    """What gives the map: that model, or the part of it that is needed."""
    feature_map: FeatureMap
    pretrained_cfg: Mapping[str, Any]
    dropped: tuple[str, ...]
    """The modules that the map doesn't need."""
    unused: tuple[nn.Parameter, ...]
    """Parameters of the other modules that the map doesn't need either."""

    def build(self) -> SpatialBackbone:
        """Drop what the map doesn't need, and return the backbone."""
        if self.feature_map.source is not Source.TRUNCATED:
            for name in self.dropped:
                nothing = nn.Identity().train(self.model.get_submodule(name).training)
                self.model.set_submodule(name, nothing)
        for parameter in self.unused:
            parameter.requires_grad_(False)
        if self.dropped:
            _logger.info(
                "%s: dropped %s: the feature map doesn't need it.",
                self.name,
                ", ".join(self.dropped),
            )
        auxiliary = getattr(self.model, "training_only", ())
        if auxiliary:
            _logger.warning(
                "%s: dropped the auxiliary heads %s, so training gives no auxiliary outputs.",
                self.name,
                ", ".join(auxiliary),
            )
        return SpatialBackbone(self.model, self.feature_map, self.pretrained_cfg, self.dropped)


def find_backbone(
    model: nn.Module,
    at: str | None = None,
    input_size: tuple[int, ...] | None = None,
    pretrained_cfg: Mapping[str, Any] | None = None,
) -> SpatialBackbone:
    """Find the last spatial feature map of a model, by one dry run.

    Example:
        >>> import torch, torchvision
        >>> from softattn.features.finding import find_backbone
        >>> model = torchvision.models.resnet18()
        >>> find_backbone(model, at="layer3").feature_map.channels
        256

    What comes after the map is dropped: modules that the map doesn't need give place to
    `nn.Identity`, and parameters that are left without a use are frozen, so that distributed
    training finds none without a gradient. With `at`, or where the model is traced, it isn't
    changed, and the result shares its parameters.

    Args:
        model: anything that makes of a batch of images a map, somewhere.
        at: a module of it, or a node of its traced graph, that gives the map. Otherwise the last
            one is found: by timm's `forward_features`, then its `forward_intermediates`, for
            models that have these; or else in the traced graph, before the pooling. A stage whose
            tokens don't stand as in the model's own map of it is refused, except on the meta
            device, where values don't show it.
        input_size: (C, H, W) or (H, W) of the dry run, where the model doesn't say it.
        pretrained_cfg: its preprocessing, in timm's words, where the model doesn't say it.

    Raises:
        ArgumentTypeError: this is no model; a name is for `wrap_backbone`.
        ModelError: there is no such map, or the model doesn't run. It is then as it was.
    """
    if not isinstance(model, nn.Module):
        doing = "finding the last feature map"
        raise ArgumentTypeError(
            f"{doing}: expected a torch.nn.Module, found {type(model).__name__}."
        )
    return plan_backbone(model, at, input_size, pretrained_cfg).build()


def plan_backbone(
    model: nn.Module,
    at: str | None = None,
    input_size: tuple[int, ...] | None = None,
    pretrained_cfg: Mapping[str, Any] | None = None,
) -> BackbonePlan:
    """Find what `find_backbone` does, and change nothing yet."""
    cfg = pretrained_cfg if pretrained_cfg is not None else getattr(model, "pretrained_cfg", None)
    cfg = dict(cfg) if isinstance(cfg, Mapping) else {}
    first, *others = _input_sizes(model, cfg, input_size, by_name=pretrained_cfg is not None)
    try:
        return _plan(model, at, first, cfg)
    except ModelError:
        for size in others:
            with suppress(ModelError):
                return _plan(model, at, size, cfg)
        raise


def _plan(
    model: nn.Module, at: str | None, size: tuple[int, int, int], cfg: Mapping[str, Any]
) -> BackbonePlan:
    if at is None and hasattr(model, "forward_features"):
        source, place, run = _ask(model, size)
        features = place.to_nchw(run.output, *size[1:])
        dropped, unused = _without_use(model, run, features)
        part = model
    else:
        tap = at if at is not None else last_map(model, size)
        part = truncate(model, tap)
        source, place, run = _read_part(model, part, tap, size)
        _check_order(model, part, tap, place, size)
        at = tap
        features = place.to_nchw(run.output, *size[1:])
        kept = {id(parameter) for parameter in part.parameters()}
        dropped = tuple(_top(model, lambda m: all(id(p) not in kept for p in m.parameters())))
        unused = _without_use(part, run, features, drop=False)[1]
    height, width = features.shape[2:]
    found = FeatureMap(features.shape[1], (height, width), size, source, place, at)
    return BackbonePlan(type(model).__name__, part, found, cfg, dropped, unused)


def _ask(model: nn.Module, size: tuple[int, int, int]) -> tuple[Source, Place, DryRun]:
    """Find the map by timm's contract."""
    tried = []
    for source in (Source.FEATURES, Source.NORMED_INTERMEDIATES, Source.INTERMEDIATES):
        if source is not Source.FEATURES and not hasattr(model, "forward_intermediates"):
            break
        try:
            run = dry_run(model, partial(source.read, model), size)
        except Exception as error:
            if source is Source.FEATURES:
                raise does_not_run(model, size, error) from error
            tried.append(f"{source.value} raises {type(error).__name__}: {error}")
            continue
        place = find_place(run.output, *size[1:], **model_facts(model, last=True))
        if place is not None:
            return source, place, run
        tried.append(f"{source.value} gives {describe(run.output)}")
    raise ModelError(
        f"looking for the last feature map of {type(model).__name__} for an input of {size}: "
        f"{'; '.join(tried)}. None is a map of at least 2 x 2 positions. Pass a larger "
        "input_size, or at= with the name of a module that gives one tensor (B, C, H, W), "
        "(B, H, W, C) or (B, tokens, C)."
    )


def _read_part(
    model: nn.Module, part: nn.Module, at: str, size: tuple[int, int, int]
) -> tuple[Source, Place, DryRun]:
    """Find the map in what a truncated model gives."""
    try:
        run = dry_run(part, part, size)
    except Exception as error:
        raise does_not_run(model, size, error) from error
    place = find_place(run.output, *size[1:], **model_facts(model, last=False))
    if place is None:
        raise ModelError(
            f"looking for a feature map of {type(model).__name__} at {at!r}: it gives "
            f"{describe(run.output)} for an input of {size}, which is no map of at least 2 x 2 "
            "positions. Pass the name of a module that gives one tensor (B, C, H, W), "
            "(B, H, W, C) or (B, tokens, C)."
        )
    return Source.TRUNCATED, place, run


def _check_order(
    model: nn.Module, part: nn.Module, at: str, place: Place, size: tuple[int, int, int]
) -> None:
    """Refuse tokens that don't stand row by row, as far as the model's own map shows it."""
    if place.layout is not Layout.NLC:
        return
    like = black_image(model, size)
    # Not black: positions that are alike show no order.
    image = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
    with untouched(model), untouched(part), torch.no_grad():
        own = own_maps(model, (image,), [at])
        if at in own and is_reordered(place.to_nchw(part(image), *size[1:]), own[at]):
            raise ModelError(
                f"looking for a feature map of {type(model).__name__} at {at!r}: what it gives is "
                f"no spatial map: {ANOTHER_ORDER}. Pass the name of another stage, or no at= for "
                "the last map."
            )


def _without_use(
    model: nn.Module, run: DryRun, features: Tensor, drop: bool = True
) -> tuple[tuple[str, ...], tuple[nn.Parameter, ...]]:
    """Return the modules that a map doesn't need, and the other parameters that it doesn't."""
    reached = run.reached(features)
    if reached is None:
        return (), ()

    def useless(module: nn.Module) -> bool:
        return run.called.isdisjoint(module.modules()) and reached.isdisjoint(module.parameters())

    dropped = tuple(_top(model, useless)) if drop else ()
    gone = {id(p) for name in dropped for p in model.get_submodule(name).parameters()}
    unused = (p for p in model.parameters() if p not in reached and id(p) not in gone)
    return dropped, tuple(p for p in unused if p.is_floating_point())


def _top(
    module: nn.Module, useless: Callable[[nn.Module], bool], prefix: str = ""
) -> Iterator[str]:
    """Yield the names of the useless modules that have parameters and lie in no other such."""
    for name, child in module.named_children():
        if next(child.parameters(), None) is None:
            continue
        # Lists stay lists, since their model may ask for their length.
        if useless(child) and not isinstance(child, _LISTS):
            yield prefix + name
        else:
            yield from _top(child, useless, f"{prefix}{name}.")


def _input_sizes(
    model: Any, cfg: Mapping[str, Any], given: tuple[int, ...] | None, by_name: bool
) -> list[tuple[int, int, int]]:
    """Return the sizes to try: the one given, or those that a model is made for.

    Its configuration doesn't know that it was built for another size or number of channels than
    its weights are from; and its first convolution doesn't know what stands before.
    """
    count, *size = cfg.get("input_size", (3, 224, 224))
    sizes = [size]
    made_for = getattr(getattr(model, "patch_embed", None), "img_size", None)
    made_for = made_for or getattr(model, "image_size", None)
    if made_for:
        own = [made_for, made_for] if isinstance(made_for, int) else list(made_for)
        sizes = [size, own] if by_name else [own, size]
    if given is not None:
        sizes = [list(given)]
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    counts = [count] if first is None else [count, first.in_channels]
    full = ([c, *size] if len(size) == 2 else size for c in counts for size in sizes)
    return list(dict.fromkeys((c, h, w) for c, h, w in full))
