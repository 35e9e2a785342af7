"""Build timm, torchvision and transformers models from their names."""

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torchvision
from torch import nn

from softattn._validation import closest, missing_extra
from softattn.errors import (
    ArgumentError,
    ArgumentTypeError,
    ModelError,
    SoftAttnError,
    WeightsError,
)

__all__ = ["NamedModel", "is_model_type", "load_model", "preprocessing"]

# Fields of a configuration that describe weights, classes or the library.
_NON_ARCHITECTURE_FIELDS = {
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "model_type",
    "problem_type",
    "torch_dtype",
    "transformers_version",
}

# Names of PIL's interpolation modes by number.
_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class NamedModel:
    """A model that was built from a name."""

    model: nn.Module
    """The model."""
    name: str
    """Name with the prefix of its library, as in `timm:resnet50`."""
    pretrained_cfg: Mapping[str, Any]
    """Preprocessing with timm's keys: input_size, mean, std, interpolation, crop_pct."""
    kwargs: Mapping[str, Any]
    """Keyword arguments with which `load_model` builds a model of this architecture."""


def load_model(
    name: str, pretrained: bool = False, kwargs: Mapping[str, Any] | None = None
) -> NamedModel:
    """Build a timm, torchvision or transformers model from its name.

    Example:
        >>> from softattn.models import load_model
        >>> load_model("torchvision:resnet18").name
        'torchvision:resnet18'
        >>> load_model("resnet18").name
        'timm:resnet18'

    Args:
        name: Name of a timm model, with or without a tag, or of a torchvision classifier. timm
            takes precedence if both libraries have the name; the prefixes `timm:` and
            `torchvision:` select one. `transformers:` is followed by a model type of transformers
            (`transformers:vit`), or by a folder or a repository on the Hugging Face hub. Other
            prefixes (`hf-hub:`, `local-dir:`) are passed to timm.
        pretrained: Load pretrained weights; torchvision's `DEFAULT` ones. Model types of
            transformers have none. Repositories on the hub are accessed only with `pretrained`.
        kwargs: Keyword arguments of the library's factory function; for transformers, fields of
            the configuration.

    Raises:
        ArgumentError: No library has an image model of this name, it has no such weights, or its
            configuration rejects a value of `kwargs`.
        ArgumentTypeError: The model does not accept these keyword arguments.
        MissingExtraError: timm or transformers is needed and not installed.
        ModelError: The model of transformers does not take images, or needs a download.
        WeightsError: The folder or repository of transformers cannot be read.
    """
    library, name = _resolve(name)
    if library != "transformers" and "weights" in (kwargs or {}):
        remedies = {
            "torchvision": "pretrained=True for its default weights, or instead of the name the "
            f"model torchvision.models.get_model({name!r}, weights=...)",
            "timm": "pretrained=True, with the tag of the weights after the name if they are not "
            "the default, as in 'resnet50.a1_in1k'. torchvision's models have names such as "
            "'torchvision:resnet50'",
        }
        raise ArgumentTypeError(
            f"building {library}:{name}: weights= is an argument of torchvision's functions only. "
            f"Pass {remedies[library]}."
        )
    try:
        if library == "transformers":
            return _from_transformers(name, pretrained, dict(kwargs or {}))
        if library == "timm":
            return _from_timm(name, pretrained, dict(kwargs or {}))
        return _from_torchvision(name, pretrained, dict(kwargs or {}))
    except SoftAttnError:
        raise
    except TypeError as error:
        raise ArgumentTypeError(
            f"building {library}:{name} with {dict(kwargs or {})}: {error}."
        ) from error
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        ValueError,
    ) as error:
        if not kwargs:
            raise
        raise ArgumentError(
            f"building {library}:{name} with {dict(kwargs)}: the library raises "
            f"{type(error).__name__}: {error}."
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
    if (rest or name) in torchvision.models.list_models(module=torchvision.models.video):
        raise ArgumentError(
            f"building {name}: it is a model of videos, and only models of images are supported. "
            f"Build it with torchvision.models.get_model({rest or name!r}), and use "
            "insert_attention."
        )
    if prefix == "torchvision":
        if rest in of_torchvision:
            return "torchvision", rest
        raise ArgumentError(
            f"building {name}: torchvision has no classifier named {rest!r}. "
            f"{closest(rest, of_torchvision)}"
        )
    if prefix == "transformers":
        return prefix, rest
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
    return NamedModel(model, f"timm:{name}", cfg, kwargs)


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
    return NamedModel(model, f"torchvision:{name}", cfg, kwargs)


def _from_transformers(name: str, pretrained: bool, kwargs: dict[str, Any]) -> NamedModel:
    doing = f"building transformers:{name}"
    try:
        import transformers
    except ImportError as error:
        raise missing_extra(doing, "transformers", "transformers") from error
    is_type = name in transformers.CONFIG_MAPPING
    if is_type and pretrained:
        raise ArgumentError(
            f"{doing} with pretrained=True: a model type has no weights. Pass the name of a "
            "repository on the Hugging Face hub, or the path of a folder."
        )
    if not is_type and not pretrained and not Path(name).is_dir():
        raise ArgumentError(
            f"{doing}: transformers has no model type named {name!r}, and there is no such folder. "
            "Repositories on the Hugging Face hub are only accessed with pretrained=True. "
            f"{closest(name, transformers.CONFIG_MAPPING)}"
        )
    source = "" if is_type else name
    try:
        config = _config(name, is_type, kwargs, doing)
        kind = _class(config, doing)
        # trust_remote_code is never set: code in a repository is not run.
        model = kind.from_pretrained(source, config=config) if pretrained else kind(config)
    except (SoftAttnError, TypeError):
        raise
    except (OSError, ValueError) as error:
        raise WeightsError(f"{doing}: {error}") from error
    except Exception as error:  # such as a missing package, or sizes that do not match
        found = " ".join(str(error).split())
        raise ModelError(f"{doing}: it raises {type(error).__name__}: {found}") from error
    fields = kwargs if is_type else _fields(config)
    cfg = _preprocessing(config, source)
    return NamedModel(model.eval(), f"transformers:{config.model_type}", cfg, fields)


def is_model_type(name: str) -> bool:
    """Return whether a name is a model type, which transformers builds without reading any file.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    try:
        from transformers import CONFIG_MAPPING
    except ImportError as error:
        raise missing_extra(
            f"building transformers:{name}", "transformers", "transformers"
        ) from error
    return name in CONFIG_MAPPING


def _fields(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration that differ from the defaults of its model type."""
    fields = config.to_diff_dict()
    return {key: value for key, value in fields.items() if key not in _NON_ARCHITECTURE_FIELDS}


def _config(name: str, is_type: bool, kwargs: dict[str, Any], doing: str) -> Any:
    """Return the configuration of a model, after checking that it has all given fields."""
    from transformers import AutoConfig

    def read(**fields: Any) -> Any:
        if is_type:
            return AutoConfig.for_model(name, **fields)
        # The caller names the model. Its configuration is JSON, and no code of it runs.
        return AutoConfig.from_pretrained(name, trust_remote_code=False, **fields)  # nosec B615

    config = read()
    fields = [*config.to_dict(), *config.attribute_map, "attn_implementation"]
    for field in kwargs:
        if field not in fields:
            raise TypeError(
                f"{type(config).__name__} has no field {field!r}. "
                + closest(field, fields).rstrip(".")
            )
    try:
        return read(**kwargs) if kwargs else config
    except Exception as error:  # configurations raise error classes of their own
        raise ArgumentError(
            f"{doing}: {type(config).__name__} rejects the values of {', '.join(kwargs)}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _class(config: Any, doing: str) -> Any:
    """Return the model class for a configuration, preferably an image classifier."""
    from transformers import (
        MODEL_FOR_BACKBONE_MAPPING,
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        MODEL_MAPPING,
    )

    mappings = (MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING)
    kinds = next((mapping[type(config)] for mapping in mappings if type(config) in mapping), None)
    kind = kinds[0] if isinstance(kinds, tuple) else kinds
    if kind is None:
        raise ModelError(
            f"{doing}: transformers builds no image classifier, backbone or plain model from a "
            f"{type(config).__name__}. Pass a module instead of a name."
        )
    if kind.main_input_name != "pixel_values":
        tower = getattr(getattr(config, "vision_config", None), "model_type", None)
        raise ModelError(
            f"{doing}: the main input of {kind.__name__} is {kind.main_input_name}, not images."
            + (f" Its part for images is transformers:{tower}." if tower else "")
        )
    if _loads_backbone(config.to_dict()):
        raise ModelError(
            f"{doing}: its configuration loads the weights of another model over the network. "
            "Pass use_pretrained_backbone=False, or a module instead of a name."
        )
    return kind


def _loads_backbone(fields: Mapping[str, Any]) -> bool:
    """Return whether a configuration, or one nested in it, loads a pretrained backbone."""
    inner = (value for value in fields.values() if isinstance(value, Mapping))
    return bool(fields.get("use_pretrained_backbone")) or any(map(_loads_backbone, inner))


def preprocessing(model: nn.Module) -> Mapping[str, Any] | None:
    """Return the preprocessing of a transformers model with timm's keys; `None` for others.

    Example:
        >>> import torch
        >>> from softattn.models.zoo import preprocessing
        >>> preprocessing(torch.nn.ReLU()) is None
        True
    """
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return None
    return _preprocessing(model.config, "")


def _preprocessing(config: Any, source: str) -> Mapping[str, Any]:
    """Return the preprocessing that a configuration and its image processor declare.

    Args:
        config: Configuration of the model.
        source: Repository or folder, or "" for the defaults of the image processor.
    """
    processor = _image_processor(config, source)
    vision = getattr(config, "vision_config", config)
    crops = getattr(processor, "do_center_crop", False)
    resized = _side(getattr(processor, "size", None))
    cropped = _side(getattr(processor, "crop_size", None)) if crops else resized
    size = getattr(vision, "image_size", None) or cropped
    cfg: dict[str, Any] = {"architecture": config.model_type}
    if size:
        height, width = size if isinstance(size, tuple | list) else (size, size)
        cfg["input_size"] = (getattr(vision, "num_channels", 3), height, width)
    if getattr(processor, "image_mean", None) and getattr(processor, "image_std", None):
        cfg |= {"mean": tuple(processor.image_mean), "std": tuple(processor.image_std)}
        resample = getattr(processor, "resample", 2)
        resample = getattr(resample, "value", resample)  # of a number or a name
        cfg["interpolation"] = _INTERPOLATIONS.get(resample, str(resample))
        fraction = cropped / resized if cropped and resized else 1.0
        cfg["crop_pct"] = getattr(processor, "crop_pct", None) or fraction
    return cfg


def _image_processor(config: Any, source: str) -> Any:
    """Return the image processor of a model, or `None` if there is none or it cannot be built."""
    from transformers import IMAGE_PROCESSOR_MAPPING, AutoImageProcessor

    # One is built from defaults, or read from a file that may be missing.
    with suppress(Exception):
        if source:
            # Likewise JSON of the model that the caller named.
            return AutoImageProcessor.from_pretrained(  # nosec B615
                source, trust_remote_code=False
            )
    if type(config) in IMAGE_PROCESSOR_MAPPING:
        known = IMAGE_PROCESSOR_MAPPING[type(config)]
        kinds = list(known.values()) if isinstance(known, Mapping) else list(known)
        # The last one needs torchvision, the others PIL.
        for kind in reversed(kinds):
            with suppress(Exception):
                return kind()
    return None


def _side(size: Any) -> int | None:
    """Return the shorter side of a size, as image processors write it."""
    sides = [size] if isinstance(size, int) else dict(size or {}).values()
    return min((side for side in sides if side), default=None)
