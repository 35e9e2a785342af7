"""Build the network of a recipe: backbone, attention and head."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torchvision
from softattn import (
    SoftAttention,
    SoftAttentionBlock,
    SoftAttentionClassifier,
    SoftAttnError,
    wrap_backbone,
)
from softattn.keras import KerasSoftAttention
from timm.layers.create_attn import get_attn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ham10000.data import HAM10000, Augment, feature_names, find_dataset
from ham10000.errors import RecipeError, closest
from ham10000.models.classifier import (
    LesionClassifier,
    ModelSummary,
    summarize_model,
)
from ham10000.models.fusion import ConcatFusion, Fusion, LateFusion, MetaBlock, MetaNet
from ham10000.models.networks import NETWORKS, MaxHead, Network, ProbeHead, output_shape
from ham10000.models.weights import load_weights
from ham10000.recipe import MAP_LAYERS, AttentionRecipe, ModelRecipe, Recipe

__all__ = [
    "METADATA_COLUMNS",
    "build_attention",
    "build_model",
    "load_backbone",
    "start_uniform",
    "summarize_recipes",
]

METADATA_COLUMNS = ("age", "sex", "localization")
"""Columns of the metadata table that a model with metadata gets, encoded by `metadata_features`."""

_SOURCES = ("timm", "torchvision", "ham10000")

_NUM_IMAGES = 32
"""Number of images whose features are summarized."""

HeadFactory = Callable[[int, int], nn.Module]


def build_model(
    recipe: Recipe,
    num_classes: int | None = None,
    *,
    feature_map: tuple[int, int, int] | None = None,
) -> LesionClassifier:
    """Build the network of a recipe.

    Example:
        >>> import torch
        >>> from ham10000.models import build_model
        >>> from ham10000.recipe import load_recipe
        >>> model = build_model(load_recipe("smoke_sa"))
        >>> model(torch.randn(2, 3, 64, 64)).shape
        torch.Size([2, 7])

    Args:
        recipe: The recipe. Only `model`, `attention`, `data.size`, `data.set` and
            `data.metadata` matter.
        num_classes: Number of classes. Defaults to that of the data set of the recipe.
        feature_map: Shape (C, H, W) of the map that the backbone computes. With it, the backbone is
            not built, and only attention and head of the model can be used.

    Raises:
        RecipeError: The model or its module `at` does not exist, or its weights cannot be loaded.
        MissingDataError: The file with the weights does not exist.
        MissingPackageError: The package with the weights is not installed.
    """
    if num_classes is None:
        num_classes = len(find_dataset(recipe.data.set).classes)
    network = _network(recipe, num_classes, feature_map)
    if not recipe.data.metadata:
        return LesionClassifier(network)
    width = len(feature_names(METADATA_COLUMNS))
    return LesionClassifier(network, _fusion(recipe.model, network, width, num_classes), width)


def _fusion(
    recipe: ModelRecipe, network: SoftAttentionClassifier, width: int, num_classes: int
) -> Fusion:
    channels = network.backbone.feature_map.channels
    if recipe.fusion == "late":
        return LateFusion(width, num_classes)
    if recipe.fusion == "metanet":
        return MetaNet(width, channels)
    fusion: Fusion
    if recipe.fusion == "metablock":
        fusion = MetaBlock(width, channels)
    else:
        network.reset_classifier(0)  # returns the input of the classifier, which follows the fusion
        fusion = ConcatFusion(width, network.head_hidden_size, num_classes)
        _init_head(recipe, fusion)
    _set_momentum(fusion, recipe.norm_momentum)
    return fusion


class _NoBackbone(nn.Module):
    # Has an output of the right shape, which is all that `wrap_backbone` needs.
    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = self.shape
        pooled = F.adaptive_avg_pool2d(x[:, :1], (height, width))
        return pooled.expand(-1, channels, -1, -1)


def summarize_recipes(recipes: Iterable[Recipe]) -> dict[str, ModelSummary]:
    """Build the models of recipes and summarize them before training, by name of the recipe.

    The features are those of images of `data.root` of the recipe or, without it, of random images,
    with a fixed seed.

    Example:
        >>> from ham10000.models import summarize_recipes
        >>> from ham10000.recipe import load_recipe
        >>> found = summarize_recipes([load_recipe("smoke"), load_recipe("smoke_placebo")])
        >>> {name: summary.head_input for name, summary in found.items()}
        {'smoke': [32, 8, 8], 'smoke_placebo': [64, 4, 4]}

    Raises:
        Ham10000Error: A model cannot be built, or the images cannot be read.
    """
    found = {}
    for recipe in recipes:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model = build_model(recipe)
        if recipe.model.frozen:
            model.freeze_backbone()
        found[recipe.name] = summarize_model(model, _some_images(recipe))
    return found


def _some_images(recipe: Recipe) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    data, model = recipe.data, recipe.model
    if data.root is None:
        return torch.randn(_NUM_IMAGES, 3, data.size, data.size, generator=generator)
    images = HAM10000(data.root, size=data.size, info=find_dataset(data.set))
    chosen = torch.randperm(len(images), generator=generator)[:_NUM_IMAGES]
    pixels, _ = images.read(chosen.tolist())
    augment = Augment("none", mean=model.mean, std=model.std)
    return augment(pixels, torch.arange(len(pixels)), epoch=0)


def _network(
    recipe: Recipe, num_classes: int, feature_map: tuple[int, int, int] | None
) -> SoftAttentionClassifier:
    model, attention, size = recipe.model, recipe.attention, recipe.data.size
    own = _authors_network(model.backbone)
    at = model.at if own is None or model.at is not None else list(own.stages)[-1]
    head: str | HeadFactory = model.head
    if model.head == "rest":
        head = _rest(model, attention, own, at, size)
    elif model.head == "max":
        head = partial(MaxHead, drop_rate=model.drop_rate)
    elif model.head == "probe":
        head = partial(ProbeHead, num_queries=model.num_queries, drop_rate=model.drop_rate)
    if feature_map is None:
        backbone = load_backbone(
            model.backbone, at, model.pretrained, model.weights, model.drop_block_rate
        )
    else:
        backbone, at = nn.Sequential(OrderedDict(maps=_NoBackbone(feature_map))), "maps"
    # Before wrapping: a graph that ends inside a norm layer has the momentum as a constant.
    _set_momentum(backbone, model.norm_momentum)
    try:
        network = wrap_backbone(
            backbone,
            num_classes,
            at=at,
            block=_block(model, attention),
            head=head,
            drop_rate=model.drop_rate if isinstance(head, str) else 0.0,
            input_size=size,
        )
    except SoftAttnError as error:
        raise RecipeError(f"building {model.backbone}: {error}") from error
    start_uniform(attention, network.attention, network.backbone.feature_map.size)
    _set_momentum(network.head, model.norm_momentum)
    _init_head(model, network.head)
    return network


def _set_momentum(module: nn.Module, momentum: float | None) -> None:
    if momentum is not None:
        for norm in module.modules():
            if isinstance(norm, _BatchNorm):
                norm.momentum = momentum


def _init_head(recipe: ModelRecipe, head: nn.Module) -> None:
    if recipe.head_init == "keras":
        for module in head.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)


def build_attention(recipe: AttentionRecipe, channels: int) -> nn.Module:
    """Build the module between backbone and head; the identity for layer none.

    With gamma uniform, call `start_uniform` as soon as the size of the feature map is known.

    Example:
        >>> import torch
        >>> from ham10000.models import build_attention
        >>> from ham10000.recipe import AttentionRecipe
        >>> attention = build_attention(AttentionRecipe("placebo", num_maps=4), channels=8)
        >>> features, maps = attention(torch.randn(2, 8, 5, 5), return_maps=True)
        >>> features.shape, bool((maps == 1 / 25).all())
        (torch.Size([2, 8, 5, 5]), True)

    Args:
        recipe: Section `attention` of a recipe.
        channels: Number of channels of the feature map.
    """
    if recipe.layer == "none":
        return nn.Identity()
    if recipe.layer not in MAP_LAYERS:
        factory: Callable[[int], nn.Module] = get_attn(recipe.layer)  # type: ignore[no-untyped-call]
        return factory(channels)
    layer = _map_layer(recipe, channels)
    if recipe.block == "plain":
        return layer
    # SoftAttentionBlock builds only equation 1. That layer is replaced, so it is built on "meta",
    # where it uses neither memory nor random numbers.
    with torch.device("meta"):
        block = SoftAttentionBlock(channels, pool=recipe.pool, drop_rate=recipe.drop_rate)
    block.attention = layer  # type: ignore[assignment]
    return block


def _map_layer(recipe: AttentionRecipe, channels: int) -> SoftAttention | KerasSoftAttention:
    shared: dict[str, Any] = {"aggregate": recipe.aggregate, "concat": recipe.concat}
    if recipe.layer == "keras":
        return KerasSoftAttention(channels, recipe.num_maps, **shared)
    gamma = 1.0 if recipe.gamma == "uniform" else recipe.gamma
    layer = SoftAttention(channels, recipe.num_maps, recipe.kernel_size, gamma=gamma, **shared)
    if recipe.layer == "placebo":
        # Built like soft attention, so that the next random numbers, for the head, are the same.
        for parameter in (layer.weight, layer.bias):
            if parameter is not None:
                nn.init.zeros_(parameter).requires_grad_(False)
    return layer


def start_uniform(recipe: AttentionRecipe, attention: nn.Module, size: tuple[int, int]) -> None:
    """Set gamma to positions / maps, and make the maps almost uniform, if gamma is uniform.

    Before training, the features then pass almost unchanged, as with `softattn.wrap_backbone`.

    Args:
        recipe: Section `attention` of the recipe. No effect unless its gamma is `uniform`.
        attention: The module that `build_attention` built.
        size: Height and width of the feature map.
    """
    if recipe.gamma != "uniform":
        return
    for module in attention.modules():
        if isinstance(module, SoftAttention) and module.gamma is not None:
            module.initial_gamma = size[0] * size[1] / module.num_maps
            nn.init.constant_(module.gamma, module.initial_gamma)
            with torch.no_grad():
                module.weight.mul_(0.01)


def _block(recipe: ModelRecipe, attention: AttentionRecipe) -> Callable[[int], nn.Module]:
    if recipe.activation == "relu":  # only without attention
        return lambda channels: nn.ReLU()
    return partial(build_attention, attention)


def _rest(
    recipe: ModelRecipe,
    attention: AttentionRecipe,
    network: Network | None,
    at: str | None,
    size: int,
) -> HeadFactory:
    """Return the factory of the remaining stages of an authors' network as the head."""
    if network is None or at is None:
        raise RecipeError(
            f'building {recipe.backbone}: model.head "rest" works with the networks of ham10000: '
            f'only. Use "pool" or "flatten", which drop the layers after model.at.'
        )
    attended = output_shape(
        _block(recipe, attention), output_shape(lambda _: network.front(at), (3, size, size))
    )
    pooled = attention.layer != "none" and attention.block == "paper" and attention.pool > 1
    return lambda channels, num_classes: network.rest(at, attended, num_classes, pooled=pooled)


