"""Build timm and torchvision models from their names."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torchvision
from torch import nn

from softattn._validation import closest, missing_extra
from softattn.errors import ArgumentError, ArgumentTypeError

__all__ = ["NamedModel", "load_model"]


@dataclass(frozen=True)
class NamedModel:
    """A model that was built from a name."""

    model: nn.Module
    """The model."""
    name: str
    """Name with the prefix of its library, as in `timm:resnet50`."""
    pretrained_cfg: Mapping[str, Any]
    """Preprocessing with timm's keys: input_size, mean, std, interpolation, crop_pct."""


def load_model(
    name: str, pretrained: bool = False, kwargs: Mapping[str, Any] | None = None
) -> NamedModel:
    """Build a timm or torchvision model from its name.

    Example:
        >>> from softattn.models import load_model
        >>> load_model("torchvision:resnet18").name
        'torchvision:resnet18'
        >>> load_model("resnet18").name
        'timm:resnet18'

    Args:
        name: name of a timm model, with or without a tag, or of a torchvision classifier. timm
            takes precedence if both libraries have the name; the prefixes `timm:` and
            `torchvision:` select one. Other prefixes (`hf-hub:`, `local-dir:`) are passed to timm.
        pretrained: load pretrained weights; torchvision's `DEFAULT` ones.
        kwargs: keyword arguments of the library's factory function.

    Raises:
        ArgumentError: neither library has a model of this name.
        ArgumentTypeError: the model does not accept these keyword arguments.
        MissingExtraError: the name is not torchvision's, and timm is not installed.
    """
    library, name = _resolve(name)
    try:
        if library == "timm":
            return _from_timm(name, pretrained, dict(kwargs or {}))
        return _from_torchvision(name, pretrained, dict(kwargs or {}))
    except TypeError as error:
        raise ArgumentTypeError(
            f"building {library}:{name} with {dict(kwargs or {})}: {error}."
        ) from error


def _timm() -> ModuleType | None:
    try:
        import timm
    except ImportError:
        return None
    module: ModuleType = timm
    return module


def _resolve(name: str) -> tuple[str, str]:
    """Return the library of a model, and the name of the model in the library."""
    timm = _timm()
    prefix, colon, rest = name.partition(":")
    of_torchvision = torchvision.models.list_models(module=torchvision.models)
    if prefix == "torchvision":
        if rest in of_torchvision:
            return "torchvision", rest
        raise ArgumentError(
            f"building {name}: torchvision has no classifier named {rest!r}. "
            f"{closest(rest, of_torchvision)}"
        )
    if timm is None:
        if not colon and name in of_torchvision:
            return "torchvision", name
        raise missing_extra(
            f"building {name} (torchvision has no classifier of this name)", "timm", "timm"
        )
    bare = rest if prefix == "timm" else name
    if (colon and prefix != "timm") or timm.is_model(bare):
        return "timm", bare
    if prefix != "timm" and name in of_torchvision:
        return "torchvision", name
    options = timm.list_models() if prefix == "timm" else [*timm.list_models(), *of_torchvision]
    raise ArgumentError(
        f"building {name}: {'timm has' if prefix == 'timm' else 'timm and torchvision have'} no "
        f"model named {bare!r}. {closest(bare.split('.')[0], dict.fromkeys(options))}"
    )


def _from_timm(name: str, pretrained: bool, kwargs: dict[str, Any]) -> NamedModel:
    import timm

    architecture, _, tag = name.partition(".")
    tagged = timm.list_pretrained(f"{architecture}.*") if ":" not in name and tag else ()
    if tag and tagged and name not in tagged:
        raise ArgumentError(
            f"building timm:{name}: {architecture} has no weights tagged {tag!r}. "
            f"{closest(name, tagged)}"
        )
    model = timm.create_model(name, pretrained=pretrained, **kwargs)
    cfg: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    return NamedModel(model, f"timm:{name}", cfg)


def _from_torchvision(name: str, pretrained: bool, kwargs: dict[str, Any]) -> NamedModel:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    model = torchvision.models.get_model(name, weights=weights if pretrained else None, **kwargs)
    preset = weights.transforms()
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    cfg = {
        "architecture": name,
        "input_size": (3, crop, crop),
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
        "interpolation": preset.interpolation.value,
        "crop_pct": crop / resize,
    }
    return NamedModel(model, f"torchvision:{name}", cfg)
