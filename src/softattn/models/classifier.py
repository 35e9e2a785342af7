"""SoftAttentionClassifier: backbone, attention on its last feature map, and head."""

import inspect
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.parameter import is_lazy

from softattn._validation import check_int, describe
from softattn.errors import ArgumentTypeError, ModelError, ShapeError
from softattn.features import SpatialBackbone, dry_run, random_images
from softattn.models.param_groups import decays, groups_by_layer, layer_ids
from softattn.ops import device_and_dtype

__all__ = ["ClassifierHead", "HeadFactory", "SoftAttentionClassifier", "check_head"]

HeadFactory = Callable[[int, int], nn.Module]
"""Builds a head from (in_channels, num_classes)."""


class ClassifierHead(nn.Module):
    """Linear classifier on a pooled or flattened feature map.

    Example:
        >>> import torch
        >>> from softattn.models import ClassifierHead
        >>> head = ClassifierHead(64, num_classes=7)
        >>> head(torch.randn(2, 64, 5, 9)).shape
        torch.Size([2, 7])
        >>> ClassifierHead(64, num_classes=7, size=(4, 4)).fc.in_features
        1024

    Args:
        in_channels: C, the number of channels.
        num_classes: Number of scores.
        size: (H, W) of the feature map, which is then flattened. By default, its mean over all
            positions is taken, which works for any size.
        drop_rate: Dropout probability before the linear layer.

    Shape:
        - x: (B, C, H, W).
        - output: (B, num_classes).

    Raises:
        ShapeError: In `forward`, the size of the feature map is not `size`.
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
        self.drop: nn.Dropout = nn.Dropout(drop_rate)
        positions = 1 if size is None else size[0] * size[1]
        self.fc: nn.Linear = nn.Linear(in_channels * positions, num_classes)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return class scores, or with `pre_logits` the input of the linear layer."""
        if self.size is None:
            x = x.mean(dim=(2, 3))
        elif not isinstance(x, Proxy) and x.shape[2:] != self.size:
            raise ShapeError(
                f"flattening a feature map: this head was built for {self.size[0]} x "
                f"{self.size[1]} positions, found {x.shape[2]} x {x.shape[3]}. Pass images of the "
                'size that it was built for (input_size=), or build it with head="pool".'
            )
        else:
            x = x.flatten(1)
        x = self.drop(x)
        scores: Tensor = x if pre_logits else self.fc(x)
        return scores


