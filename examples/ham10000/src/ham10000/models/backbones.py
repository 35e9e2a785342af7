"""Backbones by name: timm's, torchvision's and the authors' own, with their weights."""

import timm
import torchvision
from torch import nn

from ham10000.errors import RecipeError, closest
from ham10000.models.networks import NETWORKS
from ham10000.models.stages import Network
from ham10000.models.weights import load_weights

__all__ = ["load_backbone", "own_network"]

_SOURCES = ("timm", "torchvision", "ham10000")


def own_network(name: str) -> Network | None:
    """Return the network behind a name that starts with `ham10000:`, and nothing for others.

    Raises:
        RecipeError: there is no such network.
    """
    source, _, own = name.partition(":")
    if source != "ham10000":
        return None
    if own not in NETWORKS:
        raise RecipeError(f"building {name}: there is no such network. {closest(own, NETWORKS)}")
    return NETWORKS[own]


def load_backbone(name: str, at: str | None, pretrained: bool, weights: str | None) -> nn.Module:
    """Build a backbone, and give it the weights that are asked for.

    Args:
        name: with its source in front, as `timm:resnet50`.
        at: where a network of ours ends.
        pretrained: load the library's weights, which it downloads.
        weights: a file, or the name of weights that come with a package.

    Raises:
        RecipeError: there is no such model, or its weights can't be had.
        MissingDataError: the file is not there.
        MissingPackageError: the package is not installed.
    """
    network = own_network(name)
    if network is None:
        model = _published(name, pretrained)
    elif pretrained or at is None:
        raise RecipeError(
            f"building {name}: nobody published weights of it. Set model.pretrained=false."
        )
    else:
        model = network.front(at)
    if weights is not None:
        load_weights(model, weights, name)
    return model


def _published(name: str, pretrained: bool) -> nn.Module:
    source, _, short = name.partition(":")
    if source not in _SOURCES or not short:
        raise RecipeError(
            f"building {name}: expected the library in front of the model's name, as in "
            f"timm:{short or name}. There are: {', '.join(_SOURCES)}."
        )
    names = timm.list_models() if source == "timm" else torchvision.models.list_models()
    if short.partition(".")[0] not in names:
        raise RecipeError(f"building {name}: {source} has no such model. {closest(short, names)}")
    try:
        if source == "timm":
            model: nn.Module = timm.create_model(short, pretrained=pretrained)
        else:
            weights = "DEFAULT" if pretrained else None
            model = torchvision.models.get_model(short, weights=weights)
    except Exception as error:
        if not pretrained:
            raise
        raise RecipeError(
            f"building {name}: its ImageNet weights can't be had ({type(error).__name__}: "
            f"{' '.join(str(error).split())}). Download them elsewhere and name the file with "
            "model.weights=FILE model.pretrained=false, or start from nothing with "
            "model.pretrained=false."
        ) from error
    return model
