"""Profile: time of each step of the layer next to the bare convolution."""

from collections.abc import Iterator

import torch

from bench.harness import Row, Work, compare, take_turns
from bench.layer import maps_of
from bench.others import bare
from softattn import SoftAttention
from softattn.ops import dot


def steps(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time each step of forward and of the hand-written gradient, on existing tensors."""
    for x, name in maps_of(formats=("NCHW",) if quick else ("NCHW", "NHWC")):
        times = take_turns(works(x), rounds, threads)
        yield compare("steps", name, times, "convolution")


def works(x: torch.Tensor) -> dict[str, Work]:
    """Return the steps in their order."""
    ours = SoftAttention(x.shape[1])
    weight, bias, gamma = ours.weight.detach(), ours.bias, ours.gamma
    assert bias is not None
    assert gamma is not None
    bias, gamma = bias.detach(), gamma.detach()
    logits = bare(x, weight, bias)
    maps = logits.flatten(2).softmax(-1).view_as(logits)
    scales = maps.sum(dim=1, keepdim=True)
    grad, share = torch.randn_like(x), torch.zeros_like(x)
    same = (1, 1)
    return {
        "convolution": lambda: bare(x, weight, bias),
        "softmax": lambda: logits.flatten(2).softmax(-1).view_as(logits),
        "sum of the maps": lambda: maps.sum(dim=1, keepdim=True),
        "gamma * sum": lambda: gamma * scales,
        "x * scales": lambda: x * scales,
        "grad * x, summed": lambda: dot(grad, x, x.dtype),
        "gradient of the softmax": lambda: (
            maps * (scales - (maps * scales).sum(dim=(2, 3), keepdim=True))
        ),
        "convolution's gradients": lambda: torch.ops.aten.convolution_backward(
            logits, x, weight, bias.shape, same, same, same, False, (0, 0), 1, [True] * 3
        ),
        "grad * scales, added": lambda: share.addcmul_(grad, scales),
        "a copy of x": lambda: share.copy_(x),
        "a call of torch on nothing": lambda: gamma * gamma,
    }
