"""The gradient of the equation, by hand: fewer passes over the feature map than autograd makes.

Autograd writes two tensors of the size of `x` that nobody needs: `grad * x`, before it is summed
over the channels, and `grad * scales`, before it is added to the convolution's share. Here the
first is summed piece by piece while it is in the processor's cache, and the second is added in
place. The forward pass is the plain one, and so are second derivatives.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = [
    "Equation",
    "FusedAttention",
    "dot",
    "eager",
    "only_reverse_mode",
    "recomputed",
    "worth_fusing",
]

# From (x, weight, bias, gamma) to the features and the maps, in plain torch.
Equation: TypeAlias = Callable[[Tensor, Tensor, Tensor | None, Any], tuple[Tensor, Tensor]]

# Of a product that is summed right away: the cache of a core holds it.
_PIECE_BYTES = 2**19
# Smaller feature maps stay in the cache themselves, and calls cost more than passes.
_LEAST_BYTES = 2**22


def worth_fusing(
    x: Tensor, weight: Tensor, bias: Tensor | None, gamma: Tensor | float | None
) -> bool:
    """Say whether x is large, and a gradient wanted by nothing but reverse-mode autograd.

    A compiler or an exporter fuses better than we do, and can't see into a backward of ours.
    Transforms of `torch.func`, forward mode and autocast have rules for plain operations.
    """
    if not eager() or not torch.is_grad_enabled():
        return False
    if (isinstance(gamma, Tensor) and gamma.ndim) or x.numel() * x.element_size() < _LEAST_BYTES:
        return False
    given = [t for t in (x, weight, bias, gamma) if isinstance(t, Tensor)]
    device = x.device.type
    return (
        any(tensor.requires_grad for tensor in given)
        and not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device))
        and only_reverse_mode(*given)
    )


def eager() -> bool:
    """Say whether operations run now, and nobody writes down which."""
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return not (tracing or torch.compiler.is_compiling())


def only_reverse_mode(*inputs: Tensor | float | None) -> bool:
    """Say whether no transform of `torch.func` and no forward mode sees the operations."""
    return not torch._C._are_functorch_transforms_active() and all(
        _tangent(tensor) is None for tensor in inputs if isinstance(tensor, Tensor)
    )


def _tangent(tensor: Tensor) -> Tensor | None:
    tangent: Tensor | None = forward_ad.unpack_dual(tensor).tangent  # type: ignore[no-untyped-call]
    return tangent


class FusedAttention(torch.autograd.Function):
    """Features and maps, with a gradient by hand. Without an activation before the softmax."""

    @staticmethod
    def forward(
        ctx: Any,
        equation: Equation,
        aggregate: bool,
        concat: bool,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gamma: Tensor | float | None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the equation; keep what went in, and the maps."""
        features, maps = equation(x, weight, bias, gamma)
        learned = gamma if isinstance(gamma, Tensor) else None
        ctx.save_for_backward(x, weight, bias, learned, maps)
        ctx.gamma = None if gamma is learned else gamma
        ctx.equation, ctx.aggregate, ctx.concat = equation, aggregate, concat
        ctx.set_materialize_grads(False)
        return features, maps

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_maps: Tensor | None) -> Any:
        """Give the gradients of x, weight, bias and gamma."""
        if grad is None and grad_maps is None:
            return (None,) * 7
        x, weight, bias, learned, maps = ctx.saved_tensors
        gamma = ctx.gamma if learned is None else learned
        if torch.is_grad_enabled():
            grads = recomputed(ctx.equation, (x, weight, bias, gamma), (grad, grad_maps))
            return None, None, None, *grads
        wanted = ctx.needs_input_grad[3:]
        grad_gamma = None
        scales = maps.sum(dim=1, keepdim=True) if ctx.aggregate else maps
        if grad is not None:
            copies = list(torch.split(grad, x.shape[1], dim=1))
            unchanged = copies.pop(0) if ctx.concat else None
            grad_scales = torch.cat([dot(copy, x, maps.dtype) for copy in copies], dim=1)
            if wanted[3]:
                grad_gamma = (grad_scales * scales).sum().to(learned.dtype)
            if gamma is not None:
                grad_scales, scales = gamma * grad_scales, gamma * scales
            grad_maps = grad_scales if grad_maps is None else grad_maps + grad_scales
        grad_logits = maps * (grad_maps - (maps * grad_maps).sum(dim=(2, 3), keepdim=True))
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad_logits.to(x.dtype),
            x,
            weight,
            None if bias is None else bias.shape,
            (1, 1),
            (weight.shape[2] // 2, weight.shape[3] // 2),
            (1, 1),
            False,
            (0, 0),
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
    """Sum a * b over the channels, (B, C, H, W) to (B, 1, H, W), some samples at a time.

    On a GPU all at once, since each piece would cost two launches there.
    """
    sample_bytes = a[0].numel() * a.element_size() if len(a) else 1
    samples = _PIECE_BYTES // sample_bytes if a.device.type == "cpu" else len(a)
    pieces = zip(*(torch.split(t, max(1, samples)) for t in (a, b)), strict=True)
    return torch.cat([(p * q).sum(dim=1, keepdim=True, dtype=dtype) for p, q in pieces])


def recomputed(
    function: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Any, ...],
    grads: tuple[Tensor | None, ...],
) -> Iterator[Tensor | None]:
    """Give the gradients of a function by autograd: where wanted, to be differentiated again."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, since one of the inputs may have been computed from another.
        views = [t.view_as(t) if isinstance(t, Tensor) else t for t in inputs]
        outputs = function(*views)
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
        create_graph=create_graph,
        allow_unused=True,
    )
    by_view = {id(view): grad for view, grad in zip(wanted, found, strict=True)}
    return (by_view.get(id(view)) for view in views)