class SoftAttentionClassifier(nn.Module):
    """Image classifier with attention on the last feature map of a backbone.

    `wrap_backbone` builds it. It has timm's interface: `forward(x)` is
    `forward_head(forward_features(x))`.

    Example:
        >>> import torch
        >>> from softattn import wrap_backbone
        >>> model = wrap_backbone("torchvision:resnet18", num_classes=7).eval()
        >>> scores, maps = model(torch.randn(2, 3, 64, 64), return_maps=True)
        >>> scores.shape, maps.shape
        (torch.Size([2, 7]), torch.Size([2, 16, 2, 2]))

    Args:
        backbone: Computes the feature map, (B, C, H, W).
        attention: Maps it to the attended feature map, (B, C', H, W).
        head: Maps that to class scores, (B, num_classes).
        num_features: C', the number of channels that the attention returns.
        num_classes: Number of class scores that the head returns.
        wrap_arguments: Arguments with which `wrap_backbone` builds the same model again, or `None`
            if some of them cannot be stored.
        map_size: (H, W) of the attended feature map, with which `reset_classifier` tries a new
            head. By default, heads are not tried.

    Shape:
        - x: (B, 3, H', W'), as the backbone takes it.
        - scores: (B, num_classes).
        - maps: (B, K, H, W), if the attention computes maps.

    Attributes:
        num_features: C', the number of channels of `forward_features`.
        head_hidden_size: Number of inputs of the classifier.
        num_classes: Number of class scores; 0 after `reset_classifier(0)`.
        pretrained_cfg: Preprocessing of the backbone, for `timm.data.resolve_model_data_config`.
    """

    def __init__(
        self,
        backbone: SpatialBackbone,
        attention: nn.Module,
        head: nn.Module,
        num_features: int,
        num_classes: int,
        wrap_arguments: dict[str, Any] | None = None,
        map_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.attention = attention
        self.head: nn.Module = head
        self.num_features = num_features
        self.num_classes: int = num_classes
        # Not `config`, which tools such as PEFT take for the configuration of a transformers model.
        self.wrap_arguments: dict[str, Any] | None = wrap_arguments
        self._map_size = map_size
        self._hidden_size: int = num_features
        self._classifier: str | None = None
        self._frozen: frozenset[str] | None = None
        self._find_classifier()

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """Preprocessing of the backbone (input_size, mean, std, interpolation, crop_pct)."""
        return self.backbone.pretrained_cfg

    @property
    def default_cfg(self) -> dict[str, Any]:
        """Alias of `pretrained_cfg`, timm's older name."""
        return self.pretrained_cfg

    if TYPE_CHECKING:

        @overload
        def __call__(self, x: Tensor, return_maps: Literal[False] = False) -> Tensor: ...
        @overload
        def __call__(self, x: Tensor, return_maps: Literal[True]) -> tuple[Tensor, Tensor]: ...
        @overload
        def __call__(self, x: Tensor, return_maps: bool) -> Tensor | tuple[Tensor, Tensor]: ...
        def __call__(self, x: Tensor, return_maps: bool = False) -> Tensor | tuple[Tensor, Tensor]:
            """Run `forward` and the module's hooks."""

    @overload
    def forward(self, x: Tensor, return_maps: Literal[False] = False) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, return_maps: Literal[True]) -> tuple[Tensor, Tensor]: ...
    @overload
    def forward(self, x: Tensor, return_maps: bool) -> Tensor | tuple[Tensor, Tensor]: ...
    def forward(self, x: Tensor, return_maps: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Return class scores, or (scores, maps) with `return_maps`.

        Raises:
            ModelError: The attention does not take `return_maps`.
        """
        # torch.fx passes a proxy for every argument. The call without maps is what it traces.
        if isinstance(return_maps, Proxy) or not return_maps:
            return self.forward_head(self.forward_features(x))
        if not _takes(self.attention, "return_maps"):
            raise ModelError(
                f"returning attention maps: the forward method of {type(self.attention).__name__} "
                "has no argument return_maps. softattn.SoftAttention has one."
            )
        features, maps = self.attention(self.backbone(x), return_maps=True)
        return self.forward_head(features), maps

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the attended feature map, (B, C', H, W)."""
        features: Tensor = self.attention(self.backbone(x))
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return class scores of an attended feature map, (B, C', H, W).

        With `pre_logits`, return the input of the classifier instead, as in timm.

        Raises:
            ModelError: The head does not take `pre_logits`.
        """
        if not pre_logits:
            scores: Tensor = self.head(x)
            return scores
        if not _takes(self.head, "pre_logits"):
            raise ModelError(
                f"computing pre-logits: the forward method of {type(self.head).__name__} has no "
                "argument pre_logits. Add one to your head."
            )
        hidden: Tensor = self.head(x, pre_logits=True)
        return hidden

    def get_classifier(self) -> nn.Module:
        """Return the linear layer that computes the scores, or `nn.Identity` after a reset to 0.

        Raises:
            ModelError: The head has no linear layer with `num_classes` outputs.
        """
        if self._classifier is None:
            raise self._no_classifier("getting the classifier")
        return self.get_submodule(self._classifier)

    def reset_classifier(self, num_classes: int, head: HeadFactory | None = None) -> None:
        """Replace the linear layer that computes the scores with a new one.

        Args:
            num_classes: Number of class scores. With 0, `forward` returns the input of the
                classifier.
            head: Builds a whole new head from (in_channels, num_classes). It must fit the feature
                map of the `input_size` of `wrap_backbone`. `save_pretrained` cannot store it.

        Raises:
            ArgumentError: `num_classes` is negative.
            ArgumentTypeError: `head` is not a function, or returns something other than a module.
            ModelError: The new head does not fit the feature map; or the head has no such layer,
                and `head` is not given. The model is not changed.
        """
        doing = "resetting the classifier"
        number = check_int(doing, "num_classes", num_classes, minimum=0)
        if head is not None:
            is_function = callable(head) and not isinstance(head, nn.Module)
            built = head(self.num_features, number) if is_function else head
            if not (is_function and isinstance(built, nn.Module)):
                raise ArgumentTypeError(
                    f"{doing}: head must be a function that returns a torch.nn.Module, found "
                    f"{built!r} ({type(built).__name__})."
                )
            built = built.to(device_and_dtype(self)).train(self.training)
            if self._map_size is not None and number:
                features = random_images(self, (self.num_features, *self._map_size))
                check_head(built, features, number)
            self.head, self.num_classes, self.wrap_arguments = built, number, None
            self._find_classifier()
            return
        if self._classifier is None:
            raise self._no_classifier(doing)
        self._hidden_size = self.head_hidden_size
        new: nn.Module = nn.Identity()
        if number:  # a lazy classifier that has not run yet is replaced with another
            size = self._hidden_size
            new = nn.Linear(size, number) if size else nn.LazyLinear(number)
            new = new.to(device_and_dtype(self))
        self.set_submodule(self._classifier, new.train(self.training))
        self.num_classes = number
        if self.wrap_arguments is not None:
            self.wrap_arguments = {**self.wrap_arguments, "num_classes": number}

    @property
    def head_hidden_size(self) -> int:
        """Number of inputs of the classifier."""
        found = self.get_submodule(self._classifier) if self._classifier else None
        return found.in_features if isinstance(found, nn.Linear) else self._hidden_size

    def _find_classifier(self) -> None:
        # A head registers its layers in any order, and the number of outputs tells the last one.
        self._classifier, self._hidden_size = None, self.num_features
        for name, layer in self.head.named_modules():
            if isinstance(layer, nn.Linear) and layer.out_features == self.num_classes:
                self._classifier = f"head.{name}" if name else "head"
                self._hidden_size = layer.in_features

    def _no_classifier(self, doing: str) -> ModelError:
        return ModelError(
            f"{doing}: the head, {type(self.head).__name__}, contains no torch.nn.Linear with "
            f"{self.num_classes} outputs. Call reset_classifier(num_classes, head=...) with a "
            "function that builds a head from (in_channels, num_classes)."
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Enable or disable gradient checkpointing of the backbone.

        Raises:
            ModelError: The backbone does not support it.
        """
        self.backbone.set_grad_checkpointing(enable)

    def freeze_backbone(self) -> None:
        """Freeze the backbone, so that only attention and head are trained.

        Its parameters get no gradients, and it stays in eval mode, also after `train()`, so that
        running statistics do not change and dropout is off.
        """
        if self._frozen is None:
            trained = {n for n, p in self.backbone.named_parameters() if p.requires_grad}
            self._frozen = frozenset(trained)
            for name in trained:
                self.backbone.get_parameter(name).requires_grad_(False)
            self.backbone.eval()

    def unfreeze_backbone(self) -> None:
        """Undo `freeze_backbone`. Parameters that were frozen before it stay frozen."""
        if self._frozen is not None:
            for name in self._frozen:
                self.backbone.get_parameter(name).requires_grad_(True)
            self._frozen = None
            self.backbone.train(self.training)

    def train(self, mode: bool = True) -> "SoftAttentionClassifier":
        """Set training or eval mode; a frozen backbone stays in eval mode."""
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
        """Return groups of the trainable parameters for a `torch.optim` optimizer.

        Example:
            >>> import torch
            >>> from softattn import wrap_backbone
            >>> model = wrap_backbone("torchvision:resnet18", num_classes=7)
            >>> groups = model.param_groups(lr=1e-4, head_lr_scale=10, weight_decay=0.05)
            >>> [(group["lr"], group["weight_decay"]) for group in groups]
            [(0.0001, 0.05), (0.0001, 0.0), (0.001, 0.05), (0.001, 0.0)]
            >>> optimizer = torch.optim.AdamW(groups)

        Args:
            lr: Learning rate of the backbone.
            head_lr_scale: Learning rate of attention and head, which are newly initialized, as a
                multiple of `lr`.
            weight_decay: Weight decay of matrices and filters. Biases, norms, gamma and position
                embeddings have none.
            layer_decay: Factor of the learning rate from each layer of the backbone to the one
                before it.

        Raises:
            ArgumentError: An argument is out of range.
            ArgumentTypeError: An argument is not a number.
        """
        return groups_by_layer(
            self.named_parameters(),
            self.group_matcher(),
            self.no_weight_decay(),
            lr=lr,
            head_lr_scale=head_lr_scale,
            weight_decay=weight_decay,
            layer_decay=layer_decay,
        )

    def no_weight_decay(self) -> Collection[str]:
        """Return names of parameters without weight decay, for timm's optimizer factory.

        The factory itself excludes parameters with one dimension, such as biases and norms.
        """
        own: Any = getattr(self.backbone.model, "no_weight_decay", set)
        named = {f"backbone.model.{name}" for name in own()}
        return named | {n for n, p in self.named_parameters() if p.ndim > 1 and not decays(n, p)}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Return a function from parameter names to layer numbers, for timm's layer decay."""
        ids = {
            f"backbone.model.{name}": number
            for name, number in layer_ids(self.backbone.model).items()
        }
        top = max(ids.values(), default=-1) + 1
        return lambda name: ids.get(name, top)


def check_head(head: nn.Module, features: Tensor, num_classes: int) -> None:
    """Raise an error unless a head computes class scores of an attended feature map."""
    if any(is_lazy(parameter) for parameter in head.parameters()):
        return  # it gets its shape in the first pass
    doing = f"applying the head {type(head).__name__} to a feature map {tuple(features.shape)}"
    try:
        scores = dry_run(head, (features.detach(),)).output
    except Exception as error:
        raise ModelError(f"{doing}: it raises {type(error).__name__}: {error}") from error
    if not isinstance(scores, Tensor) or scores.shape[:2] != (len(features), num_classes):
        raise ModelError(f"{doing}: expected scores (B, {num_classes}), found {describe(scores)}.")


def _takes(module: nn.Module, argument: str) -> bool:
    """Return whether a module's forward method accepts a keyword argument.

    Wrappers of PEFT, activation checkpointing and torch.compile accept and pass on any.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    return any(p.name == argument or p.kind is p.VAR_KEYWORD for p in parameters)