def load_backbone(
    name: str,
    at: str | None,
    pretrained: bool,
    weights: str | None,
    drop_block_rate: float = 0.0,
) -> nn.Module:
    """Build a backbone and load its weights.

    Args:
        name: Model name with its source, as `timm:resnet50`.
        at: Last stage of a `ham10000:` network.
        pretrained: Whether to load the ImageNet weights of timm or torchvision.
        weights: File with a state dict, or name of weights from an installed package.
        drop_block_rate: Rate of timm's DropBlock in the last stages.

    Raises:
        RecipeError: The model does not exist or has no DropBlock, or its weights cannot be loaded.
        MissingDataError: The file does not exist.
        MissingPackageError: The package is not installed.
    """
    network = _authors_network(name)
    if drop_block_rate and not name.startswith("timm:"):
        raise _no_drop_block(name)
    if network is None:
        model = _library_model(name, pretrained, drop_block_rate)
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


def _no_drop_block(name: str) -> RecipeError:
    return RecipeError(
        f"building {name}: it has no DropBlock. Set model.drop_block_rate=0, or choose a backbone "
        "for which timm has it, such as timm:resnet50."
    )


def _library_model(name: str, pretrained: bool, drop_block_rate: float) -> nn.Module:
    source, _, short = name.partition(":")
    if source not in _SOURCES or not short:
        raise RecipeError(
            f"building {name}: a model name starts with its source, as in timm:{short or name}. "
            f"Sources: {', '.join(_SOURCES)}."
        )
    names = timm.list_models() if source == "timm" else torchvision.models.list_models()
    if short.partition(".")[0] not in names:
        raise RecipeError(f"building {name}: {source} has no such model. {closest(short, names)}")
    options: dict[str, Any] = {"drop_block_rate": drop_block_rate} if drop_block_rate else {}
    try:
        if source == "timm":
            model: nn.Module = timm.create_model(short, pretrained=pretrained, **options)
        else:
            model = torchvision.models.get_model(short, weights="DEFAULT" if pretrained else None)
    except Exception as error:
        if isinstance(error, TypeError) and "drop_block_rate" in str(error):
            raise _no_drop_block(name) from error
        if not pretrained:
            raise
        raise RecipeError(
            f"building {name}: its ImageNet weights cannot be loaded ({type(error).__name__}: "
            f"{' '.join(str(error).split())}). Download them elsewhere and pass "
            "model.weights=FILE model.pretrained=false, or train from scratch with "
            "model.pretrained=false."
        ) from error
    return model
