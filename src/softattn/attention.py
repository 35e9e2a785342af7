"""Soft-Attention modules, and a factory for attention modules of other kinds."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softattn import functional
from softattn._validation import (
    check_bool,
    check_finite,
    check_fraction,
    check_int,
    check_odd_sizes,
    closest,
    missing_extra,
    parameter_factory,
)
from softattn.capture import SpatialAttention
from softattn.errors import ArgumentError, ArgumentTypeError
from softattn.functional import Activation
from softattn.ops import is_exporting

__all__ = [
    "Block",
    "SoftAttention",
    "SoftAttention1d",
    "SoftAttention3d",
    "SoftAttentionBlock",
    "SoftAttentionNd",
    "attention_factory",
]

Block = str | Callable[[int], nn.Module]
"""Name of a timm attention module, or a function that builds a module for C channels."""

# For error messages, since timm has no list of them.
_TIMM_ATTENTIONS = ("se", "ese", "eca", "ceca", "ge", "gc", "gca", "cbam", "lcbam", "coord")


class SoftAttentionNd(SpatialAttention):
    """Base class of Soft-Attention, with the arguments and attributes of `SoftAttention`.

    Example:
        >>> from softattn import SoftAttention3d
        >>> from softattn.attention import SoftAttentionNd
        >>> issubclass(SoftAttention3d, SoftAttentionNd), SoftAttention3d.num_dims
        (True, 3)
    """

    num_dims: int
    """Number of spatial dimensions, set by subclasses."""

    def __init__(
        self,
        in_channels: int,
        num_maps: int = 16,
        kernel_size: int | tuple[int, ...] = 3,
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
        self.in_channels: int = check_int(doing, "in_channels", in_channels)
        self.num_maps: int = check_int(doing, "num_maps", num_maps)
        sizes = check_odd_sizes(doing, "kernel_size", kernel_size, self.num_dims)
        self.kernel_size: tuple[int, ...] = sizes
        self.aggregate: bool = check_bool(doing, "aggregate", aggregate)
        self.concat: bool = check_bool(doing, "concat", concat)
        gamma = None if gamma is None else check_finite(doing, "gamma", gamma)
        self.initial_gamma: float | None = gamma
        functional.get_activation(activation)
        self.activation: Activation = activation
        parameter = parameter_factory(doing, device, dtype)
        self.weight: nn.Parameter = parameter(self.num_maps, self.in_channels, *self.kernel_size)
        has_bias = check_bool(doing, "bias", bias)
        self.bias: nn.Parameter | None = parameter(self.num_maps) if has_bias else None
        self.gamma: nn.Parameter | None = None if gamma is None else parameter(1)
        self.reset_parameters()

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        copies = (1 if self.aggregate else self.num_maps) + self.concat
        return copies * self.in_channels

    def reset_parameters(self) -> None:
        """Reinitialize the parameters: He-uniform weights, zero bias, the initial gamma."""
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.gamma is not None and self.initial_gamma is not None:
            nn.init.constant_(self.gamma, self.initial_gamma)

    def forward(self, x: Tensor, return_maps: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Scale x by its attention; with `return_maps` return (features, maps)."""
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
        # torchvision's feature extraction takes the last node of a module as its output, so the
        # features come last.
        maps, features = result[1], result[0]
        return self.emit(features, maps, return_maps)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        gamma = state_dict.get(f"{prefix}gamma")
        if isinstance(gamma, Tensor) and gamma.ndim == 0:
            state_dict[f"{prefix}gamma"] = gamma.detach().reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """Return the arguments that differ from the defaults, for `print(module)`."""
        parts = [f"{self.in_channels}, num_maps={self.num_maps}, kernel_size={self.kernel_size}"]
        parts += [f"aggregate={self.aggregate}"] if not self.aggregate else []
        parts += [f"concat={self.concat}"] if self.concat else []
        parts += [f"gamma={self.initial_gamma}"] if self.initial_gamma != 0.01 else []
        if self.activation is not None and not isinstance(self.activation, nn.Module):
            name = getattr(self.activation, "__name__", self.activation)
            parts.append(f"activation={name!r}")
        parts += ["bias=False"] if self.bias is None else []
        return ", ".join(parts)


