"""The layer beside the Conv3d form, plain torch, timm's attentions and the bare convolution."""

from collections.abc import Callable, Iterator

import torch
from timm.layers import EcaModule, SEModule
from timm.layers.cbam import CbamModule
from torch import Tensor

from bench.harness import Row, Work, compare, take_turns
from bench.memory import peak_memory
from bench.others import Conv3dAttention, bare, plain
from softattn import SoftAttention, SoftAttentionBlock

SHAPES = [(192, 8, 8), (1536, 8, 8), (2048, 7, 7), (512, 28, 28), (256, 56, 56)]
MOST_BYTES = 2**28  # of x: beyond it two cores take minutes
MOST_BYTES_CONV3D = 2**26
FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


def cases(quick: bool) -> Iterator[tuple[torch.Tensor, str]]:
    """Give feature maps, and what to call them."""
    shapes = [(192, 8, 8), (1536, 8, 8), (512, 28, 28)] if quick else SHAPES
    for channels, height, width in shapes:
        for batch in (16,) if quick else (1, 16, 64):
            for dtype in (torch.float32,) if quick else (torch.float32, torch.bfloat16):
                for name, memory_format in FORMATS.items():
                    if quick and name == "NHWC":
                        continue
                    if dtype is torch.bfloat16 and batch != 16:
                        continue
                    if batch * channels * height * width * dtype.itemsize > MOST_BYTES:
                        continue
                    x = torch.randn(batch, channels, height, width).to(dtype)
                    label = f"{batch}x{channels}x{height}x{width} {str(dtype)[6:]} {name}"
                    yield x.to(memory_format=memory_format), label


def sides(x: Tensor, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    """Give each side's forward pass."""
    channels, dtype = x.shape[1], x.dtype
    ours = SoftAttention(channels, dtype=dtype)
    weight, bias, gamma = ours.weight, ours.bias, ours.gamma
    assert gamma is not None
    conv3d = Conv3dAttention(channels).to(dtype)
    found = {
        "bare convolution": lambda: bare(x, weight, bias),
        "softattn": lambda: ours(x),
        "plain torch": lambda: plain(x, weight, bias, gamma),
    }
    if x.numel() * x.element_size() <= MOST_BYTES_CONV3D:
        found["Conv3d form"] = lambda: conv3d(x)
    for name, module in (("SE", SEModule), ("CBAM", CbamModule), ("ECA", EcaModule)):
        other = module(channels).to(dtype)
        found[f"{name} (timm)"] = lambda other=other: other(x)
    if compiled:
        fast = torch.compile(ours, fullgraph=True)
        found["softattn, compiled"] = lambda: fast(x)
    return found


def with_backward(forward: Callable[[], Tensor], x: Tensor) -> Work:
    """Run forward and backward; the gradient that comes in is dense and already there."""
    out = forward()
    incoming = torch.randn_like(out)
    wanted = [x, *parameters_of(out)]

    def work() -> object:
        return torch.autograd.grad(forward(), wanted, incoming, allow_unused=True)

    return work


def parameters_of(out: Tensor) -> list[Tensor]:
    """Find the leaves with a gradient that a result comes from, but for the feature map."""
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


def layer(quick: bool, rounds: int, threads: int) -> list[Row]:
    """Time the layer, forward without gradients, and forward and backward."""
    rows = []
    for x, name in cases(quick):
        compiled = not quick and name.startswith("16x1536") and "float32 NCHW" in name
        forward = sides(x, compiled)
        with torch.no_grad():
            times = take_turns(forward, rounds, 0.01, threads)
        rows += compare("forward", name, times, "bare convolution")
        x.requires_grad_()
        both = {side: with_backward(run, x) for side, run in forward.items()}
        times = take_turns(both, rounds, 0.01, threads)
        rows += compare("forward+backward", name, times, "bare convolution")
    return rows


def memory(quick: bool, rounds: int, threads: int) -> list[Row]:
    """Count peak memory of forward and backward, in sizes of x."""
    del rounds
    torch.set_num_threads(threads)
    rows = []
    for x, name in cases(quick=True):
        x.requires_grad_()
        size = x.numel() * x.element_size()
        for side, forward in sides(x, compiled=False).items():
            most = peak_memory(with_backward(forward, x)) / size
            rows.append(Row("peak memory in x", name, side, 0.0, most, most, most, most, most))
        each = SoftAttention(x.shape[1], aggregate=False)
        with torch.no_grad():
            most = peak_memory(lambda x=x, each=each: each(x)) / (16 * size)
        row = Row(
            "memory, per map, in its output", name, "softattn", 0, most, most, most, most, most
        )
        rows.append(row)
    return rows


def block(quick: bool, rounds: int, threads: int) -> list[Row]:
    """Time the paper's block and the per-map layer, forward and backward."""
    rows = []
    for x, name in cases(quick=True):
        x.requires_grad_()
        built = {
            "softattn layer": SoftAttention(x.shape[1]),
            "softattn layer, concat": SoftAttention(x.shape[1], concat=True),
            "softattn block": SoftAttentionBlock(x.shape[1]),
            "softattn per map": SoftAttention(x.shape[1], 4, aggregate=False),
        }
        weight, bias = built["softattn layer"].weight, built["softattn layer"].bias
        forward: dict[str, Callable[[], Tensor]] = {
            "bare convolution": lambda x=x, w=weight, b=bias: bare(x, w, b)
        }
        forward |= {side: lambda m=module, x=x: m(x) for side, module in built.items()}
        both = {side: with_backward(run, x) for side, run in forward.items()}
        rows += compare("block", name, take_turns(both, rounds, 0.01, threads), "bare convolution")
    return rows


def growth(quick: bool, rounds: int, threads: int) -> list[Row]:
    """Time how the layer grows with batch, channels, resolution and maps."""
    start = {"batch": 8, "channels": 256, "side": 14, "maps": 16}
    steps = {"batch": (1, 4, 16, 64), "channels": (64, 256, 1024, 2048),
             "side": (7, 14, 28, 56), "maps": (1, 4, 16, 64)}  # fmt: skip
    rows = []
    for axis, values in steps.items():
        for value in values[:2] if quick else values:
            at = {**start, axis: value}
            x = torch.randn(at["batch"], at["channels"], at["side"], at["side"])
            x.requires_grad_()
            ours = SoftAttention(at["channels"], at["maps"])
            forward = {
                "bare convolution": lambda x=x, m=ours: bare(x, m.weight, m.bias),
                "softattn": lambda x=x, m=ours: m(x),
            }
            both = {side: with_backward(run, x) for side, run in forward.items()}
            times = take_turns(both, rounds, 0.01, threads)
            rows += compare(f"growth with {axis}", str(value), times, "bare convolution")
    return rows
