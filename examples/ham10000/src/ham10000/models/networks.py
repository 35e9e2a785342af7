"""The two networks that the authors built themselves, and one for trying things.

In theirs each convolution is followed by ReLU and then by the norm. Source: the notebooks beside
arXiv:2105.03358.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ham10000.models.stages import Network, Shape, Stage

__all__ = ["NETWORKS"]


def _convolution(channels: int, width: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution as the authors have it: ReLU, and the norm after it."""
    layer = nn.Conv2d(channels, width, size, stride, padding=size // 2)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(layer, nn.ReLU(inplace=True), nn.BatchNorm2d(width))


def _convolutions(width: int, sizes: tuple[int, ...]) -> Stage:
    """Make a stage of convolutions of these sizes."""

    def build(channels: int) -> nn.Module:
        widths = (channels, *[width] * len(sizes))
        layers = [
            _convolution(before, after, size)
            for (before, after), size in zip(pairwise(widths), sizes, strict=True)
        ]
        return nn.Sequential(*layers)

    return build


def _pooling(size: int, stride: int | None = None) -> Stage:
    """Make a stage that takes the largest value of each window; a window may be cut off."""
    return lambda channels: nn.MaxPool2d(size, stride, ceil_mode=True)


class _Residual(nn.Module):
    """Two convolutions beside a third, or beside nothing, added."""

    def __init__(self, channels: int, width: int, convolve_skip: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolution(channels, width), _convolution(width, width))
        self.skip = _convolution(channels, width) if convolve_skip else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.skip(x) + self.body(x))


def _residuals(width: int, count: int, convolve_skip: bool = True) -> Stage:
    def build(channels: int) -> nn.Module:
        widths = (channels, *[width] * count)
        return nn.Sequential(*(_Residual(a, b, convolve_skip) for a, b in pairwise(widths)))

    return build


def _stem(channels: int) -> nn.Module:
    return nn.Sequential(_convolution(channels, 64, stride=2), nn.MaxPool2d(3, 2, padding=1))


def _dense(shape: Shape, num_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(torch.Size(shape).numel(), 4096),
        nn.ReLU(inplace=True),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Linear(4096, num_classes),
    )


def _pooled(shape: Shape, num_classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], num_classes))


NETWORKS = {
    "vgg16": Network(
        {
            "block1": _convolutions(64, (3, 1)),
            "pool1": _pooling(2),
            "block2": _convolutions(128, (3, 1)),
            "pool2": _pooling(2),
            "block3": _convolutions(256, (3, 3, 1)),
            "pool3": _pooling(2),
            "block4": _convolutions(512, (3, 3, 1)),
            "pool4": _pooling(2),
            "block5": _convolutions(512, (3, 3, 1)),
            "pool5": _pooling(4),
        },
        _dense,
    ),
    "resnet34": Network(
        {
            "block1": _stem,
            "block2": _residuals(64, 3, convolve_skip=False),
            "pool2": _pooling(2),
            "block3": _residuals(128, 4),
            "pool3": _pooling(2),
            "block4": _residuals(256, 6),
            "pool4": _pooling(2),
            "block5": _residuals(512, 3),
        },
        _pooled,
    ),
    "tiny": Network(
        {
            "block1": _convolutions(8, (3,)),
            "pool1": _pooling(4),
            "block2": _convolutions(16, (3,)),
            "pool2": _pooling(2),
            "block3": _convolutions(32, (3, 1)),
        },
        _pooled,
    ),
}
"""By name, as in `ham10000:vgg16`."""
