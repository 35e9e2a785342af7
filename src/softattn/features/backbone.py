"""A model that gives its last spatial feature map, however it does that."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import Tensor, nn

from softattn.errors import ModelError
from softattn.features.places import Place

__all__ = ["FeatureMap", "Source", "SpatialBackbone"]


class Source(StrEnum):
    """Which of a model's methods gives its last feature map."""

    FEATURES = "forward_features"
    NORMED_INTERMEDIATES = "forward_intermediates, with the last norm"
    INTERMEDIATES = "forward_intermediates"
    TRUNCATED = "forward, truncated"

    def read(self, model: Any, x: Tensor) -> Any:
        """Ask the model for its last feature map, in the layout that it has."""
        if self is Source.FEATURES:
            return model.forward_features(x)
        if self is Source.TRUNCATED:
            return model(x)
        maps = model.forward_intermediates(
            x,
            indices=1,
            norm=self is Source.NORMED_INTERMEDIATES,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return maps[-1]


@dataclass(frozen=True)
class FeatureMap:
    """Where the feature map of a model is, found once."""

    channels: int
    size: tuple[int, int]
    """H and W for an input of `input_size`."""
    input_size: tuple[int, int, int]
    source: Source
    place: Place
    at: str | None = None
    """The module or node where the model was truncated."""

    @property
    def reduction(self) -> int:
        """How many pixels of the input one position stands for, in each direction."""
        return round(self.input_size[1] / self.size[0])


class SpatialBackbone(nn.Module):
    """A model that gives its last spatial feature map as (B, C, H, W).

    Example:
        >>> import torch, torchvision
        >>> from softattn.features.finding import find_backbone
        >>> backbone = find_backbone(torchvision.models.resnet18())
        >>> backbone(torch.zeros(2, 3, 96, 64)).shape
        torch.Size([2, 512, 3, 2])
        >>> backbone.feature_map.source.value, backbone.feature_map.at
        ('forward, truncated', 'layer4')

    Args:
        model: the model, under whose parameters' names `model.` stands in front.
        feature_map: where its map is.
        pretrained_cfg: its preprocessing, in timm's words.
        dropped: the names of the modules that it had and that come after the map.

    Shape:
        - x: (B, 3, H', W'), as the model takes it.
        - output: (B, C, H, W), channels first whatever the model's own layout is.
    """

    def __init__(
        self,
        model: nn.Module,
        feature_map: FeatureMap,
        pretrained_cfg: Mapping[str, Any],
        dropped: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.feature_map = feature_map
        self.pretrained_cfg = dict(pretrained_cfg)
        self.dropped = dropped

    def forward(self, x: Tensor) -> Tensor:
        """Give the feature map of a batch of images."""
        features = self.feature_map.source.read(self.model, x)
        return self.feature_map.place.to_nchw(features, *x.shape[-2:])

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Have the model compute parts again for gradients, instead of keeping them."""
        doing = f"setting gradient checkpointing of {type(self.model).__name__}"
        switch: Any = getattr(self.model, "set_grad_checkpointing", None)
        if switch is None:
            raise ModelError(
                f"{doing}: it has no set_grad_checkpointing. timm's models have it, and those "
                "that are truncated by at=."
            )
        try:
            switch(enable)
        except (AssertionError, NotImplementedError) as error:
            raise ModelError(f"{doing}: the model refuses: {error}.") from error

    def extra_repr(self) -> str:
        """Say where the map is, for `print(module)`."""
        found, (height, width) = self.feature_map, self.feature_map.size
        at = f", at={found.at!r}" if found.at is not None else ""
        return f"{found.channels} x {height} x {width}, {found.source.value}{at}"
