"""The arguments that build a classifier again: taken from a model, checked, and built from."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from softattn.classifier import SoftAttentionClassifier
from softattn.errors import ModelError, SoftAttnError, WeightsError
from softattn.wrap import wrap_backbone

__all__ = ["INSTEAD", "KIND", "arguments_of", "rebuild"]

KIND = "softattn.SoftAttentionClassifier"
"""What a config.json says that it is for."""

INSTEAD = "Save its state_dict instead: torch.save(model.state_dict(), path)."

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


def arguments_of(model: SoftAttentionClassifier, doing: str) -> dict[str, Any]:
    """Give the arguments that build a model again, which is tried here.

    Example:
        >>> from softattn import wrap_backbone
        >>> from softattn.rebuild import arguments_of
        >>> model = wrap_backbone("torchvision:resnet18", num_classes=7)
        >>> arguments_of(model, "saving a model")["backbone"]
        'torchvision:resnet18'

    Raises:
        ModelError: there are none, or the model was changed since it was built with them.
    """
    if model.config is None:
        raise ModelError(
            f"{doing}: only models that wrap_backbone built from a name can be built again, and "
            "this one was given a module, or a function for its block or head. " + INSTEAD
        )
    arguments = {key: value for key, value in model.config.items() if key not in _SOURCES}
    try:
        json.dumps(arguments)
    except TypeError as error:
        raise ModelError(
            f"{doing}: the arguments that it was built with can't be written: {error}. {INSTEAD}"
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
            f"would be others ({shown}). {INSTEAD}"
        )
    return arguments


def _build(arguments: Mapping[str, Any]) -> SoftAttentionClassifier:
    number = arguments["num_classes"]
    # 0 is what reset_classifier(0) leaves, and no number to build with.
    model = wrap_backbone(**{**arguments, "num_classes": number or 1})
    if number == 0:
        model.reset_classifier(0)
    return model


def rebuild(config: object, doing: str) -> SoftAttentionClassifier:
    """Build the model that a config.json is for, with other weights.

    Raises:
        WeightsError: it is for no such model, or builds none, or wants weights from elsewhere.
    """
    arguments = config.get("arguments") if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping) or config.get("model") != KIND:
        raise WeightsError(
            f"{doing}: found no config.json, or one of something else than a {KIND} that "
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
