"""Build the network of a recipe: backbone, attention and head."""

from collections.abc import Callable
from functools import partial

import timm
import torch
import torchvision
from softattn import (
    SoftAttention,
    SoftAttentionBlock,
    SoftAttentionClassifier,
    SoftAttnError,
    wrap_backbone,
)
from torch import nn

from ham10000.data import CLASSES, feature_names
from ham10000.errors import RecipeError, closest
from ham10000.models.authors import NETWORKS, Network, output_shape
from ham10000.models.classifier import LesionClassifier, MetadataHead
from ham10000.models.weights import load_weights
from ham10000.recipe import ModelRecipe

__all__ = ["METADATA_COLUMNS", "build_model", "load_backbone"]

METADATA_COLUMNS = ("age", "sex", "localization")
"""Columns of the metadata table that a model with metadata gets, encoded by `metadata_features`."""

_SOURCES = ("timm", "torchvision", "ham10000")

HeadFactory = Callable[[int, int], nn.Module]


def build_model(
    recipe: ModelRecipe,
    num_classes: int = len(CLASSES),
    *,
    size: int = 224,
    metadata: bool = False,
) -> LesionClassifier:
    """Build the network of a recipe.

    Example:
        >>> import torch
        >>> from ham10000.models import build_model
        >>> from ham10000.recipe import ModelRecipe
        >>> recipe = ModelRecipe("timm:test_resnet", attention=True, head="flatten")
        >>> model = build_model(recipe, size=64)
        >>> model(torch.randn(2, 3, 64, 64)).shape
        torch.Size([2, 7])

    Args:
        recipe: Section `model` of a recipe.
        num_classes: Number of classes.
        size: Width and height of the images in pixels; `data.size` of the recipe.
        metadata: Whether the model also gets metadata; `data.metadata` of the recipe.

    Raises:
        RecipeError: The model or its module `at` does not exist, or its weights cannot be loaded.
        MissingDataError: The file with the weights does not exist.
        MissingPackageError: The package with the weights is not installed.
    """
    network = _network(recipe, num_classes, size)
    if not metadata:
        return LesionClassifier(network)
    width = len(feature_names(METADATA_COLUMNS))
    return LesionClassifier(network, MetadataHead(width, num_classes), width)


def _network(recipe: ModelRecipe, num_classes: int, size: int) -> SoftAttentionClassifier:
    own = _authors_network(recipe.backbone)
    at = recipe.at if own is None or recipe.at is not None else list(own.stages)[-1]
    head: str | HeadFactory = recipe.head
    if recipe.head == "rest":
        head = _rest(recipe, own, at, size)
    backbone = load_backbone(recipe.backbone, at, recipe.pretrained, recipe.weights)
    try:
        network = wrap_backbone(
            backbone,
            num_classes,
            at=at,
            block=_block(recipe),
            head=head,
            drop_rate=recipe.drop_rate,
            input_size=size,
        )
    except SoftAttnError as error:
        raise RecipeError(f"building {recipe.backbone}: {error}") from error
    if recipe.attention and recipe.gamma == "uniform":
        _start_uniform(network)
    return network


def _start_uniform(network: SoftAttentionClassifier) -> None:
    # As wrap_backbone does by default: gamma is positions / maps, whose number is known only after
    # building, and the maps are almost uniform.
    height, width = network.backbone.feature_map.size
    for module in network.attention.modules():
        if isinstance(module, SoftAttention) and module.gamma is not None:
            module.initial_gamma = height * width / module.num_maps
            nn.init.constant_(module.gamma, module.initial_gamma)
            with torch.no_grad():
                module.weight.mul_(0.01)


def _block(recipe: ModelRecipe) -> Callable[[int], nn.Module]:
    """Return the factory of the module between backbone and head."""
    if not recipe.attention:
        return lambda channels: nn.ReLU() if recipe.activation == "relu" else nn.Identity()
    gamma = 1.0 if recipe.gamma == "uniform" else recipe.gamma  # set once the network is built
    if recipe.block == "plain":
        return partial(SoftAttention, num_maps=recipe.num_maps, gamma=gamma)
    return partial(
        SoftAttentionBlock,
        num_maps=recipe.num_maps,
        gamma=gamma,
        pool=recipe.pool,
        drop_rate=recipe.block_drop_rate,
    )


def _rest(recipe: ModelRecipe, network: Network | None, at: str | None, size: int) -> HeadFactory:
    """Return the factory of the remaining stages of an authors' network as the head."""
    if network is None or at is None:
        raise RecipeError(
            f'building {recipe.backbone}: model.head "rest" works with the networks of ham10000: '
            f'only. Use "pool" or "flatten", which drop the layers after model.at.'
        )
    attended = output_shape(
        _block(recipe), output_shape(lambda _: network.front(at), (3, size, size))
    )
    pooled = recipe.attention and recipe.block == "paper" and recipe.pool > 1
    return lambda channels, num_classes: network.rest(at, attended, num_classes, pooled=pooled)


def load_backbone(name: str, at: str | None, pretrained: bool, weights: str | None) -> nn.Module:
    """Build a backbone and load its weights.

    Args:
        name: Model name with its source, as `timm:resnet50`.
        at: Last stage of a `ham10000:` network.
        pretrained: Whether to load the ImageNet weights of timm or torchvision.
        weights: File with a state dict, or name of weights from an installed package.

    Raises:
        RecipeError: The model does not exist, or its weights cannot be loaded.
        MissingDataError: The file does not exist.
        MissingPackageError: The package is not installed.
    """
    network = _authors_network(name)
    if network is None:
        model = _library_model(name, pretrained)
    elif pretrained or at is None:
        raise RecipeError(
            f"building {name}: there are no published weights. Set model.pretrained=false."
        )
    else:
        model = network.front(at)
    if weights is not None:
        load_weights(model, weights, name)
    return model


def _authors_network(name: str) -> Network | None:
    source, _, short = name.partition(":")
    if source != "ham10000":
        return None
    if short not in NETWORKS:
        raise RecipeError(f"building {name}: there is no such network. {closest(short, NETWORKS)}")
    return NETWORKS[short]


def _library_model(name: str, pretrained: bool) -> nn.Module:
    source, _, short = name.partition(":")
    if source not in _SOURCES or not short:
        raise RecipeError(
            f"building {name}: a model name starts with its source, as in timm:{short or name}. "
            f"Sources: {', '.join(_SOURCES)}."
        )
    names = timm.list_models() if source == "timm" else torchvision.models.list_models()
    if short.partition(".")[0] not in names:
        raise RecipeError(f"building {name}: {source} has no such model. {closest(short, names)}")
    try:
        if source == "timm":
            model: nn.Module = timm.create_model(short, pretrained=pretrained)
        else:
            model = torchvision.models.get_model(short, weights="DEFAULT" if pretrained else None)
    except Exception as error:
        if not pretrained:
            raise
        raise RecipeError(
            f"building {name}: its ImageNet weights cannot be loaded ({type(error).__name__}: "
            f"{' '.join(str(error).split())}). Download them elsewhere and pass "
            "model.weights=FILE model.pretrained=false, or train from scratch with "
            "model.pretrained=false."
        ) from error
    return model
