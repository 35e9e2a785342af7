"""wrap_backbone: attention on the last feature map of an image model, and a new head."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from softattn._validation import (
    check_finite,
    check_fraction,
    check_int,
    closest,
    describe,
    parse_input_size,
)
from softattn.attention import Block, SoftAttention, SoftAttentionBlock, attention_factory
from softattn.errors import ArgumentError, ArgumentTypeError, ModelError
from softattn.features import (
    FeatureMap,
    dry_run,
    plan_backbone,
    random_images,
)
from softattn.keras import KerasSoftAttention
from softattn.models.classifier import (
    ClassifierHead,
    HeadFactory,
    SoftAttentionClassifier,
    check_head,
)
from softattn.models.zoo import load_model, preprocessing
from softattn.ops import device_and_dtype, outside_inference_mode

__all__ = ["pack_block", "unpack_block", "wrap_backbone"]

Gamma = float | Literal["uniform"] | None

_HEADS = ("pool", "flatten")

_NUM_MAPS = 16  # as in the paper

_BLOCKS: dict[str, Callable[..., nn.Module]] = {
    each.__name__: each
    for each in (SoftAttention, SoftAttentionBlock, KerasSoftAttention, nn.Identity)
}
"""Classes of blocks that are stored by name, with their keyword arguments."""

# Factor on the initial weights of attention that starts with uniform maps. Features of pretrained
# backbones are large: with EfficientNet-Lite0 (standard deviation 7) and the weights as they are,
# a new map has 81 % of its attention at one position. 0 would keep all K maps equal for ever.
_NEARLY_UNIFORM = 0.01


@outside_inference_mode
def wrap_backbone(
    backbone: str | nn.Module,
    num_classes: int,
    *,
    at: str | None = None,
    block: Block | None = None,
    gamma: Gamma = "uniform",
    pretrained: bool = False,
    head: str | HeadFactory = "pool",
    num_maps: int = _NUM_MAPS,
    drop_rate: float = 0.0,
    input_size: int | tuple[int, ...] | None = None,
    **backbone_kwargs: Any,
) -> SoftAttentionClassifier:
    """Build a classifier with attention on the last feature map of an image model.

    The head of the model is replaced by a new one.

    Example:
        >>> import torch
        >>> from softattn import wrap_backbone
        >>> model = wrap_backbone("resnet18", num_classes=7)
        >>> model(torch.randn(2, 3, 64, 64)).shape
        torch.Size([2, 7])

        The paper's model, which truncates the network at an inner module:

        >>> from functools import partial
        >>> from softattn import SoftAttentionBlock
        >>> with torch.device("meta"):
        ...     model = wrap_backbone(
        ...         "timm:inception_resnet_v2", num_classes=7, at="repeat_2.8.branch0.bn.drop",
        ...         block=SoftAttentionBlock, head="flatten",
        ...     )
        >>> model.num_features, model.head_hidden_size
        (384, 6144)

    Args:
        backbone: Name of a model of timm, torchvision or transformers, as in `load_model`, or a
            model, which keeps its weights and loses its head. timm takes precedence if several
            libraries have the name; the prefixes `timm:` and `torchvision:` select one. Models of
            transformers have names such as `transformers:vit`.
        num_classes: Number of class scores.
        at: Name of a module of the model, or of a node of its traced graph, whose output the
            attention gets. Everything after it is dropped, parameters included. By default, the
            attention gets the last spatial feature map.
        block: Builds the attention: a function from the number of channels to a module, or the
            name of an attention of timm ("se", "eca", "cbam"). By default, `SoftAttention`.
        gamma: Initial value of the learned factor of the default attention. "uniform" is
            positions / num_maps, H * W / K, for the size of the feature map in the dry run, and
            also scales the initial weights of the attention by 0.01. The maps are then almost
            uniform at first, and the features pass through almost unchanged. gamma is one number,
            so at another input size the initial features are scaled by the ratio of the numbers
            of positions: pass the `input_size` of the training images. `None` disables the
            factor; 0.01 is the paper's value, which scales the features by 0.01 * K / (H * W) for
            uniform maps, and with them the gradients of all earlier layers. With `block`, set
            gamma there.
        pretrained: Load pretrained weights into a model that is given by name.
        head: "pool" (mean over positions, then a linear layer; any input size), "flatten" (the
            paper's: a linear layer on all positions; one input size), or a function that builds a
            module from (in_channels, num_classes).
        num_maps: K, the number of maps of the default attention.
        drop_rate: Dropout probability before the linear layer.
        input_size: Size of the images, in pixels: one number, (H, W) or (C, H, W). By default,
            the size that the model declares, or 224.
        backbone_kwargs: Keyword arguments of the function that builds a model that is given by
            name, such as `img_size=384` of timm; for transformers, fields of the configuration.

    Returns:
        The classifier. The keys of the original model's parameters get the prefix
        `backbone.model.`.

    Raises:
        ArgumentError: An argument has an invalid value.
        ArgumentTypeError: An argument has an invalid type.
        ModelError: The model has no such feature map, or does not run. It is left unchanged.
        MissingExtraError: timm or transformers is needed and not installed.
        WeightsError: The folder or repository of a model of transformers cannot be read.
    """
    doing = "wrapping a backbone"
    num_classes = check_int(doing, "num_classes", num_classes)
    drop_rate = check_fraction(doing, "drop_rate", drop_rate)
    # timm's and torchvision's names of the input size of models that are built for one.
    made_for = backbone_kwargs.get("img_size", backbone_kwargs.get("image_size"))
    size = parse_input_size(doing, made_for if input_size is None else input_size)
    make_attention = _attention_factory(doing, block, num_maps, gamma)
    make_head = _head_factory(doing, head, drop_rate)
    model, cfg, name, again = _load(doing, backbone, pretrained, backbone_kwargs)
    plan = plan_backbone(model, at, size, cfg)
    like = device_and_dtype(plan.model)
    with torch.device(like.device):
        attention = make_attention(plan.feature_map)
        attended = _attended(attention, plan.feature_map, like)
        new_head = make_head(attended, num_classes).to(like)
    if not isinstance(head, str):
        check_head(new_head, attended, num_classes)
    arguments: dict[str, Any] | None = None
    if name is not None and pack_block(block) is not NotImplemented and isinstance(head, str):
        arguments = {"backbone": name, "num_classes": num_classes, "at": at, "block": block}
        arguments |= {"gamma": gamma, "head": head, "num_maps": num_maps, "drop_rate": drop_rate}
        arguments |= {"input_size": input_size, **again}
    built_backbone = plan.build()
    # The configuration has the size of the pretrained weights, and the model may have another.
    built_backbone.pretrained_cfg["input_size"] = plan.feature_map.input_size
    built = SoftAttentionClassifier(
        built_backbone,
        attention,
        new_head,
        attended.shape[1],
        num_classes,
        arguments,
        (attended.shape[2], attended.shape[3]),
    )
    # Only the new modules get the mode of the model: parts of it may be in another mode.
    for module in (built, built.backbone, *attention.modules(), *new_head.modules()):
        module.training = plan.model.training
    return built


def pack_block(block: Block | None) -> Any:
    """Return the argument `block` of `wrap_backbone` in a form that JSON can hold.

    Example:
        >>> from functools import partial
        >>> from softattn import SoftAttention
        >>> from softattn.models import pack_block, unpack_block
        >>> pack_block(partial(SoftAttention, num_maps=4))
        {'class': 'SoftAttention', 'arguments': {'num_maps': 4}}
        >>> unpack_block(pack_block(SoftAttention))(8)
        SoftAttention(8, num_maps=16, kernel_size=(3, 3))

    Args:
        block: A name, or a class of `softattn` or `torch.nn.Identity`, alone or in a
            `functools.partial` with keyword arguments, which are not checked.

    Returns:
        The packed form, or `NotImplemented` for other functions.
    """
    if isinstance(block, str | None):
        return block
    built: Any = block
    arguments: dict[str, Any] = {}
    if isinstance(block, partial) and not block.args:
        built, arguments = block.func, block.keywords
    for name, known in _BLOCKS.items():
        if built is known:
            return {"class": name, "arguments": dict(arguments)}
    return NotImplemented


def unpack_block(packed: Any) -> Block | None:
    """Undo `pack_block`. No other classes are built than those that it packs.

    Raises:
        ArgumentError: `packed` has another form.
    """
    if isinstance(packed, str | None):
        return packed
    match packed:
        case {"class": str(name), "arguments": dict(arguments)} if name in _BLOCKS:
            return partial(_BLOCKS[name], **arguments)
    raise ArgumentError(
        f"reading a block: expected a name, or class and arguments with a class of "
        f"{', '.join(_BLOCKS)}, found {packed!r}."
    )


def _load(
    doing: str, backbone: str | nn.Module, pretrained: bool, kwargs: dict[str, Any]
) -> tuple[nn.Module, Mapping[str, Any] | None, str | None, Mapping[str, Any]]:
    """Return the model, its preprocessing, and the name and arguments to rebuild it."""
    if isinstance(backbone, str):
        named = load_model(backbone, pretrained, kwargs)
        return named.model, named.pretrained_cfg, named.name, named.kwargs
    if not isinstance(backbone, nn.Module):
        raise ArgumentTypeError(
            f"{doing}: expected the name of a model or a torch.nn.Module, found {backbone!r} "
            f"({type(backbone).__name__})."
        )
    if pretrained or kwargs:
        given = ["pretrained=True"] if pretrained else []
        raise ArgumentError(
            f"{doing}: {', '.join([*given, *kwargs])} applies only to models that are given by "
            f"name. This {type(backbone).__name__} is built already and keeps its weights."
        )
    return backbone, preprocessing(backbone), None, {}


def _attention_factory(
    doing: str, block: Block | None, num_maps: int, gamma: Gamma
) -> Callable[[FeatureMap], nn.Module]:
    """Check the arguments, and return a function that builds the attention."""
    if block is None:
        return _soft_attention(doing, check_int(doing, "num_maps", num_maps), gamma)
    for name, value, default in (("gamma", gamma, "uniform"), ("num_maps", num_maps, _NUM_MAPS)):
        if value != default:
            raise ArgumentError(
                f"{doing}: {name} is an argument of the default attention, found {name}={value!r} "
                f"with block={block!r}. Set it in the block: block=partial(SoftAttention, "
                f"{name}={value!r})."
            )
    factory = attention_factory(doing, block)
    return lambda found: factory(found.channels)


def _soft_attention(doing: str, num_maps: int, gamma: Gamma) -> Callable[[FeatureMap], nn.Module]:
    if isinstance(gamma, str) and gamma != "uniform":
        raise ArgumentError(f'{doing}: gamma must be a number, "uniform" or None, found {gamma!r}.')
    if not isinstance(gamma, str | None):
        check_finite(doing, "gamma", gamma)

    def build(found: FeatureMap) -> nn.Module:
        height, width = found.size
        if gamma != "uniform":
            return SoftAttention(found.channels, num_maps, gamma=gamma)
        attention = SoftAttention(found.channels, num_maps, gamma=height * width / num_maps)
        with torch.no_grad():
            attention.weight.mul_(_NEARLY_UNIFORM)
        return attention

    return build


def _head_factory(
    doing: str, head: str | HeadFactory, drop_rate: float
) -> Callable[[Tensor, int], nn.Module]:
    """Return a function that builds a head from (attended features, num_classes)."""
    if isinstance(head, str):
        if head not in _HEADS:
            raise ArgumentError(
                f"{doing}: there is no head named {head!r}. {closest(head, _HEADS)} A function "
                "of (in_channels, num_classes) works too."
            )
        return partial(_linear_head, drop_rate=drop_rate, flatten=head == "flatten")
    if isinstance(head, nn.Module) or not callable(head):
        raise ArgumentTypeError(
            f'{doing}: head must be "pool", "flatten", or a function that builds a module from '
            f"(in_channels, num_classes), found {head!r}."
        )
    if drop_rate:
        raise ArgumentError(
            f"{doing}: drop_rate is an argument of the heads pool and flatten, found "
            f"drop_rate={drop_rate} with head={head!r}. Put a torch.nn.Dropout into your head."
        )

    def build(x: Tensor, num_classes: int) -> nn.Module:
        built = head(x.shape[1], num_classes)
        if isinstance(built, nn.Module):
            return built
        raise ArgumentTypeError(
            f"{doing}: head must return a torch.nn.Module, found {built!r} "
            f"({type(built).__name__})."
        )

    return build


def _linear_head(x: Tensor, num_classes: int, drop_rate: float, flatten: bool) -> nn.Module:
    size = (x.shape[2], x.shape[3]) if flatten else None
    return ClassifierHead(x.shape[1], num_classes, size, drop_rate)


def _attended(attention: nn.Module, found: FeatureMap, like: Tensor) -> Tensor:
    """Move the attention, and return its output for the feature map, after checking its shape."""
    height, width = found.size
    doing = (
        f"applying {type(attention).__name__} to a feature map of {found.channels} x {height} x "
        f"{width}"
    )
    try:
        attention.to(like)
        x = random_images(attention, (found.channels, *found.size))
        features = dry_run(attention, (x,)).output
    except Exception as error:
        raise ModelError(f"{doing}: it raises {type(error).__name__}: {error}") from error
    if not isinstance(features, Tensor) or features.ndim != 4:
        raise ModelError(f"{doing}: expected a map (B, C, H, W), found {describe(features)}.")
    return features
