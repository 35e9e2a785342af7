"""Time of the paper's block and of the per-map layer, and peak memory of the layer."""

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.harness import Row, compare, take_turns
from bench.layer import BOTH, FORWARD, Forward, maps_of, sides, with_backward
from bench.memory import peak_memory
from bench.others import Conv3dAttention, bare, plain
from softattn import SoftAttention, SoftAttentionBlock

PER_MAP = [(192, 8, 8), (1536, 8, 8), (256, 28, 28)]


def block(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time the paper's block, forward and backward, next to layers without pooling."""
    del quick
    for x, name in maps_of():
        x.requires_grad_()
        channels = x.shape[1]
        built = {
            "softattn layer": SoftAttention(channels),
            "softattn layer, concat": SoftAttention(channels, concat=True),
            "softattn block": SoftAttentionBlock(channels),
        }
        weight, bias = built["softattn layer"].weight, built["softattn layer"].bias
        forward: dict[str, Forward] = {
            "bare convolution": lambda x=x, w=weight, b=bias: bare(x, w, b)
        }
        forward |= {side: lambda m=module, x=x: m(x) for side, module in built.items()}
        both = {side: with_backward(run, x) for side, run in forward.items()}
        yield compare(f"block, {BOTH}", name, take_turns(both, rounds, threads), "bare convolution")


def per_map(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time the layer that scales by each of 16 maps, forward, and forward and backward."""
    for x, name in maps_of(PER_MAP[:1] if quick else PER_MAP):
        forward = per_map_sides(x)
        with torch.no_grad():
            times = take_turns(forward, rounds, threads)
        yield compare(f"per map, {FORWARD}", name, times, "bare convolution")
        x.requires_grad_()
        both = {side: with_backward(run, x) for side, run in forward.items()}
        yield compare(
            f"per map, {BOTH}", name, take_turns(both, rounds, threads), "bare convolution"
        )


def per_map_sides(x: Tensor) -> dict[str, Forward]:
    """Return the forward pass of each side."""
    channels = x.shape[1]
    ours, conv3d = (
        SoftAttention(channels, aggregate=False),
        Conv3dAttention(channels, aggregate=False),
    )
    weight, bias, gamma = ours.weight, ours.bias, ours.gamma
    assert gamma is not None
    return {
        "bare convolution": lambda: bare(x, weight, bias),
        "softattn": lambda: ours(x),
        "plain torch": lambda: plain(x, weight, bias, gamma, aggregate=False),
        "Conv3d form": lambda: conv3d(x),
    }


def memory(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Measure peak memory of forward and backward in multiples of the size of x."""
    del rounds
    torch.set_num_threads(threads)

    def row(part: str, case: str, side: str, most: float) -> Row:
        return Row(part, case, side, 0.0, most, most, most, most, most)

    for x, name in maps_of(formats=("NCHW",) if quick else ("NCHW", "NHWC")):
        size = x.numel() * x.element_size()
        each = SoftAttention(x.shape[1], aggregate=False)
        with torch.no_grad():
            most = peak_memory(lambda each=each, x=x: each(x)) / (16 * size)
        yield [row("memory, per map, in its output", name, "softattn", most)]
        x.requires_grad_()
        yield [row("peak memory in x", name, side, peak_memory(with_backward(forward, x)) / size)
               for side, forward in sides(x).items()]  # fmt: skip
