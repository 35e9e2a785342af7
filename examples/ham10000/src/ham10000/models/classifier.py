"""Classifier of lesions: a softattn classifier with optional metadata, and tables of its size."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from rich import box
from rich.markup import escape
from rich.table import Table
from softattn import SoftAttentionBlock, SoftAttentionClassifier, SpatialAttention, capture_maps
from torch import Tensor, nn

from ham10000.errors import ArgumentError
from ham10000.models.fusion import Fusion
from ham10000.recipe import MAP_LAYERS

__all__ = [
    "SUMMARY_CAPTION",
    "SUMMARY_COLUMNS",
    "LesionClassifier",
    "ModelSummary",
    "parameter_table",
    "summarize_model",
    "summary_rows",
    "summary_table",
]


class LesionClassifier(nn.Module):
    """Classifier of a lesion from its image and, optionally, its metadata. See `build_model`.

    Example:
        >>> import torch
        >>> from ham10000.models import build_model
        >>> from ham10000.recipe import load_recipe
        >>> model = build_model(load_recipe("smoke_sa", ["data.metadata=true"])).eval()
        >>> images, metadata = torch.randn(2, 3, 64, 64), torch.rand(2, model.metadata_features)
        >>> scores, maps = model(images, metadata, return_maps=True)
        >>> scores.shape, maps.shape
        (torch.Size([2, 7]), torch.Size([2, 16, 8, 8]))

    Args:
        network: Classifier of the image.
        metadata: Module that combines the image with metadata.
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
        metadata: Fusion | None = None,
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
            return self._classify(self.forward_features(x, metadata), metadata)
        if not self.has_attention:
            raise ArgumentError(
                "returning attention maps: this model has none. Set attention.layer in its recipe "
                f"to one of {', '.join(MAP_LAYERS)}."
            )
        features, maps = self.network.attention(self._encode(x, metadata), return_maps=True)
        return self._classify(features, metadata), maps

    def forward_features(self, x: Tensor, metadata: Tensor | None = None) -> Tensor:
        """Return the attended feature map, (B, C, h, w), which the head receives."""
        features: Tensor = self.network.attention(self._encode(x, metadata))
        return features

    def _encode(self, x: Tensor, metadata: Tensor | None) -> Tensor:
        features: Tensor = self.network.backbone(x)
        if self.metadata is not None and self.metadata.on_map:
            features = self.metadata(features, metadata)
        return features

    def _classify(self, features: Tensor, metadata: Tensor | None) -> Tensor:
        output = self.network.forward_head(features)
        if self.metadata is not None and not self.metadata.on_map:
            output = self.metadata(output, metadata)
        return output

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


@dataclass(frozen=True)
class ModelSummary:
    """Parameters of a model and the features that its head receives, before training.

    Attributes:
        trained: Number of trained parameters by part.
        frozen: Number of frozen parameters by part.
        head_input: Shape (C, H, W) of the map that the head receives.
        head_input_std: Standard deviation of its values, without dropout.
        num_maps: Number of attention maps between backbone and head.
        dropout: Dropout probabilities in attention and head, in this order, without zeros.
    """

    trained: Mapping[str, int]
    frozen: Mapping[str, int]
    head_input: Sequence[int]
    head_input_std: float
    num_maps: int
    dropout: Sequence[float]


@torch.no_grad()
def summarize_model(model: LesionClassifier, images: Tensor) -> ModelSummary:
    """Summarize a model before training.

    Example:
        >>> import torch
        >>> from ham10000.models import build_model, summarize_model
        >>> from ham10000.recipe import load_recipe
        >>> model = build_model(load_recipe("smoke_placebo"))
        >>> summary = summarize_model(model, torch.randn(2, 3, 64, 64))
        >>> summary.trained["attention"], summary.frozen["attention"]
        (1, 4624)
        >>> summary.head_input, summary.num_maps, summary.dropout
        ([64, 4, 4], 16, [0.5])

    Args:
        model: The model, in any mode, which is kept.
        images: (B, 3, H, W), float32, normalized.
    """
    network, training = model.network, model.training
    maps: Mapping[str, Tensor] = {}
    model.eval()
    # Unknown metadata.
    metadata = (
        None if model.metadata is None else images.new_zeros(len(images), model.metadata_features)
    )
    with capture_maps(network.attention) if model.has_attention else nullcontext(maps) as maps:
        x = model.forward_features(images, metadata)
    model.train(training)
    return ModelSummary(
        {name: _parameters(part, trained=True) for name, part in model.parts().items()},
        {name: _parameters(part, trained=False) for name, part in model.parts().items()},
        list(x.shape[1:]),
        float(x.std()),
        sum(each.shape[1] for each in maps.values()),
        [rate for part in (network.attention, network.head) for rate in _drop_rates(part) if rate],
    )


