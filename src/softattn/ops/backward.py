"""The gradient of the equation on CPUs, written by hand: fewer passes over the feature map.

Autograd writes two temporary tensors of the size of `x`: `grad * x`, before its sum over the
channels, and `grad * scales`, before it is added to the gradient of the convolution. Here the
first is summed in pieces that fit the processor's cache, and the second is accumulated in place.
The forward pass and second derivatives are those of plain torch.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

from softattn.ops._torch import functorch_is_active

__all__ = ["dot", "with_low_memory_gradient"]

# From (x, weight, bias, gamma) and options to the features and the maps, in plain torch.
Equation: TypeAlias = Callable[..., tuple[Tensor, Tensor]]

# Size of a product that is summed right away: fits the cache of a core.
_PIECE_BYTES = 2**19
# Smaller feature maps fit the cache as they are, and calls cost more than passes over memory.
_MIN_BYTES = 2**22


def with_low_memory_gradient(
    equation: Equation,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor | float | None,
    aggregate: bool,
    concat: bool,
    activation: Any,
) -> tuple[Tensor, Tensor]:
    """Call an equation; for large feature maps on a CPU, record a gradient that needs less memory.

    Args:
        equation: The equation in plain torch. It receives all other arguments, and its results are
            returned unchanged.
        x: (B, C, ...).
        weight: (K, C, ...).
        bias: (K,).
        gamma: The factor.
        aggregate: As in `softattn.functional.soft_attention`.
        concat: As in `softattn.functional.soft_attention`.
        activation: As in `softattn.functional.soft_attention`. With one, autograd is used.

    Returns:
        The features and the maps.
    """
    compute = partial(equation, aggregate=aggregate, concat=concat, activation=activation)
    if activation is None and _is_worthwhile(x, weight, bias, gamma):
        features, maps = _LowMemoryGradient.apply(
            compute, aggregate, concat, x, weight, bias, gamma
        )
        return features, maps
    return compute(x, weight, bias, gamma)


def _is_worthwhile(
    x: Tensor, weight: Tensor, bias: Tensor | None, gamma: Tensor | float | None
) -> bool:
    # Compilers and exporters fuse better, and can't trace a backward in Python. Transforms of
    # torch.func, forward mode and autocast have rules for plain operations only.
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if tracing or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    if isinstance(gamma, Tensor) and gamma.shape not in ((), (1,)):
        return False
    # On an H200, autograd is 1.3 to 1.4 times as fast (benchmarks/RESULTS.md).
    if x.device.type != "cpu" or x.numel() * x.element_size() < _MIN_BYTES:
        return False
    given = [t for t in (x, weight, bias, gamma) if isinstance(t, Tensor)]
    return (
        any(tensor.requires_grad for tensor in given)
        and not torch.is_autocast_enabled("cpu")
        and not functorch_is_active()
        and all(_tangent(tensor) is None for tensor in given)
    )


def _tangent(tensor: Tensor) -> Tensor | None:
    tangent: Tensor | None = forward_ad.unpack_dual(tensor).tangent  # type: ignore[no-untyped-call]
    return tangent


class _LowMemoryGradient(torch.autograd.Function):
    """Features and maps of an equation without an activation."""

    @staticmethod
    def forward(
        ctx: Any,
        compute: Equation,
        aggregate: bool,
        concat: bool,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gamma: Tensor | float | None,
    ) -> tuple[Tensor, Tensor]:
        features, maps = compute(x, weight, bias, gamma)
        learned = gamma if isinstance(gamma, Tensor) else None
        ctx.save_for_backward(x, weight, bias, learned, maps)
        ctx.gamma = None if gamma is learned else gamma
        ctx.compute, ctx.aggregate, ctx.concat = compute, aggregate, concat
        ctx.set_materialize_grads(False)
        return features, maps

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_maps: Tensor | None) -> Any:
        if grad is None and grad_maps is None:
            return tuple(None for _ in ctx.needs_input_grad)
        x, weight, bias, learned, maps = ctx.saved_tensors
        gamma = ctx.gamma if learned is None else learned
        if torch.is_grad_enabled():
            grads = _differentiable_gradients(
                ctx.compute, (x, weight, bias, gamma), (grad, grad_maps)
            )
            return None, None, None, *grads
        wanted = ctx.needs_input_grad[3:]
        grad_gamma = None
        scales = maps.sum(dim=1, keepdim=True) if ctx.aggregate else maps
        if grad is not None:
            copies = list(torch.split(grad, x.shape[1], dim=1))
            unchanged = copies.pop(0) if ctx.concat else None
            grad_scales = torch.cat([dot(copy, x, maps.dtype) for copy in copies], dim=1)
            if wanted[3]:
                grad_gamma = (grad_scales * scales).sum().to(learned.dtype).reshape(learned.shape)
            if gamma is not None:
                grad_scales, scales = gamma * grad_scales, gamma * scales
            grad_maps = grad_scales if grad_maps is None else grad_maps + grad_scales
        positions = tuple(range(2, x.ndim))
        grad_logits = maps * (grad_maps - (maps * grad_maps).sum(dim=positions, keepdim=True))
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad_logits.to(x.dtype),
            x,
            weight,
            None if bias is None else bias.shape,
            (1,) * len(positions),
            tuple(size // 2 for size in weight.shape[2:]),
            (1,) * len(positions),
            False,
            (0,) * len(positions),
            1,
            wanted[:3],
        )
        if wanted[0] and grad is not None:
            for copy, scale in zip(copies, torch.split(scales.to(x.dtype), 1, dim=1), strict=True):
                grad_x.addcmul_(copy, scale)
            if unchanged is not None:
                grad_x.add_(unchanged)
        return None, None, None, grad_x, grad_weight, grad_bias, grad_gamma


def dot(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the dot product of the channels at each position, without a product of full size.

    Computes as many samples at a time as fit the cache.

    Example:
        >>> import torch
        >>> from softattn.ops import dot
        >>> dot(torch.ones(2, 3, 1, 2), torch.ones(2, 3, 1, 2), torch.float32).shape
        torch.Size([2, 1, 1, 2])

    Args:
        a: (B, C, ...).
        b: (B, C, ...).
        dtype: Dtype of the sum.

    Returns:
        (B, 1, ...).
    """
    samples = _PIECE_BYTES * len(a) // max(1, a.nbytes)
    pieces = zip(*(torch.split(t, max(1, samples)) for t in (a, b)), strict=True)
    return torch.cat([(p * q).sum(dim=1, keepdim=True, dtype=dtype) for p, q in pieces])


def _differentiable_gradients(
    compute: Equation,
    inputs: tuple[Any, ...],
    grads: tuple[Tensor | None, ...],
) -> Iterator[Tensor | None]:
    """Compute gradients by autograd, so that they can be differentiated again."""
    with torch.enable_grad():
        # Views, since one of the inputs may have been computed from another.
        views = [t.view_as(t) if isinstance(t, Tensor) else t for t in inputs]
        outputs = compute(*views)
    wanted = [t for t in views if isinstance(t, Tensor) and t.requires_grad]
    pairs = [
        (out, grad)
        for out, grad in zip(outputs, grads, strict=True)
        if grad is not None and out.requires_grad
    ]
    if not pairs:
        return iter([None] * len(inputs))
    found = torch.autograd.grad(
        [out for out, _ in pairs],
        wanted,
        [grad for _, grad in pairs],
        create_graph=True,
        allow_unused=True,
    )
    by_view = {id(view): grad for view, grad in zip(wanted, found, strict=True)}
    return (by_view.get(id(view)) for view in views)
