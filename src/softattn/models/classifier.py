"""SoftAttentionClassifier: a backbone, attention on its last feature map, and a head."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from softattn._validation import finite_number, fraction, whole_number
from softattn.errors import ModelError, ShapeError
from softattn.features import SpatialBackbone
from softattn.models.param_groups import decays, layer_ids, make_groups

__all__ = ["ClassifierHead", "HeadFactory", "SoftAttentionClassifier"]

HeadFactory = Callable[[int, int], nn.Module]


class ClassifierHead(nn.Module):
    """One linear layer on a feature map, pooled or flattened.

    Example:
        >>> import torch
        >>> from softattn.models import ClassifierHead
        >>> head = ClassifierHead(64, num_classes=7)
        >>> head(torch.randn(2, 64, 5, 9)).shape
        torch.Size([2, 7])
        >>> ClassifierHead(64, num_classes=7, size=(4, 4)).fc.in_features
        1024

    Args:
        in_channels: C.
        num_classes: the number of scores.
        size: H and W of the map, to flatten it. Otherwise its mean over all positions is taken,
            and any size will do.
        drop_rate: the probability with which dropout zeroes a value before the linear layer.

    Shape:
        - x: (B, C, H, W).
        - output: (B, num_classes).

    Raises:
        ShapeError: in `forward`, a map to be flattened is of another size.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        size: tuple[int, int] | None = None,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.size = size
        self.drop = nn.Dropout(drop_rate)
        positions = 1 if size is None else size[0] * size[1]
        self.fc = nn.Linear(in_channels * positions, num_classes)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Give class scores, or with `pre_logits` what they are computed from."""
        if self.size is None:
            x = x.mean(dim=(2, 3))
        elif x.shape[2:] != self.size:
            raise ShapeError(
                f"flattening a feature map: this head was built for {self.size[0]} x "
                f"{self.size[1]} positions, found {x.shape[2]} x {x.shape[3]}. Give it images of "
                'the size that it was built for (input_size=), or build it with head="pool".'
            )
        else:
            x = x.flatten(1)
        x = self.drop(x)
        scores: Tensor = x if pre_logits else self.fc(x)
        return scores


class SoftAttentionClassifier(nn.Module):
    """A backbone, attention on its last spatial feature map, and a head; from `wrap_backbone`.

    It keeps timm's contract: `forward(x)` is `forward_head(forward_features(x))`.

    Example:
        >>> import torch
        >>> from softattn import wrap_backbone
        >>> model = wrap_backbone("torchvision:resnet18", num_classes=7).eval()
        >>> scores, maps = model(torch.randn(2, 3, 64, 64), return_maps=True)
        >>> scores.shape, maps.shape
        (torch.Size([2, 7]), torch.Size([2, 16, 2, 2]))

    Args:
        backbone: what gives the feature map.
        attention: on a map (B, C, H, W), to another.
        head: on what the attention gives, to (B, num_classes).
        num_features: C', the channels that the attention gives.
        num_classes: what the head gives.
        config: the arguments of `wrap_backbone`, where it can be called with them again.

    Shape:
        - x: (B, 3, H', W'), as the backbone takes it.
        - scores: (B, num_classes).
        - maps: (B, K, H, W), where the attention makes maps.

    Attributes:
        num_features: C', the channels of `forward_features`.
        head_hidden_size: what the classifier takes.
        num_classes: the number of scores; 0 after `reset_classifier(0)`.
        pretrained_cfg: the backbone's preprocessing, for `timm.data.resolve_model_data_config`.
    """

    def __init__(
        self,
        backbone: SpatialBackbone,
        attention: nn.Module,
        head: nn.Module,
        num_features: int,
        num_classes: int,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.attention = attention
        self.head = head
        self.num_features = num_features
        self.num_classes = num_classes
        self.config = config
        self._classifier: str | None = None
        self.head_hidden_size = num_features
        self._frozen: frozenset[str] | None = None
        self._find_classifier()

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """The backbone's preprocessing (input_size, mean, std, interpolation, crop_pct)."""
        return self.backbone.pretrained_cfg

    @property
    def default_cfg(self) -> dict[str, Any]:
        """The same, under timm's older name."""
        return self.pretrained_cfg

    def forward(self, x: Tensor, return_maps: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Give class scores; with `return_maps` give (scores, maps)."""
        if not return_maps:
            return self.forward_head(self.forward_features(x))
        if not _takes(self.attention, "return_maps"):
            raise ModelError(
                f"returning attention maps: {type(self.attention).__name__} makes none. Its "
                "forward has no argument return_maps, as that of softattn.SoftAttention has."
            )
        features, maps = self.attention(self.backbone(x), return_maps=True)
        return self.forward_head(features), maps

    def forward_features(self, x: Tensor) -> Tensor:
        """Give the attended feature map, (B, C', H, W)."""
        features: Tensor = self.attention(self.backbone(x))
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Give class scores of an attended map; with `pre_logits` what they are computed from."""
        if not pre_logits:
            scores: Tensor = self.head(x)
            return scores
        if not _takes(self.head, "pre_logits"):
            raise ModelError(
                f"computing what the classifier takes: the forward of {type(self.head).__name__} "
                "has no argument pre_logits. Add one to your head."
            )
        hidden: Tensor = self.head(x, pre_logits=True)
        return hidden

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer; `nn.Identity` after `reset_classifier(0)`."""
        if self._classifier is None:
            raise self._no_classifier("getting the classifier")
        return self.get_submodule(self._classifier)

    def reset_classifier(self, num_classes: int, head: HeadFactory | None = None) -> None:
        """Start with a new linear layer for other classes; 0 for none.

        Args:
            num_classes: how many scores are wanted. With 0, `forward` gives what the classifier
                would take.
            head: builds the whole head anew, from (in_channels, num_classes).
        """
        doing = "resetting the classifier"
        number = whole_number(doing, "num_classes", num_classes, least=0)
        if head is not None:
            self.head = head(self.num_features, number).to(_device_and_dtype(self))
            self._find_classifier()
        elif self._classifier is None:
            raise self._no_classifier(doing)
        else:
            new: nn.Module = nn.Identity()
            if number:
                new = nn.Linear(self.head_hidden_size, number).to(_device_and_dtype(self))
            self.set_submodule(self._classifier, new)
        self.num_classes = number
        if self.config is not None:
            self.config = {**self.config, "num_classes": number}

    def _find_classifier(self) -> None:
        layers = [
            (f"head.{name}" if name else "head", layer)
            for name, layer in self.head.named_modules()
            if isinstance(layer, nn.Linear)
        ]
        self._classifier = layers[-1][0] if layers else None
        self.head_hidden_size = layers[-1][1].in_features if layers else self.num_features

    def _no_classifier(self, doing: str) -> ModelError:
        return ModelError(
            f"{doing}: the head, {type(self.head).__name__}, holds no torch.nn.Linear. Call "
            "reset_classifier(num_classes, head=...) with a function (in_channels, num_classes) "
            "that builds a head."
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Have the backbone compute parts again for gradients, instead of keeping them.

        Raises:
            ModelError: the backbone can't.
        """
        self.backbone.set_grad_checkpointing(enable)

    def freeze_backbone(self) -> None:
        """Train attention and head only: no gradients for the backbone, and its norms stay.

        The backbone is in evaluation from now on, whatever `train()` says, so that running
        statistics don't move and nothing is dropped out.
        """
        if self._frozen is None:
            trained = {n for n, p in self.backbone.named_parameters() if p.requires_grad}
            self._frozen = frozenset(trained)
            for name in trained:
                self.backbone.get_parameter(name).requires_grad_(False)
            self.backbone.eval()

    def unfreeze_backbone(self) -> None:
        """Undo `freeze_backbone`; parameters that were frozen before stay so."""
        if self._frozen is not None:
            for name in self._frozen:
                self.backbone.get_parameter(name).requires_grad_(True)
            self._frozen = None
            self.backbone.train(self.training)

    def train(self, mode: bool = True) -> "SoftAttentionClassifier":
        """Set the mode, except that of a frozen backbone."""
        super().train(mode)
        if self._frozen is not None:
            self.backbone.eval()
        return self

    def param_groups(
        self,
        lr: float,
        head_lr_scale: float = 1.0,
        weight_decay: float = 0.0,
        layer_decay: float = 1.0,
    ) -> list[dict[str, Any]]:
        """Return groups for an optimizer of `torch.optim`, of the parameters that are trained.

        Example:
            >>> import torch
            >>> from softattn import wrap_backbone
            >>> model = wrap_backbone("torchvision:resnet18", num_classes=7)
            >>> groups = model.param_groups(lr=1e-4, head_lr_scale=10, weight_decay=0.05)
            >>> [(group["lr"], group["weight_decay"]) for group in groups]
            [(0.0001, 0.05), (0.0001, 0.0), (0.001, 0.05), (0.001, 0.0)]
            >>> optimizer = torch.optim.AdamW(groups)

        Args:
            lr: of the backbone.
            head_lr_scale: what the attention and the head have, which start from nothing, in
                relation to it.
            weight_decay: of matrices and filters. Biases, norms, gamma and position embeddings
                have none.
            layer_decay: the factor of `lr` from each layer of the backbone to the one before it.
        """
        doing = "making parameter groups"
        lr = finite_number(doing, "lr", lr)
        scale = finite_number(doing, "head_lr_scale", head_lr_scale)
        weight_decay = finite_number(doing, "weight_decay", weight_decay)
        layer_decay = fraction(doing, "layer_decay", layer_decay)
        layers = self.group_matcher()
        kept, top = self.no_weight_decay(), layers("head")
        groups = []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                layer = layers(name)
                factor = scale if layer == top else layer_decay ** (top - 1 - layer)
                without = parameter.ndim <= 1 or name in kept
                groups.append((parameter, lr * factor, 0.0 if without else weight_decay))
        return make_groups(groups)

    def no_weight_decay(self) -> Collection[str]:
        """Return what timm's optimizer factory must not decay, beside biases and the like."""
        own: Any = getattr(self.backbone.model, "no_weight_decay", set)
        named = {f"backbone.model.{name}" for name in own()}
        return named | {n for n, p in self.named_parameters() if p.ndim > 1 and not decays(n, p)}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Return a function from the names of parameters to layers, for timm's layer decay."""
        ids = {
            f"backbone.model.{name}": number
            for name, number in layer_ids(self.backbone.model).items()
        }
        top = max(ids.values(), default=-1) + 1
        return lambda name: ids.get(name, top)


def _takes(module: nn.Module, argument: str) -> bool:
    return argument in inspect.signature(module.forward).parameters


def _device_and_dtype(module: nn.Module) -> Tensor:
    """Return a tensor that lies as a module's parameters do, for `Module.to`."""
    return next(p for p in module.parameters() if p.is_floating_point())
