"""Fusion of an image with the metadata of its lesion: four ways, one module each.

`on_map` of a module says what it takes besides the metadata, (B, M): the feature map before the
attention, (B, C, H, W), which it returns changed, or the output of the image's head, which it
turns into logits. Unknown metadata is all zeros, as `ham10000.data.metadata_features` makes it.
"""

from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["ConcatFusion", "Fusion", "LateFusion", "MetaBlock", "MetaNet"]


class LateFusion(nn.Sequential):
    """Two linear layers that map metadata to logits, which are added to those of the image.

    A linear layer on concatenated features of image and metadata is the sum of one layer on each,
    so this is late fusion. The last layer starts at zero: at first the metadata has no effect.

    Example:
        >>> import torch
        >>> from ham10000.models.fusion import LateFusion
        >>> LateFusion(18, num_classes=7)(torch.randn(2, 7), torch.rand(2, 18)).shape
        torch.Size([2, 7])

    Args:
        num_metadata: Number of metadata features M.
        num_classes: Number of classes.
        width: Width of the hidden layer.
        drop_rate: Dropout before the last layer.

    Shape:
        - x: (B, num_classes), the logits of the image.
        - metadata: (B, M).
        - output: (B, num_classes).
    """

    on_map: ClassVar[bool] = False

    def __init__(
        self, num_metadata: int, num_classes: int, width: int = 64, drop_rate: float = 0.2
    ) -> None:
        last = nn.Linear(width, num_classes)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(
            nn.Linear(num_metadata, width), nn.ReLU(inplace=True), nn.Dropout(drop_rate), last
        )

    # A sequence of layers, so that its parameters keep their names in older checkpoints.
    def forward(self, x: Tensor, metadata: Tensor) -> Tensor:  # type: ignore[override]
        """Return the logits."""
        added: Tensor = super().forward(metadata)  # type: ignore[no-untyped-call]
        return x + added


class ConcatFusion(nn.Module):
    """Classifier of the features of an image, concatenated with encoded metadata.

    The metadata is encoded by two hidden layers. A third one follows the concatenation: without it
    the two would be classified independently of each other, as in `LateFusion`. Each has batch
    norm, ReLU and dropout.

    Example:
        >>> import torch
        >>> from ham10000.models.fusion import ConcatFusion
        >>> fusion = ConcatFusion(18, in_features=64, num_classes=7)
        >>> fusion(torch.randn(2, 64), torch.rand(2, 18)).shape
        torch.Size([2, 7])

    Args:
        num_metadata: Number of metadata features M.
        in_features: Number of image features F.
        num_classes: Number of classes.
        width: Width of the layers that encode the metadata.
        joint_width: Width of the layer after the concatenation.
        drop_rate: Dropout of the three layers.

    Shape:
        - x: (B, F), the input of the image's classifier.
        - metadata: (B, M).
        - output: (B, num_classes).

    Source: Gessert et al., Skin Lesion Classification Using Ensembles of Multi-Resolution
    EfficientNets with Meta Data, MethodsX 7, 2020, arXiv:1910.03910.
    """

    on_map: ClassVar[bool] = False

    def __init__(
        self,
        num_metadata: int,
        in_features: int,
        num_classes: int,
        width: int = 256,
        joint_width: int = 1024,
        drop_rate: float = 0.4,
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            _hidden(num_metadata, width, drop_rate), _hidden(width, width, drop_rate)
        )
        self.joint = _hidden(in_features + width, joint_width, drop_rate)
        self.fc = nn.Linear(joint_width, num_classes)

    def forward(self, x: Tensor, metadata: Tensor) -> Tensor:
        """Return the logits."""
        joined = torch.cat([x, self.encoder(metadata)], dim=1)
        scores: Tensor = self.fc(self.joint(joined))
        return scores


def _hidden(in_features: int, width: int, drop_rate: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_features, width),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Dropout(drop_rate),
    )


class MetaNet(nn.Module):
    """Factor between 0 and 1 for each channel of a feature map, computed from metadata.

    V' = V * sigmoid(W2 relu(W1 U)), with the same factor at every position.

    Example:
        >>> import torch
        >>> from ham10000.models.fusion import MetaNet
        >>> MetaNet(18, in_channels=64)(torch.randn(2, 64, 4, 4), torch.rand(2, 18)).shape
        torch.Size([2, 64, 4, 4])

    Args:
        num_metadata: Number of metadata features M.
        in_channels: Number of channels C of the map.
        width: Width of the hidden layer.

    Shape:
        - x: V, (B, C, H, W), the last feature map of the backbone.
        - metadata: U, (B, M).
        - output: V', (B, C, H, W).

    Source: Li et al., Fusing Metadata and Dermoscopy Images for Skin Disease Diagnosis, ISBI 2020,
    doi:10.1109/ISBI45749.2020.9098645.
    """

    on_map: ClassVar[bool] = True

    def __init__(self, num_metadata: int, in_channels: int, width: int = 64) -> None:
        super().__init__()
        self.fc1 = nn.Linear(num_metadata, width)
        self.fc2 = nn.Linear(width, in_channels)

    def forward(self, x: Tensor, metadata: Tensor) -> Tensor:
        """Return the feature map with each channel scaled."""
        factors: Tensor = self.fc2(self.fc1(metadata).relu()).sigmoid()
        return x * factors[:, :, None, None]


class MetaBlock(nn.Module):
    """Gate of a feature map that is scaled and shifted by metadata, channel by channel.

    V' = sigmoid(tanh(V * f(U)) + g(U)). f and g are linear layers with batch norm, and their values
    are the same at every position.

    Example:
        >>> import torch
        >>> from ham10000.models.fusion import MetaBlock
        >>> MetaBlock(18, in_channels=64)(torch.randn(2, 64, 4, 4), torch.rand(2, 18)).shape
        torch.Size([2, 64, 4, 4])

    Args:
        num_metadata: Number of metadata features M.
        in_channels: Number of channels C of the map.

    Shape:
        - x: V, (B, C, H, W), the last feature map of the backbone.
        - metadata: U, (B, M).
        - output: V', (B, C, H, W), from 0 to 1.

    Source: Pacheco and Krohling, An Attention-Based Mechanism to Combine Images and Metadata in
    Deep Learning Models Applied to Skin Cancer Classification, IEEE JBHI 25, 2021,
    doi:10.1109/JBHI.2021.3062002.
    """

    on_map: ClassVar[bool] = True

    def __init__(self, num_metadata: int, in_channels: int) -> None:
        super().__init__()
        self.scale = nn.Sequential(
            nn.Linear(num_metadata, in_channels), nn.BatchNorm1d(in_channels)
        )
        self.shift = nn.Sequential(
            nn.Linear(num_metadata, in_channels), nn.BatchNorm1d(in_channels)
        )

    def forward(self, x: Tensor, metadata: Tensor) -> Tensor:
        """Return the gated feature map."""
        scale: Tensor = self.scale(metadata)[:, :, None, None]
        shift: Tensor = self.shift(metadata)[:, :, None, None]
        return ((x * scale).tanh() + shift).sigmoid()


Fusion: TypeAlias = LateFusion | ConcatFusion | MetaNet | MetaBlock
"""Module that combines an image with metadata."""