SUMMARY_COLUMNS = (
    "recipe",
    "backbone",
    "attention",
    "head",
    "head input",
    "scale",
    "maps",
    "dropout",
)

SUMMARY_CAPTION = (
    "Parameters of backbone, attention and head, trained (+ frozen). Head input: shape of the map "
    "that the head receives. Scale: standard deviation of its values before training, relative to "
    "{control}. Dropout: in attention and head."
)


def summary_rows(summaries: Mapping[str, ModelSummary], control: str) -> list[list[str]]:
    """Return a row of `SUMMARY_COLUMNS` for each recipe.

    Args:
        summaries: Summary of the model by name of the recipe.
        control: Name of the recipe whose scale is 1.
    """
    unit = summaries[control].head_input_std
    return [
        [
            name,
            *(_counts(each, part) for part in ("backbone", "attention", "head")),
            "x".join(map(str, each.head_input)),
            f"{each.head_input_std / unit:.3g}" if unit else "nan",
            str(each.num_maps),
            ", ".join(f"{rate:g}" for rate in each.dropout) or "0",
        ]
        for name, each in summaries.items()
    ]


def summary_table(summaries: Mapping[str, ModelSummary], control: str) -> Table:
    """Return a table that compares models before training, at most 80 columns wide.

    Args:
        summaries: Summary of the model by name of the recipe.
        control: Name of the recipe whose scale is 1.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
        caption=SUMMARY_CAPTION.format(control=control),
        caption_justify="left",
    )
    for number, name in enumerate(SUMMARY_COLUMNS):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in summary_rows(summaries, control):
        table.add_row(*map(escape, row))
    return table


def parameter_table(model: LesionClassifier, authors: Mapping[str, int] | None = None) -> Table:
    """Return a table of the parameter counts of each part, next to those of the authors' model.

    Keras counts the running statistics of norms as parameters, so the table contains them too.

    Args:
        model: The model.
        authors: Counts by part; `model.authors_parameters` of the recipe.
    """
    authors = authors or {}
    rows = {
        name: (_parameters(part, True), _parameters(part, False), _statistics(part))
        for name, part in model.parts().items()
    }
    trained, frozen, statistics = zip(*rows.values(), strict=True)
    rows["all"] = (sum(trained), sum(frozen), sum(statistics))
    known = {**authors, "all": sum(authors.values())} if authors else {}
    table = Table("part", title="parameters", title_justify="left")
    for title in (
        "trained",
        "frozen",
        "statistics",
        *(["together", "the authors'"] if known else []),
    ):
        table.add_column(title, justify="right")
    for name, counts in rows.items():
        cells = [f"{count:,}" for count in counts]
        if known:
            cells += [f"{sum(counts):,}", f"{known[name]:,}" if name in known else ""]
        table.add_row(name, *cells)
    return table


def _parameters(part: nn.Module, trained: bool) -> int:
    return sum(p.numel() for p in part.parameters() if p.requires_grad == trained)


def _drop_rates(part: nn.Module) -> Iterator[float]:
    for module in part.modules():
        if isinstance(module, nn.Dropout):
            yield module.p
        elif isinstance(module, SoftAttentionBlock):
            yield module.drop_rate


def _counts(summary: ModelSummary, part: str) -> str:
    # The module for metadata counts as part of the head.
    parts = (part, "metadata") if part == "head" else (part,)
    trained, frozen = (
        sum(counts.get(name, 0) for name in parts) for counts in (summary.trained, summary.frozen)
    )
    return f"{_short(trained)} + {_short(frozen)}" if frozen else _short(trained)


def _short(count: int) -> str:
    """Return a count with at least three significant digits."""
    if count < 10_000:
        return f"{count:,}"
    return f"{count / 1e3:.3g}k" if count < 999_500 else f"{count / 1e6:.3g}M"


def _statistics(part: nn.Module) -> int:
    # The running means and variances of norms.
    return sum(buffer.numel() for buffer in part.buffers() if buffer.ndim)
