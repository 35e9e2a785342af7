"""Classifier of lesions: a softattn classifier with optional metadata, and its parameter counts."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from softattn import SoftAttentionClassifier, SpatialAttention
from torch import Tensor, nn

from ham10000.errors import ArgumentError
from ham10000.recipe import MAP_LAYERS

__all__ = ["LesionClassifier", "MetadataHead", "count_parameters", "parameter_table"]


class MetadataHead(nn.Sequential):
    """Two linear layers that map metadata to logits, which are added to those of the image.

    A linear layer on concatenated features of image and metadata is the sum of one layer on each,
    so this is late fusion. The last layer starts at zero: at first the metadata has no effect.

    Args:
        num_features: Number of metadata features M.
        num_classes: Number of classes.
        width: Width of the hidden layer.
        drop_rate: Dropout before the last layer.
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
    """Classifier of a lesion from its image and, optionally, its metadata. See `build_model`.

    Example:
        >>> import torch
        >>> from ham10000.models import build_model
        >>> from ham10000.recipe import AttentionRecipe, ModelRecipe
        >>> recipe, attention = ModelRecipe("ham10000:tiny", at="block3"), AttentionRecipe("soft")
        >>> model = build_model(recipe, attention=attention, size=64, metadata=True).eval()
        >>> images, metadata = torch.randn(2, 3, 64, 64), torch.rand(2, model.metadata_features)
        >>> scores, maps = model(images, metadata, return_maps=True)
        >>> scores.shape, maps.shape
        (torch.Size([2, 7]), torch.Size([2, 16, 8, 8]))

    Args:
        network: Classifier of the image.
        metadata: Module that maps metadata to logits.
        metadata_features: Number of metadata features M.

    Shape:
        - x: (B, 3, H, W), float32, normalized.
        - metadata: (B, M), float32, as `ham10000.data.metadata_features` makes it.
        - scores: (B, num_classes).
        - maps: (B, K, h, w).

    Attributes:
        has_attention: Whether `return_maps=True` is possible.
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
        """Return the logits, or (logits, maps) with `return_maps`.

        Raises:
            ArgumentError: Metadata is missing or unexpected, or the model has no maps.
        """
        if (metadata is None) != (self.metadata is None):
            given, built = ("without", "with") if metadata is None else ("with", "without")
            raise ArgumentError(
                f"classifying: the model was built {built} metadata and called {given}. "
                "Whether it has metadata follows from data.metadata of the recipe."
            )
        if not return_maps:
            scores: Tensor = self.network(x)
            return self._fuse(scores, metadata)
        if not self.has_attention:
            raise ArgumentError(
                "returning attention maps: this model has none. Set attention.layer in its recipe "
                f"to one of {', '.join(MAP_LAYERS)}."
            )
        scores, maps = self.network(x, return_maps=True)
        return self._fuse(scores, metadata), maps

    def _fuse(self, scores: Tensor, metadata: Tensor | None) -> Tensor:
        return scores if self.metadata is None else scores + self.metadata(metadata)

    def freeze_backbone(self) -> None:
        """Train attention and heads only, and put the backbone in eval mode."""
        self.network.freeze_backbone()

    def unfreeze_backbone(self) -> None:
        """Undo `freeze_backbone`."""
        self.network.unfreeze_backbone()

    def param_groups(
        self, lr: float, head_lr_scale: float, weight_decay: float, layer_decay: float
    ) -> list[dict[str, Any]]:
        """Return parameter groups for an optimizer, without frozen parameters."""
        groups = self.network.param_groups(lr, head_lr_scale, weight_decay, layer_decay)
        if self.metadata is not None:
            for matrices, decay in ((True, weight_decay), (False, 0.0)):
                chosen = [p for p in self.metadata.parameters() if (p.ndim > 1) == matrices]
                groups.append({"params": chosen, "lr": lr * head_lr_scale, "weight_decay": decay})
        return groups

    def parts(self) -> Mapping[str, nn.Module]:
        """Return the parts by name: backbone, attention, head and, if present, metadata."""
        parts: dict[str, nn.Module] = {
            "backbone": self.network.backbone,
            "attention": self.network.attention,
            "head": self.network.head,
        }
        return parts if self.metadata is None else {**parts, "metadata": self.metadata}


def count_parameters(model: LesionClassifier) -> dict[str, int]:
    """Return the number of trainable parameters of each part.

    Example:
        >>> from ham10000.models import build_model, count_parameters
        >>> from ham10000.recipe import AttentionRecipe, ModelRecipe
        >>> attention = AttentionRecipe("soft")
        >>> count_parameters(build_model(ModelRecipe("ham10000:tiny"), attention=attention))
        {'backbone': 7264, 'attention': 4625, 'head': 231}
    """
    return {name: _parameters(part) for name, part in model.parts().items()}


def parameter_table(model: LesionClassifier, authors: Mapping[str, int] | None = None) -> Table:
    """Return a table of the parameter counts of each part, next to those of the authors' model.

    Keras counts the running statistics of norms as parameters, so the table contains them too.

    Args:
        model: The model.
        authors: Counts by part; `model.authors_parameters` of the recipe.
    """
    authors = authors or {}
    rows = [(name, _parameters(part), _statistics(part)) for name, part in model.parts().items()]
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    known = {**authors, "all": sum(authors.values())} if authors else {}
    table = Table("part", title="parameters", title_justify="left")
    for title in ("trained", "statistics", *(["together", "the authors'"] if known else [])):
        table.add_column(title, justify="right")
    for name, trained, statistics in rows:
        cells = [f"{trained:,}", f"{statistics:,}"]
        if known:
            cells += [f"{trained + statistics:,}", f"{known[name]:,}" if name in known else ""]
        table.add_row(name, *cells)
    return table


def _parameters(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def _statistics(part: nn.Module) -> int:
    # The running means and variances of norms.
    return sum(buffer.numel() for buffer in part.buffers() if buffer.ndim)
