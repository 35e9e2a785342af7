"""Equation 1 of Soft-Attention as pure functions on tensors.

    f_sa = gamma * t * sum_k softmax(W_k * t)

`t` is the feature map `x` of shape (B, C, H, W), `W_k * t` is channel k of a 2-D convolution, and
the softmax is over the H x W positions of each map. The equation does not depend on the number of
spatial dimensions: signals (B, C, L) and volumes (B, C, D, H, W) are computed in the same way.

Source: Datta et al., "Soft-Attention Improves Skin Cancer Classification Performance",
arXiv:2105.03358, equation 1.
"""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, overload

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor

from softattn._validation import (
    FLOATS,
    REALS,
    check_dense,
    check_gamma,
    check_operands,
    check_same_device,
    closest,
)
from softattn.errors import ArgumentError, ArgumentTypeError, ShapeError
from softattn.ops import with_low_memory_gradient

__all__ = ["attend", "attention_maps", "soft_attention", "spatial_softmax"]

Activation: TypeAlias = str | Callable[[Tensor], Tensor] | None

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "softplus": F.softplus,
    "tanh": torch.tanh,
}

# By the number of spatial dimensions.
_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_POSITIONS = {1: "L", 2: "H, W", 3: "D, H, W"}
_KERNELS = {1: ("k",), 2: ("kh", "kw"), 3: ("kd", "kh", "kw")}


