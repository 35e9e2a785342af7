"""`LesionClassifier`: a softattn classifier, with metadata as a second input where asked for."""

from collections.abc import Mapping
from typing import Any

from softattn import SoftAttentionClassifier, SpatialAttention
from torch import Tensor, nn

from ham10000.errors import ArgumentError

__all__ = ["LesionClassifier", "MetadataHead"]


class MetadataHead(nn.Sequential):
    """From metadata to what it adds to the scores of an image: two linear layers.

    One linear layer on the features of image and metadata side by side is the sum of one on each,
    so this is a late fusion. It starts with nothing: the image alone decides.

    Args:
        num_features: M, how many numbers the metadata is.
        num_classes: how many scores there are.
        width: of the layer between.
        drop_rate: of the dropout before the last layer.
    """

    def __init__(
        self, num_features: int, num_classes: int, width: int = 64, drop_rate: float = 0.2
    ) -> None:
        last = nn.Linear(width, num_classes)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(
            nn.Linear(num_features, width), nn.ReLU(inplace=True), nn.Dropout(drop_rate), last
        )


class LesionClassifier(nn.Module):
    """Scores of a lesion's classes, from its image and maybe its metadata; from `build_model`.

    Example:
        >>> import torch
        >>> from ham10000.models import build_model
        >>> from ham10000.recipe import ModelRecipe
        >>> recipe = ModelRecipe("ham10000:tiny", attention=True, at="block3")
        >>> model = build_model(recipe, size=64, metadata=True).eval()
        >>> images, metadata = torch.randn(2, 3, 64, 64), torch.rand(2, model.metadata_features)
        >>> scores, maps = model(images, metadata, return_maps=True)
        >>> scores.shape, maps.shape
        (torch.Size([2, 7]), torch.Size([2, 16, 8, 8]))

    Args:
        network: on the image.
        metadata: on the metadata, if there is any.
        metadata_features: M, how many numbers that is.

    Shape:
        - x: (B, 3, H, W), float32, normalized.
        - metadata: (B, M), float32, as `ham10000.data.metadata_features` makes it.
        - scores: (B, num_classes).
        - maps: (B, K, h, w).

    Attributes:
        has_attention: whether `return_maps` can be asked for.
    """

    def __init__(
        self,
        network: SoftAttentionClassifier,
        metadata: nn.Module | None = None,
        metadata_features: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.metadata = metadata
        self.metadata_features = metadata_features
        self.has_attention = any(
            isinstance(module, SpatialAttention) for module in network.attention.modules()
        )

    def forward(
        self, x: Tensor, metadata: Tensor | None = None, return_maps: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Give scores; with `return_maps` give (scores, maps).

        Raises:
            ArgumentError: there is metadata and none is wanted or the other way round, or there
                are no maps.
        """
        if (metadata is None) != (self.metadata is None):
            given, built = ("without", "with") if metadata is None else ("with", "without")
            raise ArgumentError(
                f"classifying: called {given} metadata, and the model was built {built}. "
                "The recipe's data.metadata says which."
            )
        if not return_maps:
            scores: Tensor = self.network(x)
            return self._fuse(scores, metadata)
        if not self.has_attention:
            raise ArgumentError(
                "returning attention maps: this model has no attention. Its recipe needs "
                "model.attention: true."
            )
        scores, maps = self.network(x, return_maps=True)
        return self._fuse(scores, metadata), maps

    def _fuse(self, scores: Tensor, metadata: Tensor | None) -> Tensor:
        return scores if self.metadata is None else scores + self.metadata(metadata)

    def freeze_backbone(self) -> None:
        """Train attention and heads only; the backbone is in evaluation from now on."""
        self.network.freeze_backbone()

    def unfreeze_backbone(self) -> None:
        """Undo `freeze_backbone`."""
        self.network.unfreeze_backbone()

    def param_groups(
        self, lr: float, head_lr_scale: float, weight_decay: float, layer_decay: float
    ) -> list[dict[str, Any]]:
        """Return an optimizer's groups of the parameters that are trained, frozen ones left out."""
        groups = self.network.param_groups(lr, head_lr_scale, weight_decay, layer_decay)
        if self.metadata is not None:
            for matrices, decay in ((True, weight_decay), (False, 0.0)):
                chosen = [p for p in self.metadata.parameters() if (p.ndim > 1) == matrices]
                groups.append({"params": chosen, "lr": lr * head_lr_scale, "weight_decay": decay})
        return groups

    def parts(self) -> Mapping[str, nn.Module]:
        """Name the parts: backbone, attention, head, and metadata where there is some."""
        parts: dict[str, nn.Module] = {
            "backbone": self.network.backbone,
            "attention": self.network.attention,
            "head": self.network.head,
        }
        return parts if self.metadata is None else {**parts, "metadata": self.metadata}
