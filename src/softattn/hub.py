"""`save_pretrained`, `from_pretrained`: a classifier as a folder, or a repository of the hub.

Through huggingface_hub's mixin: `model.safetensors`, a `config.json` that builds the model again,
and a model card. Nothing is unpickled. Needs the extra `hub`.
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
from softattn.models import SoftAttentionClassifier, wrap_backbone

__all__ = ["from_pretrained", "save_pretrained"]

_WEIGHTS = "model.safetensors"
_KIND = "softattn.SoftAttentionClassifier"  # the field "model" of a config.json
_INSTEAD = "Save its state_dict instead: torch.save(model.state_dict(), path)."
# Arguments of timm and torchvision that load weights from elsewhere, some by unpickling. The
# weights are in the folder.
_SOURCES = {
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "weights",
    "weights_backbone",
}

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

The arguments that it was built with are in `config.json`. What it was trained on, and what it is
good for, its authors write here.
"""


def save_pretrained(model: SoftAttentionClassifier, folder: str | PathLike[str]) -> None:
    """Save a classifier that was built from a name, for `from_pretrained`.

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

    `hf upload NAME FOLDER` puts the folder on the hub.

    Args:
        model: from `wrap_backbone`, with the name of a backbone.
        folder: made if it isn't there. A README.md in it is kept.

    Raises:
        ArgumentTypeError: the model is no `SoftAttentionClassifier`.
        ModelError: the model was built from a module, or changed since, so that no arguments
            would build it again. The folder is then as it was.
        MissingExtraError: huggingface_hub or safetensors isn't installed.
    """
    doing = "saving a model"
    store = _store_class(doing)
    if not isinstance(model, SoftAttentionClassifier):
        raise ArgumentTypeError(
            f"{doing}: expected a SoftAttentionClassifier, found {type(model).__name__}. {_INSTEAD}"
        )
    arguments = _arguments_of(model, doing)
    cfg = model.pretrained_cfg
    card = {
        "backbone": arguments["backbone"],
        "num_classes": model.num_classes,
        "softattn": version("softattn"),
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        **{key: cfg.get(key, "not known") for key in ("input_size", "mean", "std")},
    }
    config = {"model": _KIND, "softattn": version("softattn"), "arguments": arguments}
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
    """Build a classifier again from what `save_pretrained` saved, in evaluation, on the CPU.

    Example:
        >>> from softattn.hub import from_pretrained
        >>> from_pretrained("no/such-folder", local_files_only=True)
        Traceback (most recent call last):
        softattn.errors.WeightsError: loading no/such-folder: it is no folder that ...

    Args:
        folder_or_repository: a folder, or the name of a repository of the hub.
        revision: a branch, tag or commit of the repository.
        token: for the hub; by default that of `hf auth login`.
        cache_dir: where downloads are kept.
        force_download: download what is there already.
        local_files_only: use what is there and download nothing.

    Returns:
        The model. Its weights have the values that were saved, in float32 where it computes so.

    Raises:
        WeightsError: there is no such model, or its files don't fit one another.
        MissingExtraError: huggingface_hub or safetensors isn't installed, or timm if it is needed.
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
    except (OSError, HFValidationError, HfHubHTTPError, json.JSONDecodeError) as error:
        raise WeightsError(
            f"loading {folder_or_repository}: it is no folder that save_pretrained made, and no "
            f"repository that can be had: {error}"
        ) from error
    model: SoftAttentionClassifier = loaded.model
    return model.eval()


def _store_class(doing: str) -> Any:
    try:
        from huggingface_hub import ModelHubMixin
        from safetensors.torch import save_model
    except ImportError as error:
        raise missing_extra(doing, "huggingface_hub with safetensors", "hub") from error

    # The base of the mixins, since that for PyTorch unpickles where it finds no safetensors.
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
            _load_weights(model, _weights_file(model_id, download), doing)
            return cls(model)

    return Store


def _weights_file(model_id: str, download: dict[str, Any]) -> str:
    from huggingface_hub import hf_hub_download

    if Path(model_id).is_dir():
        return str(Path(model_id) / _WEIGHTS)
    return str(hf_hub_download(model_id, _WEIGHTS, **download))


def _load_weights(model: nn.Module, path: str, doing: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    if not Path(path).exists():
        raise WeightsError(
            f"{doing}: there is no {_WEIGHTS} in it. Weights in other formats aren't read."
        )
    try:
        load_model(model, path, strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{doing}: {_WEIGHTS} doesn't fit its config.json: {error}") from error


def _arguments_of(model: SoftAttentionClassifier, doing: str) -> dict[str, Any]:
    """Return the arguments that build a model again, after checking that they do."""
    if model.config is None:
        raise ModelError(
            f"{doing}: only models that wrap_backbone built from a name can be built again, and "
            "this one was given a module, or a function for its block or head. " + _INSTEAD
        )
    arguments = {key: value for key, value in model.config.items() if key not in _SOURCES}
    try:
        json.dumps(arguments)
    except TypeError as error:
        raise ModelError(
            f"{doing}: the arguments that it was built with can't be written: {error}. {_INSTEAD}"
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
            f"{doing}: the model was changed since it was built: {len(differing)} of its tensors "
            f"would be others ({shown}). {_INSTEAD}"
        )
    return arguments


def _build(arguments: Mapping[str, Any]) -> SoftAttentionClassifier:
    number = arguments["num_classes"]
    # 0 is what reset_classifier(0) leaves, and no number to build with.
    model = wrap_backbone(**{**arguments, "num_classes": number or 1})
    if number == 0:
        model.reset_classifier(0)
    return model


def _rebuild(config: object, doing: str) -> SoftAttentionClassifier:
    """Build the model that a config.json describes, with new weights."""
    arguments = config.get("arguments") if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping) or config.get("model") != _KIND:
        raise WeightsError(
            f"{doing}: found no config.json, or one of something else than a {_KIND} that "
            "softattn.hub.save_pretrained saved, in a folder or repository of this name."
        )
    named = isinstance(arguments, Mapping) and isinstance(arguments.get("backbone"), str)
    if not isinstance(arguments, Mapping) or not named or "num_classes" not in arguments:
        raise WeightsError(f"{doing}: its config.json doesn't say what to build: {arguments!r}.")
    if sources := sorted(_SOURCES & set(arguments)):
        raise WeightsError(
            f"{doing}: its config.json wants weights from elsewhere, by {', '.join(sources)}. "
            "That isn't done: it may run foreign code."
        )
    if "gamma" not in arguments and arguments.get("block") is None:
        # Saved before gamma was an argument, when the attention always started from 0.01.
        arguments = {**arguments, "gamma": 0.01}
    try:
        return _build(arguments)
    except (SoftAttnError, TypeError, ValueError) as error:
        if isinstance(error, ImportError):
            raise
        raise WeightsError(f"{doing}: its config.json builds no model: {error}") from error