@overload
def soft_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = ...,
    gamma: Tensor | float | None = ...,
    *,
    aggregate: bool = ...,
    concat: bool = ...,
    activation: Activation = ...,
    return_maps: Literal[False] = ...,
) -> Tensor: ...
@overload
def soft_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = ...,
    gamma: Tensor | float | None = ...,
    *,
    aggregate: bool = ...,
    concat: bool = ...,
    activation: Activation = ...,
    return_maps: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def soft_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gamma: Tensor | float | None = None,
    *,
    aggregate: bool = True,
    concat: bool = False,
    activation: Activation = None,
    return_maps: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scale a feature map by attention maps computed from it.

    Example:
        >>> import torch
        >>> from softattn.functional import soft_attention
        >>> x, weight = torch.randn(2, 64, 7, 7), torch.randn(16, 64, 3, 3)
        >>> soft_attention(x, weight, gamma=0.01).shape
        torch.Size([2, 64, 7, 7])
        >>> features, maps = soft_attention(x, weight, aggregate=False, return_maps=True)
        >>> features.shape, maps.shape
        (torch.Size([2, 1024, 7, 7]), torch.Size([2, 16, 7, 7]))

    Args:
        x: The feature map, (B, C, H, W), or (B, C, ...) with one or three spatial dimensions.
        weight: One filter for each map, (K, C, kh, kw) with odd kh and kw, or (K, C, ...) with
            as many dimensions as x.
        bias: (K,). Without an activation it has no effect, since the softmax is invariant to it.
        gamma: The factor of the equation, as a number or a tensor of shape (1,) or (); `None` for
            no factor.
        aggregate: Scale by the sum of the maps. Otherwise scale by each of the K maps and
            concatenate the copies along the channels: all channels of the first copy, then all
            of the second.
        concat: Prepend `x`, along the channels.
        activation: Function between convolution and softmax, or its name.
        return_maps: Also return the maps.

    Returns:
        (B, C', ...) in the dtype of `x`, where C' is C, or K * C without `aggregate`, plus C
        with `concat`. With `return_maps`, also the result of `attention_maps`.

    Raises:
        ArgumentTypeError: `x`, `weight` or `bias` is not a dense tensor of floating-point numbers,
            their dtypes differ without autocast, `gamma` is neither a number nor a tensor, or
            `activation` is neither a name nor a function.
        ArgumentError: The tensors are on different devices, no activation has this name, or
            `gamma` is an integer that no tensor can hold.
        ShapeError: The shapes of `x`, `weight` and `bias` do not match, or gamma has several
            elements.
    """
    check_dense("computing soft attention", FLOATS, x=x, weight=weight)
    features, maps = with_low_memory_gradient(
        _features_and_maps,
        x,
        weight,
        bias,
        gamma,
        aggregate=aggregate,
        concat=concat,
        activation=activation,
    )
    return (features, maps) if return_maps else features


def _features_and_maps(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor | float | None,
    aggregate: bool,
    concat: bool,
    activation: Activation,
) -> tuple[Tensor, Tensor]:
    maps = attention_maps(x, weight, bias, activation=activation)
    return attend(x, maps, gamma, aggregate=aggregate, concat=concat), maps


def attention_maps(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: Activation = None
) -> Tensor:
    """Compute the attention maps of a feature map, softmax(W_k * t) of the equation.

    Example:
        >>> import torch
        >>> from softattn.functional import attention_maps
        >>> maps = attention_maps(torch.randn(2, 64, 7, 7), torch.randn(16, 64, 3, 3))
        >>> maps.shape
        torch.Size([2, 16, 7, 7])
        >>> bool(torch.allclose(maps.sum(dim=(2, 3)), torch.ones(2, 16)))
        True

    Args:
        x: The feature map, (B, C, H, W), or (B, C, ...) with one or three spatial dimensions.
        weight: One filter for each map, (K, C, kh, kw) with odd kh and kw, or (K, C, ...) with
            as many dimensions as x. `x` is padded with zeros.
        bias: (K,).
        activation: Function between convolution and softmax, or its name.

    Returns:
        (B, K, ...) in float32 or wider, since half precision can't represent the small values
        of large maps. Each map is positive and sums to 1 over its positions. It is NaN if the
        convolution overflows the dtype of `x`.

    Raises:
        ArgumentTypeError: `x`, `weight` or `bias` is not a dense tensor of floating-point numbers,
            their dtypes differ without autocast, or `activation` is neither a name nor a function.
        ArgumentError: The tensors are on different devices, or no activation has this name.
        ShapeError: The shapes of `x`, `weight` and `bias` do not match.
    """
    _check_shapes(x, weight, bias)
    kernel = weight.shape[2:]
    convolve = _CONVOLUTIONS[len(kernel)]
    logits = convolve(x, weight, bias, padding=tuple(size // 2 for size in kernel))
    return spatial_softmax(get_activation(activation)(logits))


def spatial_softmax(logits: Tensor) -> Tensor:
    """Compute a softmax over all positions of each map.

    Example:
        >>> import torch
        >>> from softattn.functional import spatial_softmax
        >>> spatial_softmax(torch.zeros(1, 1, 2, 2))
        tensor([[[[0.2500, 0.2500],
                  [0.2500, 0.2500]]]])

    Args:
        logits: (B, K, H, W), or (B, K, ...) with one or three spatial dimensions.

    Returns:
        The shape of the logits, in float32 or wider.

    Raises:
        ArgumentTypeError: The logits are not a dense tensor of real numbers.
        ShapeError: The logits have no spatial dimension, or more than three.
    """
    doing = "computing a softmax over positions"
    check_dense(doing, REALS, logits=logits)
    if logits.ndim - 2 not in _POSITIONS:
        raise ShapeError(
            f"{doing}: expected logits of shape (B, K, H, W), (B, K, L) or (B, K, D, H, W), "
            f"found {tuple(logits.shape)}."
        )
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.flatten(2).softmax(dim=-1, dtype=dtype).view_as(logits)


def attend(
    x: Tensor,
    maps: Tensor,
    gamma: Tensor | float | None = None,
    *,
    aggregate: bool = True,
    concat: bool = False,
) -> Tensor:
    """Scale a feature map by attention maps: the equation after the softmax.

    Example:
        >>> import torch
        >>> from softattn.functional import attend
        >>> x, maps = torch.ones(1, 2, 1, 2), torch.tensor([[[[0.25, 0.75]]]])
        >>> attend(x, maps, gamma=4.0)
        tensor([[[[1., 3.]],
        <BLANKLINE>
                 [[1., 3.]]]])

    Args:
        x: The feature map, (B, C, H, W), or (B, C, ...) with one or three spatial dimensions.
        maps: (B, K, ...), from `attention_maps` or any other source.
        gamma: A factor, as a number or a tensor of shape (1,) or (); `None` for none.
        aggregate: Scale by the sum of the maps, not by each of them.
        concat: Prepend `x`, along the channels.

    Returns:
        (B, C', ...) in the dtype and the memory format of `x`; C' as in `soft_attention`.

    Raises:
        ArgumentTypeError: `x` is not a dense tensor of floating-point numbers, or `maps` not one of
            real numbers, or gamma is neither a number nor a tensor.
        ArgumentError: The tensors are on different devices, or `gamma` is an integer that no tensor
            can hold.
        ShapeError: `x` and `maps` do not have the same B and the same positions, or gamma has
            several elements.
    """
    doing = "scaling a feature map by attention maps"
    check_dense(doing, FLOATS, x=x)
    check_dense(doing, REALS, maps=maps)
    positions = _POSITIONS.get(x.ndim - 2)
    same_sizes = (
        maps.ndim == x.ndim and x.shape[0] == maps.shape[0] and x.shape[2:] == maps.shape[2:]
    )
    if positions is None or not same_sizes:
        letters = positions or _POSITIONS[2]
        raise ShapeError(
            f"{doing}: expected x (B, C, {letters}) and maps (B, K, {letters}) of the same "
            f"{_joined(['B', *letters.split(', ')])}, found x {tuple(x.shape)} and maps "
            f"{tuple(maps.shape)}."
        )
    check_same_device(doing, x, maps=maps)
    check_gamma(doing, x, gamma)
    scales = maps.sum(dim=1, keepdim=True) if aggregate else maps
    if gamma is not None:
        scales = gamma * (scales if scales.is_floating_point() else scales.to(x.dtype))
    scales = scales.to(x.dtype)
    attended = x * scales if aggregate else _scale_by_each(x, scales)
    return torch.cat([x, attended], dim=1) if concat else attended


def _scale_by_each(x: Tensor, scales: Tensor) -> Tensor:
    # Each product is written in the memory order of its result, so that flattening copies nothing.
    if x.movedim(1, -1).is_contiguous() and not x.is_contiguous():
        scales = scales.movedim(1, -1).unsqueeze(-1).contiguous()
        copies = x.movedim(1, -1).unsqueeze(-2) * scales  # (B, ..., K, C)
        return copies.flatten(-2).movedim(-1, 1)
    copies = x.unsqueeze(1) * scales.unsqueeze(2)  # (B, K, C, ...)
    return copies.flatten(1, 2)


def get_activation(activation: Activation) -> Callable[[Tensor], Tensor]:
    """Return the function for an `activation` argument: a function, a name, or `None`.

    Example:
        >>> import torch
        >>> from softattn.functional import get_activation
        >>> get_activation("relu")(torch.tensor([-1.0, 1.0]))
        tensor([0., 1.])

    Raises:
        ArgumentError: The name is unknown.
        ArgumentTypeError: The argument is neither a name nor a function.
    """
    if activation is None:
        return _identity
    if callable(activation):
        return activation
    if not isinstance(activation, str):
        raise ArgumentTypeError(
            "choosing the activation before the softmax: expected a function, its name, "
            f"or None, found {activation!r} ({type(activation).__name__})."
        )
    if activation not in _ACTIVATIONS:
        raise ArgumentError(
            f"choosing the activation before the softmax: unknown name {activation!r}. "
            f"{closest(activation, _ACTIVATIONS)} Any function on tensors works too."
        )
    return _ACTIVATIONS[activation]


def _identity(x: Tensor) -> Tensor:
    return x


def _check_shapes(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    doing = "computing attention maps"
    check_operands(doing, x, weight, bias)
    num_dims = weight.ndim - 2
    if num_dims not in _KERNELS or not all(size % 2 for size in weight.shape[2:]):
        letters = _KERNELS.get(num_dims, _KERNELS[2])
        raise ShapeError(
            f"{doing}: expected a weight of shape (K, C, {', '.join(letters)}) with odd "
            f"{_joined(letters)}, found {tuple(weight.shape)}. A kernel of even size has no centre."
        )
    num_maps, channels = weight.shape[:2]
    if not num_maps:
        raise ShapeError(f"{doing}: expected a weight with at least one map, found none.")
    if bias is not None and bias.shape != (num_maps,):
        raise ShapeError(
            f"{doing}: expected a bias of shape ({num_maps},) for a weight with {num_maps} maps, "
            f"found {tuple(bias.shape)}."
        )
    check_feature_map(x, channels, doing, num_dims)


def check_feature_map(x: Tensor, channels: int, doing: str, num_dims: int) -> None:
    """Raise a `ShapeError` unless x is (B, channels, ...) with a channel and a position.

    Args:
        x: The feature map.
        channels: C.
        doing: The beginning of the message.
        num_dims: Number of spatial dimensions.
    """
    ndim = num_dims + 2
    if x.ndim == ndim and x.shape[1] == channels and 0 not in x.shape[1:]:
        return
    if x.ndim == ndim - 1:
        hint = "For a single feature map pass x.unsqueeze(0)."
    elif x.ndim != ndim:
        hint = f"It has {x.ndim} dimensions, not {ndim}."
    elif x.shape[1] == channels:
        hint = "It needs at least one channel and one position."
    elif x.shape[-1] == channels:
        order = (0, ndim - 1, *range(1, ndim - 1))
        hint = f"This looks like channels last: pass x.permute{order}."
    else:
        hint = f"Build the attention with in_channels={x.shape[1]}."
    raise ShapeError(
        f"{doing}: expected x of shape (B, {channels}, {_POSITIONS[num_dims]}), "
        f"found {tuple(x.shape)}. {hint}"
    )


def _joined(letters: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(letters[:-1]), letters[-1]]))


# Symbolic traces (torch.fx, torchvision's feature extraction) keep the equation as one node, since
# the shape checks can't run on proxies.
torch.fx.wrap("soft_attention")
torch.fx.wrap("attention_maps")
torch.fx.wrap("attend")
torch.fx.wrap("spatial_softmax")