class SoftAttention(SoftAttentionNd):
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
        kernel_size: Size of the convolution kernel: odd, one number or (height, width).
        aggregate: Scale the features by the sum of the maps. Otherwise scale them by each map,
            which multiplies the number of channels by K.
        concat: Prepend the unchanged features, along the channels.
        gamma: Initial value of the learned factor; 0.01 in the paper. `None` for no factor.
            Each map sums to 1, so with uniform maps and `aggregate` the features are scaled by
            gamma * K / (H * W): by 0.003 for gamma 0.01, K = 16 and 7 x 7 positions. If the
            unscaled features are not passed on as well (by `concat` or a residual connection),
            use gamma = H * W / K, which keeps their scale, as `wrap_backbone` does.
        activation: Function between convolution and softmax, or its name. The authors' code uses
            `"relu"`, the paper none.
        bias: Add a bias to the convolution. Without an activation it has no effect, since the
            softmax is invariant to it.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Shape:
        - x: (B, C, H, W), with H and W of at least 1.
        - features: (B, C', H, W), where C' is `out_channels`: C, or K * C without `aggregate`,
          plus C with `concat`.
        - maps: (B, K, H, W), in float32 or wider; each map sums to 1.

    Attributes:
        weight: (K, C, kh, kw), initialized He-uniform as in the authors' code.
        bias: (K,), initialized with zeros; or `None`.
        gamma: (1,), since FSDP doesn't shard scalars, or `None`. State dicts with a scalar gamma
            can be loaded too.

    Raises:
        ArgumentError: An argument is out of range.
        ArgumentTypeError: An argument has the wrong type.
        ShapeError: In `forward`, x isn't (B, C, H, W). Others: see `functional.soft_attention`.

    For signals and volumes, use `SoftAttention1d` and `SoftAttention3d`.

    Source: arXiv:2105.03358, section 2.1. The layer that the authors published computes something
    else: see `softattn.keras.KerasSoftAttention`.
    """

    num_dims = 2


class SoftAttention1d(SoftAttentionNd):
    """Soft-Attention on signals, computed as one 1-D convolution.

    Example:
        >>> import torch
        >>> from softattn import SoftAttention1d
        >>> attention = SoftAttention1d(in_channels=64)
        >>> features, maps = attention(torch.randn(2, 64, 50), return_maps=True)
        >>> features.shape, maps.shape
        (torch.Size([2, 64, 50]), torch.Size([2, 16, 50]))

    Arguments are those of `SoftAttention`, except that `kernel_size` is one number.

    Shape:
        - x: (B, C, L), with L of at least 1.
        - features: (B, C', L).
        - maps: (B, K, L), in float32 or wider; each map sums to 1.
    """

    num_dims = 1


class SoftAttention3d(SoftAttentionNd):
    """Soft-Attention on volumes and videos, computed as one 3-D convolution.

    Example:
        >>> import torch
        >>> from softattn import SoftAttention3d
        >>> attention = SoftAttention3d(in_channels=64, num_maps=8)
        >>> features, maps = attention(torch.randn(2, 64, 4, 7, 7), return_maps=True)
        >>> features.shape, maps.shape
        (torch.Size([2, 64, 4, 7, 7]), torch.Size([2, 8, 4, 7, 7]))

    Arguments are those of `SoftAttention`; `kernel_size` may be (depth, height, width).

    Shape:
        - x: (B, C, D, H, W), each size at least 1. D is the depth or the number of frames.
        - features: (B, C', D, H, W).
        - maps: (B, K, D, H, W), in float32 or wider; each map sums to 1.
    """

    num_dims = 3


class SoftAttentionBlock(nn.Module):
    """The paper's block: features and attended features, pooled, concatenated, ReLU, dropout.

    Example:
        >>> import torch
        >>> from softattn import SoftAttentionBlock
        >>> block = SoftAttentionBlock(in_channels=192)
        >>> block(torch.randn(2, 192, 8, 8)).shape
        torch.Size([2, 384, 4, 4])

    Args:
        in_channels: C, the channels of the feature map.
        num_maps: K, the number of attention maps.
        kernel_size: As in `SoftAttention`.
        aggregate: As in `SoftAttention`.
        gamma: As in `SoftAttention`.
        activation: As in `SoftAttention`.
        bias: As in `SoftAttention`.
        pool: Size and stride of the max-pooling; 1 for none. Sizes are rounded up as in the
            authors' code: the last window of an odd map is narrower.
        drop_rate: Probability of dropout.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Shape:
        - x: (B, C, H, W).
        - features: (B, C', ceil(H / pool), ceil(W / pool)), x first, where C' is `out_channels`:
          2 * C, or (1 + K) * C without `aggregate`.
        - maps: (B, K, H, W), before pooling.

    Raises:
        ArgumentError: An argument is out of range.
        ArgumentTypeError: An argument has the wrong type.
        ShapeError: In `forward`, x isn't (B, C, H, W). Others: see `functional.soft_attention`.

    Source: arXiv:2105.03358, section 2.1 and figure 2; pool and drop_rate as in the authors' code.
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
        self.pool: int = check_int(doing, "pool", pool)
        self.drop_rate: float = check_fraction(doing, "drop_rate", drop_rate)
        self.attention: SoftAttention = SoftAttention(
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
        """Number of input channels."""
        return self.attention.in_channels

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return self.in_channels + self.attention.out_channels

    def forward(self, x: Tensor, return_maps: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Return the features of the block; with `return_maps` return (features, maps)."""
        attended, maps = self.attention(x, return_maps=True)
        features = F.relu(torch.cat([self._pooled(x), self._pooled(attended)], dim=1))
        features = F.dropout(features, self.drop_rate, self.training)
        return (features, maps) if return_maps else features

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == 1:
            return x
        if is_exporting():
            # A strided pooling restricts an exported graph to sizes with the same remainder.
            # This has the same result for all sizes, at a higher cost.
            x = F.pad(x, (0, self.pool - 1) * 2, value=-torch.inf)
            return F.max_pool2d(x, self.pool, stride=1)[:, :, :: self.pool, :: self.pool]
        return F.max_pool2d(x, self.pool, ceil_mode=True)

    def extra_repr(self) -> str:
        """Return the arguments of the block itself, for `print(module)`."""
        return f"pool={self.pool}, drop_rate={self.drop_rate}"


def attention_factory(doing: str, block: Block) -> Callable[[int], nn.Module]:
    """Return a function that builds an attention module for a given number of channels.

    Example:
        >>> from softattn.attention import attention_factory
        >>> type(attention_factory("building", "se")(64)).__name__
        'SEModule'

    Args:
        doing: The beginning of error messages.
        block: Name of a timm attention module, or a function that takes the number of channels.

    Raises:
        ArgumentError: timm has no attention of this name; or, when called, `block` raises an error.
        ArgumentTypeError: `block` is neither; or, when called, it does not return a module.
        MissingExtraError: timm is needed and not installed.
    """
    if isinstance(block, str):
        factory = _timm_attention(doing, block)
    elif isinstance(block, nn.Module) or not callable(block):
        raise ArgumentTypeError(
            f"{doing}: block must be a function from the number of channels to a module, such as "
            f"SoftAttention, or the name of an attention of timm, found {block!r}."
        )
    else:
        factory = block

    def build(channels: int) -> nn.Module:
        try:
            built = factory(channels)
        except Exception as error:
            raise ArgumentError(
                f"{doing}: block raises {type(error).__name__} for {channels} channels: {error}"
            ) from error
        if isinstance(built, nn.Module):
            return built
        found = f"found {built!r} ({type(built).__name__})."
        raise ArgumentTypeError(f"{doing}: block must return a torch.nn.Module, {found}")

    return build


def _timm_attention(doing: str, name: str) -> Callable[[int], nn.Module]:
    try:
        from timm.layers.create_attn import get_attn
    except ImportError as error:
        raise missing_extra(f"building the attention {name!r}", "timm", "timm") from error
    try:
        factory: Callable[[int], nn.Module] | None = get_attn(name)
    except AssertionError:
        factory = None
    if factory is None:
        raise ArgumentError(
            f"{doing}: timm has no attention named {name!r}. {closest(name, _TIMM_ATTENTIONS)}"
        )
    return factory
