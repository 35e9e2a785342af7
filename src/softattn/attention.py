"""Soft-Attention as modules: parameters around `softattn.functional`."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softattn import functional
from softattn._validation import finite_number, fraction, odd_pair, whole_number
from softattn.capture import SpatialAttention
from softattn.functional import Activation
from softattn.one_pass import OnePass, usable, wanted

__all__ = ["SoftAttention", "SoftAttentionBlock"]

# torch 2.6 has no is_exporting, and can't tell the two apart.
_exporting: Callable[[], bool] = getattr(
    torch.compiler, "is_exporting", torch.compiler.is_compiling
)


class SoftAttention(SpatialAttention):
    """Soft-Attention, equation 1 of the paper, computed as one 2-D convolution.

    Example:
        >>> import torch
        >>> from softattn import SoftAttention
        >>> attention = SoftAttention(in_channels=64)
        >>> x = torch.randn(2, 64, 7, 7)
        >>> attention(x).shape
        torch.Size([2, 64, 7, 7])
        >>> features, maps = attention(x, return_maps=True)
        >>> maps.shape
        torch.Size([2, 16, 7, 7])

    Args:
        in_channels: C, the channels of the feature map.
        num_maps: K, the number of attention maps.
        kernel_size: of the convolution: odd, one number or (height, width).
        aggregate: scale the features by the sum of the maps. Otherwise by each map, and the
            result has K times the channels.
        concat: put the unchanged features in front, along the channels.
        gamma: initial value of the learned factor; `None` for no factor. 0.01 is the paper's.
            Each map sums to 1, so with uniform maps and `aggregate` the features are scaled by
            gamma * K / (H * W): by 0.003 for gamma 0.01, K = 16 and 7 x 7 positions. Where the
            attended features have no unscaled copy beside them (`concat`, or a residual
            connection), gamma = H * W / K keeps their scale, which is what `wrap_backbone` does.
        activation: between convolution and softmax; a function, or the name of one. The authors'
            code has `"relu"`, the paper has none.
        bias: give the convolution a bias. Without an activation it is never felt.
        device: where the parameters are.
        dtype: of the parameters.

    Shape:
        - x: (B, C, H, W), any H and W of at least 1.
        - features: (B, C', H, W), where C' is `out_channels`: C, or K * C without `aggregate`,
          plus C with `concat`.
        - maps: (B, K, H, W), in float32 at least; each sums to 1.

    Attributes:
        weight: (K, C, kh, kw), starting from the authors' He-uniform distribution.
        bias: (K,), starting from zeros; or `None`.
        gamma: (), or `None`.

    Raises:
        ArgumentError: an argument is out of range.
        ArgumentTypeError: an argument has the wrong type.
        ShapeError: in `forward`, x isn't (B, C, H, W).

    Source: arXiv:2105.03358, section 2.1. `softattn.keras.KerasSoftAttention` is the layer that
    the authors published, which computes something else.
    """

    def __init__(
        self,
        in_channels: int,
        num_maps: int = 16,
        kernel_size: int | tuple[int, int] = 3,
        *,
        aggregate: bool = True,
        concat: bool = False,
        gamma: float | None = 0.01,
        activation: Activation = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        doing = f"building {type(self).__name__}"
        self.in_channels = whole_number(doing, "in_channels", in_channels)
        self.num_maps = whole_number(doing, "num_maps", num_maps)
        self.kernel_size = odd_pair(doing, "kernel_size", kernel_size)
        self.aggregate = aggregate
        self.concat = concat
        self.initial_gamma = None if gamma is None else finite_number(doing, "gamma", gamma)
        functional.get_activation(activation)
        self.activation = activation

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.weight = parameter(self.num_maps, self.in_channels, *self.kernel_size)
        self.bias = parameter(self.num_maps) if bias else None
        self.gamma = None if gamma is None else parameter()
        self.reset_parameters()

    @property
    def out_channels(self) -> int:
        """The channels that come out."""
        copies = (1 if self.aggregate else self.num_maps) + self.concat
        return copies * self.in_channels

    def reset_parameters(self) -> None:
        """Start again: He-uniform weights, no bias, gamma as it was given."""
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.gamma is not None and self.initial_gamma is not None:
            nn.init.constant_(self.gamma, self.initial_gamma)

    def forward(self, x: Tensor, return_maps: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Scale x by its attention; with `return_maps` give (features, maps)."""
        result = functional.soft_attention(
            x,
            self.weight,
            self.bias,
            self.gamma,
            aggregate=self.aggregate,
            concat=self.concat,
            activation=self.activation,
            return_maps=True,
        )
        # The features last: to torchvision's feature extraction, the output of a module is the
        # last node in it.
        maps, features = result[1], result[0]
        return self.emit(features, maps, return_maps)

    def extra_repr(self) -> str:
        """Give the arguments that differ from the defaults, for `print(module)`."""
        parts = [f"{self.in_channels}, num_maps={self.num_maps}, kernel_size={self.kernel_size}"]
        parts += [f"aggregate={self.aggregate}"] if not self.aggregate else []
        parts += [f"concat={self.concat}"] if self.concat else []
        parts += [f"gamma={self.initial_gamma}"] if self.initial_gamma != 0.01 else []
        if self.activation is not None and not isinstance(self.activation, nn.Module):
            name = getattr(self.activation, "__name__", self.activation)
            parts.append(f"activation={name!r}")
        parts += ["bias=False"] if self.bias is None else []
        return ", ".join(parts)


class SoftAttentionBlock(nn.Module):
    """The paper's block: features beside attended features, pooled, with ReLU and dropout.

    Example:
        >>> import torch
        >>> from softattn import SoftAttentionBlock
        >>> block = SoftAttentionBlock(in_channels=192)
        >>> block(torch.randn(2, 192, 8, 8)).shape
        torch.Size([2, 384, 4, 4])

    Args:
        in_channels: C, the channels of the feature map.
        num_maps: K, the number of attention maps.
        kernel_size: of the attention's convolution: odd, one number or (height, width).
        aggregate: as in `SoftAttention`.
        gamma: as in `SoftAttention`.
        activation: as in `SoftAttention`.
        bias: as in `SoftAttention`.
        pool: size and stride of the max-pooling; 1 for none. An odd map rounds up: the last
            window is then narrower, as in the authors' code.
        drop_rate: the probability with which dropout zeroes a value.
        device: where the parameters are.
        dtype: of the parameters.

    Shape:
        - x: (B, C, H, W).
        - features: (B, C', ceil(H / pool), ceil(W / pool)), x first, where C' is `out_channels`:
          2 * C, or (1 + K) * C without `aggregate`.
        - maps: (B, K, H, W), before pooling.

    Raises:
        ArgumentError: an argument is out of range.
        ArgumentTypeError: an argument has the wrong type.
        ShapeError: in `forward`, x isn't (B, C, H, W).

    Source: arXiv:2105.03358, section 2.1 and figure 2; pool and drop_rate are the authors'.
    """

    def __init__(
        self,
        in_channels: int,
        num_maps: int = 16,
        kernel_size: int | tuple[int, int] = 3,
        *,
        aggregate: bool = True,
        gamma: float | None = 0.01,
        activation: Activation = None,
        bias: bool = True,
        pool: int = 2,
        drop_rate: float = 0.5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        doing = f"building {type(self).__name__}"
        self.pool = whole_number(doing, "pool", pool)
        self.drop_rate = fraction(doing, "drop_rate", drop_rate)
        self.attention = SoftAttention(
            in_channels,
            num_maps,
            kernel_size,
            aggregate=aggregate,
            gamma=gamma,
            activation=activation,
            bias=bias,
            device=device,
            dtype=dtype,
        )

    @property
    def in_channels(self) -> int:
        """The channels that go in."""
        return self.attention.in_channels

    @property
    def out_channels(self) -> int:
        """The channels that come out."""
        return self.in_channels + self.attention.out_channels

    def forward(self, x: Tensor, return_maps: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Give the block's features; with `return_maps` give (features, maps)."""
        features, maps = self._attended(x)
        features = F.dropout(features, self.drop_rate, self.training)
        return (features, maps) if return_maps else features

    def _attended(self, x: Tensor) -> tuple[Tensor, Tensor]:
        attention = self.attention
        if wanted(x) and _only_the_equation(attention):
            weight, bias, gamma = attention.weight, attention.bias, attention.gamma
            if usable(x, weight, bias, gamma):
                logits = functional.attention_logits(x, weight, bias, attention.activation)
                options = {"concat": True, "pool": self.pool, "relu": True}
                features, maps = OnePass.apply(self._plain, options, x, logits, gamma)
                attention.emit(features, maps, return_maps=True)
                return features, maps
        attended, maps = attention(x, return_maps=True)
        return self._combined(x, attended), maps

    def _plain(self, x: Tensor, logits: Tensor, gamma: Tensor | None) -> tuple[Tensor, Tensor]:
        maps = functional.spatial_softmax(logits)
        return self._combined(x, functional.attend(x, maps, gamma)), maps

    def _combined(self, x: Tensor, attended: Tensor) -> Tensor:
        return F.relu(torch.cat([self._pooled(x), self._pooled(attended)], dim=1))

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == 1:
            return x
        if _exporting():
            # A graph with a stride in its pooling serves only sizes of one remainder. This is
            # the same for every size, with more work.
            x = F.pad(x, (0, self.pool - 1) * 2, value=-torch.inf)
            return F.max_pool2d(x, self.pool, stride=1)[:, :, :: self.pool, :: self.pool]
        return F.max_pool2d(x, self.pool, ceil_mode=True)

    def extra_repr(self) -> str:
        """Give the arguments that are the block's own, for `print(module)`."""
        return f"pool={self.pool}, drop_rate={self.drop_rate}"


def _only_the_equation(module: nn.Module) -> bool:
    """Say whether calling a module sums the maps, scales by the sum, and does nothing else."""
    hooks = (
        module._forward_pre_hooks,
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
    )
    return type(module) is SoftAttention and module.aggregate and not any(hooks)
