"""Networks and heads that are built here: the authors' two networks, a tiny one, and two heads.

A network is a sequence of named stages, which can be cut at any stage and continued on a map with
any number of channels. In the authors' networks each convolution is followed by ReLU and then by
batch norm. Source: the notebooks published with arXiv:2105.03358.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from softattn import SpatialAttention
from torch import Tensor, nn

from ham10000.errors import RecipeError, closest

__all__ = ["NETWORKS", "MaxHead", "Network", "ProbeHead", "Shape", "Stage", "output_shape"]

Stage = Callable[[int], nn.Module]
"""Function from the number of input channels to a module."""

Shape = tuple[int, ...]
"""Shape (C, H, W) of a feature map."""


@dataclass(frozen=True)
class Network:
    """A network that can be built in two parts, with other modules between them.

    Example:
        >>> from torch import nn
        >>> from ham10000.models.networks import Network
        >>> network = Network(
        ...     {"one": lambda c: nn.Conv2d(c, 4, 1), "pool": lambda c: nn.MaxPool2d(2)},
        ...     lambda shape, classes: nn.Linear(shape[0], classes),
        ... )
        >>> [name for name, _ in network.front("one").named_children()]
        ['one']
        >>> [name for name, _ in network.rest("one", (8, 6, 6), 7, pooled=False).named_children()]
        ['pool', 'classifier']

    Args:
        stages: Stages by name, in order.
        classifier: Function from the shape of the last map and the number of classes to a module.
    """

    stages: Mapping[str, Stage]
    classifier: Callable[[Shape, int], nn.Module]

    def front(self, at: str) -> nn.Sequential:
        """Build the stages up to and including `at`, for RGB images.

        Raises:
            RecipeError: There is no such stage.
        """
        front, channels = nn.Sequential(), 3
        for name in list(self.stages)[: self._index(at) + 1]:
            stage = self.stages[name]
            front.add_module(name, stage(channels))
            channels = output_shape(stage, (channels, 64, 64))[0]
        return front

    def rest(self, at: str, shape: Shape, num_classes: int, *, pooled: bool) -> nn.Sequential:
        """Build the stages after `at`, and the classifier.

        Args:
            at: The last stage of the front.
            shape: Shape of the input map.
            num_classes: Number of classes.
            pooled: Whether the input is pooled already; a pooling stage right after `at` is then
                left out.

        Raises:
            RecipeError: There is no such stage.
        """
        rest = nn.Sequential()
        for name in list(self.stages)[self._index(at) + 1 :]:
            stage = self.stages[name]
            module = stage(shape[0])
            if pooled and not len(rest) and isinstance(module, nn.MaxPool2d):
                continue
            rest.add_module(name, module)
            shape = output_shape(stage, shape)
        rest.add_module("classifier", self.classifier(shape, num_classes))
        return rest

    def _index(self, at: str) -> int:
        if at not in self.stages:
            raise RecipeError(
                f"building a network: model.at names no stage of it, found {at!r}. "
                f"{closest(at, self.stages)}"
            )
        return list(self.stages).index(at)


def output_shape(stage: Stage, shape: Shape) -> Shape:
    """Return the output shape of a stage for an input shape, without computing anything.

    Example:
        >>> from torch import nn
        >>> from ham10000.models.networks import output_shape
        >>> output_shape(lambda channels: nn.Conv2d(channels, 8, 3, stride=2), (3, 65, 65))
        (8, 32, 32)
    """
    with torch.device("meta"):
        return tuple(stage(shape[0]).eval()(torch.empty(1, *shape)).shape[1:])


def _convolution(channels: int, width: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(channels, width, size, stride, padding=size // 2)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(layer, nn.ReLU(inplace=True), nn.BatchNorm2d(width))


def _convolutions(width: int, sizes: tuple[int, ...]) -> Stage:
    def build(channels: int) -> nn.Module:
        widths = (channels, *[width] * len(sizes))
        layers = [
            _convolution(before, after, size)
            for (before, after), size in zip(pairwise(widths), sizes, strict=True)
        ]
        return nn.Sequential(*layers)

    return build


def _pooling(size: int, stride: int | None = None) -> Stage:
    return lambda channels: nn.MaxPool2d(size, stride, ceil_mode=True)


class _Residual(nn.Module):
    """Sum of two convolutions and a skip connection, which can be a convolution too."""

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
"""Networks by name, as in `ham10000:vgg16`."""


class MaxHead(nn.Sequential):
    """Linear layer on the maximum of each channel.

    Example:
        >>> import torch
        >>> from ham10000.models.networks import MaxHead
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
        >>> from ham10000.models.networks import ProbeHead
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
