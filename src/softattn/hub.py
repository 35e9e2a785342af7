"""Save classifiers to folders, and load them from folders and Hugging Face repositories.

A folder holds `model.safetensors`, a `config.json` from which the model is built again, and a
model card. Nothing is unpickled. Needs the extra `hub`.
"""

import json
from collections.abc import Mapping
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from softattn._validation import missing_extra
from softattn.errors import ArgumentTypeError, ModelError, SoftAttnError, WeightsError
from softattn.models import (
    SoftAttentionClassifier,
    is_model_type,
    pack_block,
    unpack_block,
    wrap_backbone,
)

__all__ = ["from_pretrained", "save_pretrained"]

_WEIGHTS = "model.safetensors"
_KIND = "softattn.SoftAttentionClassifier"  # the field "model" of a config.json
_SAVE_STATE_DICT = "Save its state_dict instead: torch.save(model.state_dict(), path)."
_LIBRARY_NAMES = "timm:, torchvision: or transformers: (model types)"
# Arguments of the libraries that load weights from other places, some by unpickling. The
# weights are in the folder.
_SOURCES = {
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "weights",
    "weights_backbone",
    # Of transformers: models and kernels that are downloaded.
    "attn_implementation",
    "auto_map",
    "backbone_config",
    "quantization_config",
    "use_pretrained_backbone",
    "use_timm_backbone",
}
# Fields of timm's configuration that are stored: preprocessing, and names of the classes.
_PREPROCESSING = (
    "input_size",
    "mean",
    "std",
    "interpolation",
    "crop_pct",
    "crop_mode",
    "label_names",
    "label_descriptions",
)

_CARD = """---
{{ card_data }}
---

# {{ backbone }} with Soft-Attention, {{ num_classes }} classes

`{{ backbone }}` with [Soft-Attention](https://arxiv.org/abs/2105.03358) on its last feature map,
built and saved with softattn {{ softattn }}.

```python
from softattn.hub import from_pretrained

model = from_pretrained("path/or/repository")
scores, maps = model(images, return_maps=True)
```

| | |
| --- | --- |
| input | {{ input_size }} |
| mean | {{ mean }} |
| std | {{ std }} |
| parameters | {{ parameters }} |

`config.json` holds the arguments that the model was built with. Describe here what it was trained
on, and what it should and should not be used for.
"""


def save_pretrained(model: SoftAttentionClassifier, folder: str | PathLike[str]) -> None:
    """Save a classifier to a folder, for `from_pretrained`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from softattn import wrap_backbone
        >>> from softattn.hub import from_pretrained, save_pretrained
        >>> model = wrap_backbone("torchvision:resnet18", num_classes=7)
        >>> folder = tempfile.mkdtemp()
        >>> save_pretrained(model, folder)
        >>> sorted(path.name for path in Path(folder).iterdir())
        ['README.md', 'config.json', 'model.safetensors']
        >>> from_pretrained(folder).num_classes
        7

    `hf upload NAME FOLDER` uploads the folder to the hub.

    Args:
        model: A classifier that `wrap_backbone` built from the name of a backbone.
        folder: Created if needed. An existing README.md in it is kept.

    Raises:
        ArgumentTypeError: The model is not a `SoftAttentionClassifier`.
        ModelError: The model was built from a module, or changed since it was built, so that it
            cannot be built again from arguments. Nothing is written.
        MissingExtraError: huggingface_hub or safetensors is not installed.
    """
    doing = "saving a model"
    store = _store_class(doing)
    if not isinstance(model, SoftAttentionClassifier):
        raise ArgumentTypeError(
            f"{doing}: expected a SoftAttentionClassifier, found {type(model).__name__}. "
            f"{_SAVE_STATE_DICT}"
        )
    arguments = _arguments_of(model, doing)
    cfg = model.pretrained_cfg
    card = {
        "backbone": arguments["backbone"],
        "num_classes": model.num_classes,
        "softattn": version("softattn"),
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        **{key: cfg.get(key, "unknown") for key in ("input_size", "mean", "std")},
    }
    config = {"model": _KIND, "softattn": version("softattn"), "arguments": arguments}
    # Other weights of an architecture can need other preprocessing than its default.
    config["preprocessing"] = {key: cfg[key] for key in _PREPROCESSING if key in cfg}
    store(model).save_pretrained(folder, config=config, model_card_kwargs=card)


