"""Classification heads: maximum pooling, and a multi-query attentive probe."""

import torch
from softattn import SpatialAttention
from torch import Tensor, nn

from ham10000.errors import RecipeError

__all__ = ["MaxHead", "ProbeHead"]


class MaxHead(nn.Sequential):
    """Linear layer on the maximum of each channel.

    Example:
        >>> import torch
        >>> from ham10000.models.heads import MaxHead
        >>> MaxHead(64, num_classes=7)(torch.randn(2, 64, 4, 4)).shape
        torch.Size([2, 7])

    Args:
        in_channels: Number of channels C of the map.
        num_classes: Number of classes.
        drop_rate: Dropout before the linear layer.

    Shape:
        - x: (B, C, H, W).
        - output: (B, num_classes).
    """

    def __init__(self, in_channels: int, num_classes: int, drop_rate: float = 0.0) -> None:
        super().__init__(
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Dropout(drop_rate),
            nn.Linear(in_channels, num_classes),
        )


class ProbeHead(SpatialAttention):
    """Linear layer on the output of a multi-query attentive probe.

    Each query m has an attention map over the positions p, softmax_p(q_m . x_p), and pools its own
    slice of the values W_v x_p with it. The pooled slices are concatenated:
    y = concat_m sum_p softmax_p(q_m . x_p) (W_v x_p)[slice m]. The queries are initialized to zero,
    so the maps are uniform at first.

    Example:
        >>> import torch
        >>> from ham10000.models.heads import ProbeHead
        >>> ProbeHead(64, num_classes=7, num_queries=8)(torch.randn(2, 64, 4, 4)).shape
        torch.Size([2, 7])

    Args:
        in_channels: Number of channels C of the map.
        num_classes: Number of classes.
        num_queries: Number of queries M, a divisor of C.
        drop_rate: Dropout before the linear layer.

    Shape:
        - x: (B, C, H, W).
        - output: (B, num_classes). The maps that `capture_maps` collects are (B, M, H, W).

    Raises:
        RecipeError: C is not divisible by M.

    Source: Psomas et al., Attention, Please! Revisiting Attentive Probing, arXiv:2506.10178.
    """

    def __init__(
        self, in_channels: int, num_classes: int, num_queries: int = 16, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        if in_channels % num_queries:
            raise RecipeError(
                f"building the head probe: {in_channels} channels cannot be divided evenly among "
                f"model.num_queries {num_queries}. Choose a divisor of {in_channels}."
            )
        self.queries = nn.Parameter(torch.zeros(num_queries, in_channels))
        self.values = nn.Linear(in_channels, in_channels, bias=False)
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        positions = x.flatten(2)
        maps = (self.queries @ positions).softmax(dim=2)
        # Both are linear, so W_v can be applied after pooling, which is H * W times cheaper.
        pooled = maps @ positions.mT
        slices = self.values.weight.reshape(len(self.queries), -1, x.shape[1])
        y = torch.einsum("mdc,bmc->bmd", slices, pooled).flatten(1)
        scores: Tensor = self.fc(self.drop(y))
        self.emit(scores, maps.reshape(*maps.shape[:2], *x.shape[2:]), return_maps=False)
        return scores
