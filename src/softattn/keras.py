"""An exact port of the authors' published layer, and a reader for its Keras weights.

The layer is not equation 1. Its `conv3d` has strides (1, 1, C) over the axes (height, width,
channels) and a kernel of (C, 3, 3): C rows, 3 columns, and 3 channels. With stride C and SAME
padding, the only step along the channels covers the first three, so no other channel affects the
maps. A bias and a ReLU precede the softmax, and there is no gamma.

Source: github.com/skrantidatta/Attention-based-Skin-Cancer-Classification.
"""

from collections.abc import Mapping
from os import PathLike
from typing import Protocol

import torch
import torch.fx
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from softattn import functional
from softattn._keras_files import find_layer, open_file, read_mapping
from softattn._validation import check_bool, check_int, check_operands, parameter_factory
from softattn.capture import SpatialAttention
from softattn.errors import ArgumentTypeError

__all__ = ["Array", "KerasSoftAttention", "load_weights"]

_DEPTH = 3  # channels that the authors' kernel covers
_WIDTH = 3


class Array(Protocol):
    """An array that `load_weights` reads: of NumPy, h5py, torch or Keras."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis."""


class KerasSoftAttention(SpatialAttention):
    """Exact port of the authors' Keras layer.

    Example:
        >>> import torch
        >>> from softattn.keras import KerasSoftAttention
        >>> layer = KerasSoftAttention(in_channels=192, aggregate=True)
        >>> features, maps = layer(torch.randn(2, 192, 8, 8), return_maps=True)
        >>> features.shape, maps.shape
        (torch.Size([2, 192, 8, 8]), torch.Size([2, 16, 8, 8]))

        Only the first three channels affect the maps:

        >>> x = torch.randn(1, 192, 8, 8)
        >>> other = torch.cat([x[:, :3], torch.randn(1, 189, 8, 8)], dim=1)
        >>> bool((layer(x, return_maps=True)[1] == layer(other, return_maps=True)[1]).all())
        True

    Args:
        in_channels: C, the channels of the feature map (`ch` in their code).
        num_maps: K (`m` in their code).
        aggregate: Scale the features by the sum of the maps, not by each of them.
        concat: Append x to the attended features (`concat_with_x` in their code).
            `SoftAttention` prepends it.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Shape:
        - x: (B, C, H, W), unlike their (B, H, W, C).
        - features: (B, C', H, W), where C' is `out_channels`: C, or K * C without `aggregate`,
          plus C with `concat`.
        - maps: (B, K, H, W); each map sums to 1.

    Attributes:
        weight: (K, 3, C, 3), `kernel_conv3d` (C, 3, 3, 1, K) as the weight of a 2-D convolution,
            initialized He-uniform.
        bias: (K,), `bias_conv3d`, initialized with zeros.

    Raises:
        ArgumentError: An argument is out of range.
        ArgumentTypeError: An argument has the wrong type.
        ShapeError: In `forward`, x isn't (B, C, H, W).

    `forward` also raises the errors of `functional.attention_maps` for the type, dtype and device
    of x.

    Source: `SoftAttention(ch, m, concat_with_x, aggregate)` in the authors' repository. The
    convolution is that of TensorFlow on GPUs and with XLA; TensorFlow's CPU kernels return other
    values, which also differ from each other.
    """

    def __init__(
        self,
        in_channels: int,
        num_maps: int = 16,
        *,
        aggregate: bool = False,
        concat: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        doing = f"building {type(self).__name__}"
        self.in_channels: int = check_int(doing, "in_channels", in_channels)
        self.num_maps: int = check_int(doing, "num_maps", num_maps)
        self.aggregate: bool = check_bool(doing, "aggregate", aggregate)
        self.concat: bool = check_bool(doing, "concat", concat)
        parameter = parameter_factory(doing, device, dtype)
        self.weight: nn.Parameter = parameter(self.num_maps, _DEPTH, self.in_channels, _WIDTH)
        self.bias: nn.Parameter = parameter(self.num_maps)
        self.reset_parameters()

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        copies = (1 if self.aggregate else self.num_maps) + self.concat
        return copies * self.in_channels

    def reset_parameters(self) -> None:
        """Reinitialize the parameters: He-uniform kernel, zero bias."""
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, return_maps: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Scale x as the authors' layer does; with `return_maps` return (features, maps)."""
        result = _attention(x, self.weight, self.bias, aggregate=self.aggregate, concat=self.concat)
        maps, features = result[1], result[0]  # in this order, as in SoftAttention
        return self.emit(features, maps, return_maps)

    def extra_repr(self) -> str:
        """Return the arguments, for `print(module)`."""
        return (
            f"{self.in_channels}, num_maps={self.num_maps}, aggregate={self.aggregate}, "
            f"concat={self.concat}"
        )


def _attention(
    x: Tensor, weight: Tensor, bias: Tensor, *, aggregate: bool, concat: bool
) -> tuple[Tensor, Tensor]:
    doing = "computing the authors' attention"
    check_operands(doing, x, weight, bias)
    functional.check_feature_map(x, weight.shape[2], doing, num_dims=2)
    maps = functional.spatial_softmax(F.relu(_logits(x, weight, bias)))
    features = functional.attend(x, maps, aggregate=aggregate)
    return (torch.cat([features, x], dim=1) if concat else features), maps


def _logits(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    channels, height = x.shape[1], x.shape[2]
    # SAME padding of C channels for a kernel of 3 at stride C: none, unless C is below 3.
    first = max(_DEPTH - channels, 0) // 2
    depth = min(_DEPTH, channels)
    # SAME padding of H rows for a kernel of C rows.
    centre = (channels - 1) // 2
    above, below = centre, channels - 1 - centre
    if not torch.compiler.is_compiling():
        # Rows of the kernel further than H - 1 from its centre only cover padding. An exported
        # graph keeps them, since H may vary.
        above, below = min(above, height - 1), min(below, height - 1)
    weight = weight.narrow(1, first, depth).narrow(2, centre - above, above + below + 1)
    padded = F.pad(x.narrow(1, 0, depth), [_WIDTH // 2, _WIDTH // 2, above, below])
    return F.conv2d(padded, weight, bias)


torch.fx.wrap("_attention")  # as in softattn.functional


def load_weights(
    module: KerasSoftAttention,
    source: str | PathLike[str] | Mapping[str, Array],
    *,
    layer: str | None = None,
) -> KerasSoftAttention:
    """Load the weights of the authors' layer into a module, from a Keras file or from arrays.

    Example:
        >>> import numpy as np
        >>> from softattn.keras import KerasSoftAttention, load_weights
        >>> layer = KerasSoftAttention(8, num_maps=2)
        >>> arrays = {"kernel_conv3d": np.zeros((8, 3, 3, 1, 2)), "bias_conv3d": np.ones(2)}
        >>> load_weights(layer, arrays).bias
        Parameter containing:
        tensor([1., 1.], requires_grad=True)

    Args:
        module: The module that receives the weights.
        source: A mapping with `kernel_conv3d` (C, 3, 3, 1, K) and `bias_conv3d` (K,), or the path
            of a file: Keras 2 `.h5` or `.hdf5`, of weights or of a whole model; Keras 3
            `.weights.h5`; a `.keras` archive. The format is detected from the content, not the
            name. The layer is found by the shape of its kernel. Arrays may be NumPy arrays,
            tensors, h5py data sets or Keras variables, in any real dtype (bfloat16 too) and byte
            order. Nothing is unpickled.
        layer: The name of the layer, of a nested model that contains it, or of an HDF5 group, if
            several layers have this shape. `.weights.h5` files of early versions of Keras 3
            contain only names of groups.

    Returns:
        The module.

    Raises:
        WeightsError: The file can't be read, or the layer isn't in it, or several layers fit, or
            its weights have another shape or are not real numbers. The module is then unchanged.
        ArgumentTypeError: The module isn't a `KerasSoftAttention`, or the source is neither a path
            nor a mapping of arrays.
        MissingExtraError: h5py isn't installed.
    """
    if not isinstance(module, KerasSoftAttention):
        raise ArgumentTypeError(
            "loading the authors' weights: expected a KerasSoftAttention, found "
            f"{type(module).__name__}. Other layers do not use the authors' kernel."
        )
    wanted = (module.in_channels, module.num_maps, layer)
    if isinstance(source, Mapping):
        kernel, bias = find_layer(read_mapping(source), "the mapping", *wanted)
    else:
        with open_file(source) as entries:
            kernel, bias = find_layer(entries, str(source), *wanted)
    with torch.no_grad():
        module.weight.copy_(rearrange(kernel, "rows cols depth 1 k -> k depth rows cols"))
        module.bias.copy_(bias)
    return module