def from_pretrained(
    folder_or_repository: str | PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | PathLike[str] | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> SoftAttentionClassifier:
    """Load a classifier that `save_pretrained` saved, in eval mode and on the CPU.

    Example:
        >>> from softattn.hub import from_pretrained
        >>> from_pretrained("no/such-folder", local_files_only=True)
        Traceback (most recent call last):
        softattn.errors.WeightsError: loading no/such-folder: not found as a folder ...

    Args:
        folder_or_repository: A folder, or the name of a repository on the hub.
        revision: Branch, tag or commit of the repository.
        token: Access token for the hub; by default that of `hf auth login`.
        cache_dir: Folder for downloads.
        force_download: Download files that are in the cache already.
        local_files_only: Use only files that are in the cache; download nothing.

    Returns:
        The model, with the saved weights in the dtype that the model is built with (float32).

    Raises:
        WeightsError: There is no such model, or its files do not match each other.
        MissingExtraError: huggingface_hub or safetensors is not installed, or timm if needed.
    """
    store = _store_class("loading a model")
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        loaded = store.from_pretrained(
            folder_or_repository,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
    except (
        OSError,
        HFValidationError,
        HfHubHTTPError,
        json.JSONDecodeError,
        UnicodeDecodeError,
        RecursionError,  # of a config.json that is nested too deeply
    ) as error:
        raise WeightsError(
            f"loading {folder_or_repository}: not found as a folder that save_pretrained wrote, "
            f"and not available as a repository: {error}"
        ) from error
    model: SoftAttentionClassifier = loaded.model
    return model.eval()


def _store_class(doing: str) -> Any:
    try:
        from huggingface_hub import ModelHubMixin
        from safetensors.torch import save_model
    except ImportError as error:
        raise missing_extra(doing, "huggingface_hub with safetensors", "hub") from error

    # Not the mixin for PyTorch, which unpickles weights if there are no safetensors.
    class Store(
        ModelHubMixin,
        library_name="softattn",
        paper_url="https://arxiv.org/abs/2105.03358",
        pipeline_tag="image-classification",
        tags=["softattn", "soft-attention"],
        model_card_template=_CARD,
    ):
        def __init__(self, model: nn.Module) -> None:
            self.model = model

        def _save_pretrained(self, save_directory: Path) -> None:
            save_model(self.model, str(save_directory / _WEIGHTS))

        @classmethod
        def _from_pretrained(
            cls, *, model_id: str, config: dict[str, Any] | None = None, **download: Any
        ) -> "Store":
            doing = f"loading {model_id}"
            model = _rebuild(config, doing)
            model.pretrained_cfg.update(_preprocessing(config))
            _load_weights(model, _weights_file(model_id, download), doing)
            return cls(model)

    return Store


def _weights_file(model_id: str, download: dict[str, Any]) -> str:
    from huggingface_hub import hf_hub_download

    if Path(model_id).is_dir():
        return str(Path(model_id) / _WEIGHTS)
    # `download` has the revision that the caller chose. The file is safetensors: data, no code.
    path: str = hf_hub_download(model_id, _WEIGHTS, **download)  # nosec B615
    return path


def _load_weights(model: nn.Module, path: str, doing: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    if not Path(path).exists():
        raise WeightsError(
            f"{doing}: it contains no {_WEIGHTS}. Weights in other formats are not read."
        )
    try:
        load_model(model, path, strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{doing}: {_WEIGHTS} does not match config.json: {error}") from error


def _arguments_of(model: SoftAttentionClassifier, doing: str) -> dict[str, Any]:
    """Return the arguments that build a model again, after checking that they do."""
    if model.wrap_arguments is None:
        raise ModelError(
            f"{doing}: only models that wrap_backbone built from names can be built again, and "
            f"this one was given a module, or a function as block or head. {_SAVE_STATE_DICT}"
        )
    arguments = {key: value for key, value in model.wrap_arguments.items() if key not in _SOURCES}
    arguments["block"] = pack_block(arguments["block"])
    if not _is_library_name(arguments["backbone"]):
        raise ModelError(
            f"{doing}: the backbone was built from {arguments['backbone']!r}, and only names of "
            f"{_LIBRARY_NAMES} can be built again without other files. {_SAVE_STATE_DICT}"
        )
    if sources := _sources(arguments):
        raise ModelError(
            f"{doing}: {', '.join(sources)} can refer to other files or to the network, so "
            f"the model cannot be rebuilt from its arguments. {_SAVE_STATE_DICT}"
        )
    try:
        json.dumps(arguments)
    except TypeError as error:
        raise ModelError(
            f"{doing}: its arguments cannot be written as JSON: {error}. {_SAVE_STATE_DICT}"
        ) from error
    with torch.random.fork_rng(devices=[]):
        again = _build(arguments)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (model, again)]
    differing = [
        key for key in {**shapes[0], **shapes[1]} if shapes[0].get(key) != shapes[1].get(key)
    ]
    if differing:
        shown = ", ".join(differing[:3]) + (", ..." if len(differing) > 3 else "")
        raise ModelError(
            f"{doing}: the model was changed after it was built: {len(differing)} of its tensors "
            f"differ in name or shape ({shown}). {_SAVE_STATE_DICT}"
        )
    return arguments


def _is_library_name(name: str) -> bool:
    """Return whether a backbone's name selects a function of a library, as in `timm:resnet50`.

    With other prefixes (`hf-hub:`, `local-dir:`), timm reads a configuration from the network or
    from a folder, even if no weights are loaded, and so does transformers with other names than
    those of model types.
    """
    library, _, rest = name.partition(":")
    if library == "transformers":
        return is_model_type(rest)
    return library in ("timm", "torchvision") and ":" not in rest


def _preprocessing(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the stored preprocessing, which files of earlier versions lack."""
    stored = (config or {}).get("preprocessing")
    stored = stored if isinstance(stored, Mapping) else {}
    known = {key: stored[key] for key in _PREPROCESSING if key in stored}
    return {key: tuple(x) if isinstance(x, list) else x for key, x in known.items()}


def _sources(arguments: Mapping[str, Any]) -> list[str]:
    """Return names of arguments that can refer to files outside the folder, or to the network."""
    names = _SOURCES & set(arguments)
    if str(arguments["backbone"]).startswith("transformers:"):
        # Fields of a configuration, also nested, can hold names of repositories.
        names |= {key for key, value in arguments.items() if key != "backbone" and _refers(value)}
    return sorted(names)


def _refers(value: object) -> bool:
    if isinstance(value, Mapping):
        return bool(_SOURCES & set(value)) or any(map(_refers, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_refers, value))
    return isinstance(value, str) and any(sign in value for sign in "/\\:")


def _found(config: object) -> str:
    if not isinstance(config, Mapping):
        return "no config.json"
    return f"one with model={config['model']!r}" if "model" in config else "one without model"


def _build(arguments: Mapping[str, Any]) -> SoftAttentionClassifier:
    number = arguments["num_classes"]
    # reset_classifier(0) leaves 0, which wrap_backbone does not accept.
    block = unpack_block(arguments.get("block"))
    model = wrap_backbone(**{**arguments, "num_classes": number or 1, "block": block})
    if number == 0:
        model.reset_classifier(0)
    return model


def _rebuild(config: object, doing: str) -> SoftAttentionClassifier:
    """Build the model that a config.json describes, with new weights."""
    arguments = config.get("arguments") if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping) or config.get("model") != _KIND:
        raise WeightsError(
            f"{doing}: expected a folder or repository with the config.json of a {_KIND}, "
            f"which softattn.hub.save_pretrained writes, found {_found(config)}."
        )
    named = isinstance(arguments, Mapping) and isinstance(arguments.get("backbone"), str)
    if not isinstance(arguments, Mapping) or not named or "num_classes" not in arguments:
        raise WeightsError(
            f"{doing}: expected backbone and num_classes in the arguments of config.json, found "
            f"{arguments!r}."
        )
    if not _is_library_name(arguments["backbone"]):
        raise WeightsError(
            f"{doing}: expected a backbone of {_LIBRARY_NAMES} in config.json, found "
            f"{arguments['backbone']!r}. Other names are refused, since they can refer to the "
            "network or to other folders."
        )
    if sources := _sources(arguments):
        raise WeightsError(
            f"{doing}: config.json refers to weights outside the folder, with "
            f"{', '.join(sources)}. This is refused, since loading them can run arbitrary code."
        )
    if "gamma" not in arguments and arguments.get("block") is None:
        # Written before gamma was an argument, when its initial value was always 0.01.
        arguments = {**arguments, "gamma": 0.01}
    try:
        return _build(arguments)
    except (SoftAttnError, TypeError, ValueError) as error:
        if isinstance(error, ImportError):
            raise
        raise WeightsError(f"{doing}: cannot build the model of config.json: {error}") from error
