"""Plain implementations of the alternatives to softattn."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softattn.functional import attend, attention_maps


class Conv3dAttention(nn.Module):
    """The equation as in other ports to PyTorch: a Conv3d over a single channel."""

    def __init__(self, channels: int, num_maps: int = 16, aggregate: bool = True) -> None:
        super().__init__()
        self.aggregate = aggregate
        self.conv = nn.Conv3d(1, num_maps, (channels, 3, 3), padding=(0, 1, 1))
        self.gamma = nn.Parameter(torch.tensor(0.01))

    def forward(self, x: Tensor) -> Tensor:
        """Scale x by its attention."""
        logits = self.conv(x.unsqueeze(1)).squeeze(2)
        maps = logits.flatten(2).softmax(dim=-1).reshape(logits.shape)
        if self.aggregate:
            scaled: Tensor = self.gamma * (x * maps.sum(dim=1, keepdim=True))
            return scaled
        return self.gamma * (x.unsqueeze(1) * maps.unsqueeze(2)).flatten(1, 2)


def plain(
    x: Tensor, weight: Tensor, bias: Tensor | None, gamma: Tensor, aggregate: bool = True
) -> Tensor:
    """Compute the layer with torch functions and the gradient of autograd."""
    return attend(x, attention_maps(x, weight, bias), gamma, aggregate=aggregate)


def bare(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute only the convolution, which is the lower limit."""
    return F.conv2d(x, weight, bias, padding=1)
