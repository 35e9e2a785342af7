"""Time of the layer, the Conv3d form, plain torch, attentions of timm, and the limits."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from timm.layers import EcaModule, SEModule
from timm.layers.cbam import CbamModule
from torch import Tensor

from bench.harness import Row, Work, compare, take_turns
from bench.machine import Rates, rates
from bench.others import Conv3dAttention, bare, plain
from softattn import SoftAttention

SHAPES = [(192, 8, 8), (1536, 8, 8), (2048, 7, 7), (512, 28, 28), (256, 56, 56)]
SMALLER = [(192, 8, 8), (1536, 8, 8), (512, 28, 28)]
MOST_BYTES_CONV3D = 2**26  # of x: beyond it that form alone takes seconds a call
FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
FORWARD, BOTH = "forward", "forward+backward"
# Memory traffic in addition to the convolution, in multiples of x. Forward reads x and writes the
# result. Backward reads x and the gradient for the gradient of the scales, then reads the gradient
# again and adds to the gradient of the convolution.
PASSES = {FORWARD: 2, BOTH: 7}

Forward = Callable[[], Tensor]


def maps_of(
    shapes: Sequence[tuple[int, int, int]] = SMALLER,
    batches: Sequence[int] = (16,),
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    formats: Sequence[str] = ("NCHW",),
) -> Iterator[tuple[Tensor, str]]:
    """Yield feature maps and their names."""
    for channels, height, width in shapes:
        for batch in batches:
            for dtype in dtypes:
                for name in formats:
                    x = torch.randn(batch, channels, height, width).to(dtype)
                    label = f"{batch}x{channels}x{height}x{width} {str(dtype)[6:]} {name}"
                    yield x.to(memory_format=FORMATS[name]), label


def sides(x: Tensor) -> dict[str, Forward]:
    """Return the forward pass of each side."""
    channels, dtype = x.shape[1], x.dtype
    ours = SoftAttention(channels, dtype=dtype)
    weight, bias, gamma = ours.weight, ours.bias, ours.gamma
    assert gamma is not None
    conv3d = Conv3dAttention(channels).to(dtype)
    found: dict[str, Forward] = {
        "bare convolution": lambda: bare(x, weight, bias),
        "softattn": lambda: ours(x),
        "plain torch": lambda: plain(x, weight, bias, gamma),
    }
    if x.numel() * x.element_size() <= MOST_BYTES_CONV3D:
        found["Conv3d form"] = lambda: conv3d(x)
    for name, module in (("SE", SEModule), ("CBAM", CbamModule), ("ECA", EcaModule)):
        other = module(channels).to(dtype)
        found[f"{name} (timm)"] = lambda other=other: other(x)
    return found


def with_backward(forward: Forward, x: Tensor) -> Work:
    """Return a function that runs forward and backward with a dense incoming gradient."""
    out = forward()
    incoming = torch.randn_like(out)
    wanted = [x, *parameters_of(out)]

    def work() -> object:
        return torch.autograd.grad(forward(), wanted, incoming, allow_unused=True)

    return work


def parameters_of(out: Tensor) -> list[Tensor]:
    """Return the leaves with a gradient that a result depends on, except the feature map."""
    seen, waiting, found = set(), [out.grad_fn], []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(getattr(node, "variable", None), torch.nn.Parameter):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return found


def with_limits(rows: list[Row], x: Tensor, part: str, speed: Rates, num_maps: int = 16) -> None:
    """Add shares of the product rate, and the limit: the bare convolution, and bytes copied."""
    batch, channels, height, width = x.shape
    taps = (3 * height - 2) * (3 * width - 2)  # of a 3 x 3 filter, but for those on the border
    operations = 2 * batch * taps * channels * num_maps * (1 if part == FORWARD else 3)
    for i, row in enumerate(rows):
        if row.side.startswith(("bare", "softattn", "plain", "Conv3d")):
            share = operations / (row.milliseconds / 1000) / speed.products
            rows[i] = dataclasses.replace(row, share=share)
    moved = PASSES[part] * x.numel() * x.element_size()
    limit = rows[0].milliseconds + 1000 * moved / speed.bytes
    ratio = limit / rows[0].milliseconds
    rows.append(Row(part, rows[0].case, "limit", limit, ratio, ratio, ratio, ratio, ratio))


def forward_and_both(
    cases: Iterator[tuple[Tensor, str]],
    build: Callable[[Tensor], dict[str, Forward]],
    rounds: int,
    threads: int,
    most: float,
) -> Iterator[list[Row]]:
    """Time sides forward without gradients, and forward and backward."""
    speeds: dict[torch.dtype, Rates] = {}
    for x, name in cases:
        if x.dtype not in speeds:
            speeds[x.dtype] = rates(threads, x.dtype)
        forward = build(x)
        with torch.no_grad():
            times = take_turns(forward, rounds, threads, most=most / 3)
        rows = compare(FORWARD, name, times, "bare convolution")
        with_limits(rows, x, FORWARD, speeds[x.dtype])
        yield rows
        x.requires_grad_()
        both = {side: with_backward(run, x) for side, run in forward.items()}
        times = take_turns(both, rounds, threads, most=most)
        rows = compare(BOTH, name, times, "bare convolution")
        with_limits(rows, x, BOTH, speeds[x.dtype])
        yield rows


def layer(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time every side at every shape, batch, dtype and memory format."""
    cases = maps_of() if quick else maps_of(
        SHAPES, (1, 16, 64), (torch.float32, torch.bfloat16), tuple(FORMATS)
    )  # fmt: skip
    yield from forward_and_both(cases, sides, rounds, threads, most=3)


def system(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time every side in float32 and NCHW, with the allocator of the system."""
    cases = maps_of() if quick else maps_of(SHAPES, (1, 16, 64))
    yield from forward_and_both(cases, sides, rounds, threads, most=4)


def cores(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time the layer with a thread on every core."""
    del quick
    for rows in forward_and_both(maps_of(), sides, rounds, threads, most=4):
        yield [dataclasses.replace(row, part=f"{row.part}, {threads} threads") for row in rows]


def guard(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time the layer and the bare convolution, for --check."""
    del quick

    def two(x: Tensor) -> dict[str, Forward]:
        every = sides(x)
        return {side: every[side] for side in ("bare convolution", "softattn")}

    yield from forward_and_both(maps_of(), two, rounds, threads, most=8)


def compiled(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time the layer with torch.compile and without. Needs a C++ compiler."""

    def both(x: Tensor) -> dict[str, Forward]:
        torch.compiler.reset()
        ours = SoftAttention(x.shape[1])
        weight, bias = ours.weight, ours.bias
        fast = torch.compile(ours, fullgraph=True)
        return {
            "bare convolution": lambda: bare(x, weight, bias),
            "softattn": lambda: ours(x),
            "softattn, compiled": lambda: fast(x),
        }

    cases = maps_of(SMALLER[:1]) if quick else maps_of(SHAPES)
    for rows in forward_and_both(cases, both, rounds, threads, most=2):
        yield [dataclasses.replace(row, part=f"compiled, {row.part}") for row in rows]
