"""Softmax, sum, scale, pool, concat and ReLU in one pass over the feature map, where asked for.

The forward pass is a Triton kernel's. The backward pass is autograd's, on the plain functions,
which it computes again: between the two only x and the logits are kept. Where a window of the
pooling has its maximum twice, the first one gets the gradient, as always in torch.
"""

from collections.abc import Callable
from contextlib import ExitStack
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from softattn._validation import missing_extra
from softattn.fused import eager, only_reverse_mode, recomputed

__all__ = ["OnePass", "Tail", "usable", "use_triton", "wanted"]

# From (x, logits, gamma) to the features and the maps, in plain torch.
Tail: TypeAlias = Callable[[Tensor, Tensor, Any], tuple[Tensor, Tensor]]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# `softattn.triton_kernels` while they are used, which is not before someone asks for them.
_kernels: ModuleType | None = None


def use_triton(on: bool = True) -> ExitStack:
    """Compute attention on GPUs by Triton kernels, from here on or inside a `with`.

    Behind the convolution, plain torch goes over the feature map once for each of scaling,
    pooling, concatenation and ReLU. The kernels go over it once for all of them. They are used in
    `soft_attention`, `SoftAttention` and `SoftAttentionBlock`, in all threads, for tensors on a
    CUDA GPU in float32, bfloat16 or float16, with `aggregate`; anything else is computed as
    before, and so is what `torch.compile`, an exporter or a transform of `torch.func` sees. The
    results are the same up to rounding, and gradients are autograd's.

    They are off by default: tested on Triton's interpreter and compiled for GPUs, but not yet
    measured on one.

    Example:
        >>> import torch
        >>> from softattn import SoftAttentionBlock
        >>> from softattn.functional import use_triton
        >>> block = SoftAttentionBlock(in_channels=192)
        >>> with use_triton(torch.cuda.is_available()):
        ...     features = block(torch.randn(2, 192, 8, 8))

    Args:
        on: use them; `False` not to.

    Returns:
        A context manager, which at its end restores what was before.

    Raises:
        MissingExtraError: triton isn't installed.
    """
    restore = ExitStack()
    restore.callback(_set, _kernels)
    _set(_load() if on else None)
    return restore


def _set(kernels: ModuleType | None) -> None:
    global _kernels
    _kernels = kernels


def _load() -> ModuleType:
    try:
        from softattn import triton_kernels
    except ImportError as error:
        raise missing_extra("use_triton", "triton", "triton") from error
    return triton_kernels


def wanted(x: Tensor) -> bool:
    """Say whether the kernels are asked for, and made for such a feature map."""
    if not eager() or _kernels is None:
        return False
    # A subclass of Tensor may hold no numbers, or those of several devices.
    return (
        type(x) in (Tensor, nn.Parameter)
        and (x.is_cuda or (x.device.type == "cpu" and _kernels.INTERPRETED))
        and x.dtype in _DTYPES
        and x.ndim == 4
        and 2 * x.numel() < 2**31 * len(x)  # offsets in a sample are 32-bit; and not empty
    )


def usable(x: Tensor, weight: Tensor, bias: Tensor | None, gamma: Tensor | float | None) -> bool:
    """Say whether the kernels are wanted, and what the features come from lets them be used."""
    one_factor = not (isinstance(gamma, Tensor) and gamma.ndim)
    return wanted(x) and one_factor and only_reverse_mode(x, weight, bias, gamma)


class OnePass(torch.autograd.Function):
    """Features and maps of (x, logits, gamma) by the kernels, with the gradient of `plain`."""

    @staticmethod
    def forward(
        ctx: Any,
        plain: Tail,
        options: dict[str, Any],
        x: Tensor,
        logits: Tensor,
        gamma: Tensor | float | None,
    ) -> tuple[Tensor, Tensor]:
        """Run the kernels with these options; keep what went in."""
        assert _kernels is not None
        learned = gamma if isinstance(gamma, Tensor) else None
        ctx.save_for_backward(x, logits, learned)
        ctx.gamma = None if gamma is learned else gamma
        ctx.plain = plain
        ctx.set_materialize_grads(False)
        features, maps = _kernels.run(x, logits, gamma, **options)
        return features, maps

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_maps: Tensor | None) -> Any:
        """Give the gradients of x, logits and gamma."""
        if grad is None and grad_maps is None:
            return (None,) * 5
        x, logits, learned = ctx.saved_tensors
        gamma = ctx.gamma if learned is None else learned
        return None, None, *recomputed(ctx.plain, (x, logits, gamma), (grad, grad_maps))
