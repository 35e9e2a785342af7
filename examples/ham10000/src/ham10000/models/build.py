"""`build_model`: from a recipe's fields to a network."""

from collections.abc import Callable
from functools import partial

from softattn import (
    SoftAttention,
    SoftAttentionBlock,
    SoftAttentionClassifier,
    SoftAttnError,
    wrap_backbone,
)
from torch import nn

from ham10000.data import CLASSES, feature_names
from ham10000.errors import RecipeError
from ham10000.models.backbones import load_backbone, own_network
from ham10000.models.classifier import LesionClassifier, MetadataHead
from ham10000.models.stages import Network, output_shape
from ham10000.recipe import ModelRecipe

__all__ = ["METADATA_COLUMNS", "build_model"]

METADATA_COLUMNS = ("age", "sex", "localization")
"""What a model with metadata gets beside the image, through `metadata_features`."""

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
        recipe: the part `model` of a recipe.
        num_classes: how many scores are wanted.
        size: of the images, in pixels; the recipe's `data.size`.
        metadata: whether there is metadata beside the image; the recipe's `data.metadata`.

    Raises:
        RecipeError: there is no such model, no such place in it, or its weights can't be had.
        MissingDataError: the file of the weights is not there.
        MissingPackageError: the package of the weights is not installed.
    """
    network = _network(recipe, num_classes, size)
    if not metadata:
        return LesionClassifier(network)
    width = len(feature_names(METADATA_COLUMNS))
    return LesionClassifier(network, MetadataHead(width, num_classes), width)


def _network(recipe: ModelRecipe, num_classes: int, size: int) -> SoftAttentionClassifier:
    own = own_network(recipe.backbone)
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
    """Set gamma to positions / maps, which only a network that was built knows."""
    height, width = network.backbone.feature_map.size
    for module in network.attention.modules():
        if isinstance(module, SoftAttention) and module.gamma is not None:
            module.initial_gamma = height * width / module.num_maps
            nn.init.constant_(module.gamma, module.initial_gamma)


def _block(recipe: ModelRecipe) -> Callable[[int], nn.Module]:
    """Return what makes the module between backbone and head, from channels."""
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
    """Return what builds the network's own remainder on the attended map."""
    if network is None or at is None:
        raise RecipeError(
            f'building {recipe.backbone}: model.head is "rest", which only the networks of '
            f'ham10000: have. Use "pool" or "flatten", with which what comes after is dropped.'
        )
    attended = output_shape(
        _block(recipe), output_shape(lambda _: network.front(at), (3, size, size))
    )
    pooled = recipe.attention and recipe.block == "paper" and recipe.pool > 1
    return lambda channels, num_classes: network.rest(at, attended, num_classes, pooled=pooled)
