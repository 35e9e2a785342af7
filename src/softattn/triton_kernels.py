"""Triton kernels of all that follows the convolution: two launches, one pass over the feature map.

The first turns each map's logits into the map. The second reads each value of x once and writes
each result once: it sums the maps, scales, pools, puts x in front, and clips. With N values in x,
the block with a pool of 2 so moves N values in and N / 2 out. Plain torch moves 6.5 N, and indices:
2 N for the product, 1.25 N for each pooling, N for the concatenation and N for the ReLU. Of the
layer alone it is 2 N either way, with `concat` 3 N for 6 N. The maps, K / C of N, come from the
cache after their first reading.

Products are rounded as plain torch rounds them: the scale to the dtype of x, then the product.

This is the only file that imports triton at its top; `softattn.one_pass` imports it when asked.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["INTERPRETED", "run"]

_BLOCK_MAP = 4096  # most positions of a map at a time
_BLOCK_MAPS = 16  # most maps summed at a time
_BLOCK_OUT = 2048  # most results at a time, of which
_BLOCK_POSITIONS = 64  # most positions

# What follows runs on a GPU, or in a process of Triton's interpreter, where coverage can't see it.


@triton.jit
def _maps_kernel(
    logits: tl.tensor,
    maps: tl.tensor,
    num_maps: tl.tensor,
    positions: tl.tensor,
    stride_sample: tl.tensor,
    stride_map: tl.tensor,
    stride_position: tl.tensor,
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:  # pragma: no cover
    # One map: its largest logit, then the sum of the exponentials, then their quotients.
    one = tl.program_id(0).to(tl.int64)
    logits += one // num_maps * stride_sample + one % num_maps * stride_map
    maps += one * positions
    offsets = tl.arange(0, BLOCK)
    most = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(0, positions, BLOCK):
        at = start + offsets
        values = tl.load(logits + at * stride_position, mask=at < positions, other=float("-inf"))
        most = tl.maximum(most, values.to(tl.float32))
    largest = tl.max(most, axis=0)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, positions, BLOCK):
        at = start + offsets
        values = tl.load(logits + at * stride_position, mask=at < positions, other=float("-inf"))
        total += tl.exp(values.to(tl.float32) - largest)
    factor = 1.0 / tl.sum(total, axis=0)
    for start in range(0, positions, BLOCK):
        at = start + offsets
        values = tl.load(logits + at * stride_position, mask=at < positions, other=float("-inf"))
        tl.store(maps + at, tl.exp(values.to(tl.float32) - largest) * factor, mask=at < positions)


@triton.jit
def _features_kernel(
    x: tl.tensor,
    maps: tl.tensor,
    gamma: tl.tensor,
    out: tl.tensor,
    channels: tl.tensor,
    num_maps: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    x_channel: tl.tensor,
    x_position: tl.tensor,
    out_channel: tl.tensor,
    out_position: tl.tensor,
    POOL: tl.constexpr,  # noqa: N803
    CONCAT: tl.constexpr,  # noqa: N803
    RELU: tl.constexpr,  # noqa: N803
    BLOCK_POSITIONS: tl.constexpr,  # noqa: N803
    BLOCK_CHANNELS: tl.constexpr,  # noqa: N803
    BLOCK_MAPS: tl.constexpr,  # noqa: N803
) -> None:  # pragma: no cover
    # A block of channels at a block of positions of the result, and the window behind each.
    position_blocks = tl.cdiv(rows * columns, BLOCK_POSITIONS)
    channel_blocks = tl.cdiv(channels, BLOCK_CHANNELS)
    program = tl.program_id(0)
    sample = (program // (position_blocks * channel_blocks)).to(tl.int64)
    x += sample * channels * height * width
    maps += sample * num_maps * height * width
    out += sample * channels * (1 + CONCAT) * rows * columns
    position = program % position_blocks * BLOCK_POSITIONS + tl.arange(0, BLOCK_POSITIONS)
    channel = program // position_blocks % channel_blocks * BLOCK_CHANNELS
    channel = (channel + tl.arange(0, BLOCK_CHANNELS))[:, None]
    map_offsets = tl.arange(0, BLOCK_MAPS)[:, None]
    dtype = x.dtype.element_ty
    unchanged = tl.full([BLOCK_CHANNELS, BLOCK_POSITIONS], float("-inf"), tl.float32)
    attended = tl.full([BLOCK_CHANNELS, BLOCK_POSITIONS], float("-inf"), tl.float32)
    for window in range(POOL * POOL):
        at = position
        inside = position < rows * columns
        if POOL > 1:
            row = position // columns * POOL + window // POOL
            column = position % columns * POOL + window % POOL
            inside &= (row < height) & (column < width)
            at = row * width + column
        scale = tl.zeros([BLOCK_POSITIONS], tl.float32)
        some_maps = maps + at[None, :]
        for first in range(0, num_maps, BLOCK_MAPS):
            these = map_offsets + first < num_maps
            values = tl.load(some_maps + map_offsets * height * width, these & inside[None, :], 0.0)
            scale += tl.sum(values, axis=0)
            some_maps += BLOCK_MAPS * height * width
        if gamma is not None:
            scale *= tl.load(gamma)
        scale = scale.to(dtype).to(tl.float32)[None, :]
        wanted = (channel < channels) & inside[None, :]
        values = tl.load(x + channel * x_channel + at[None, :] * x_position, wanted, float("-inf"))
        values = values.to(tl.float32)
        unchanged = tl.maximum(unchanged, values, propagate_nan=tl.PropagateNan.ALL)
        products = tl.where(wanted, values * scale, float("-inf"))
        attended = tl.maximum(attended, products, propagate_nan=tl.PropagateNan.ALL)
    if RELU:
        unchanged = tl.maximum(unchanged, 0.0, propagate_nan=tl.PropagateNan.ALL)
        attended = tl.maximum(attended, 0.0, propagate_nan=tl.PropagateNan.ALL)
    wanted = (channel < channels) & (position < rows * columns)[None, :]
    out += channel * out_channel + position[None, :] * out_position
    if CONCAT:
        tl.store(out, unchanged.to(dtype), wanted)
        out += channels * out_channel
    tl.store(out, attended.to(dtype), wanted)


# Whether Triton's interpreter runs the kernels (TRITON_INTERPRET=1), on tensors of any device.
INTERPRETED = not isinstance(_features_kernel, triton.JITFunction)


def run(
    x: Tensor,
    logits: Tensor,
    gamma: Tensor | float | None,
    *,
    concat: bool,
    pool: int,
    relu: bool,
) -> tuple[Tensor, Tensor]:  # pragma: no cover
    """Give the features and the maps of x (B, C, H, W) and logits (B, K, H, W), B > 0."""
    samples, channels, height, width = x.shape
    num_maps, positions = logits.shape[1], height * width
    rows, columns = -(-height // pool), -(-width // pool)
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    order = torch.channels_last if last else torch.contiguous_format
    x = x.contiguous(memory_format=order)
    shape = (samples, (1 + concat) * channels, rows, columns)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=order)
    maps = x.new_empty((samples, num_maps, height, width), dtype=torch.float32)
    flat = logits.flatten(2)
    block_positions = min(_BLOCK_POSITIONS, triton.next_power_of_2(rows * columns))
    block_channels = min(_BLOCK_OUT // block_positions, triton.next_power_of_2(channels))
    blocks = triton.cdiv(rows * columns, block_positions) * triton.cdiv(channels, block_channels)
    if isinstance(gamma, Tensor):
        gamma = gamma.to(x.device, torch.float32)
    elif gamma is not None:
        gamma = torch.full((), gamma, dtype=torch.float32, device=x.device)
    # Triton launches on the current device.
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        _maps_kernel[(samples * num_maps,)](
            flat,
            maps,
            num_maps,
            positions,
            *flat.stride(),
            BLOCK=min(_BLOCK_MAP, triton.next_power_of_2(positions)),
        )
        _features_kernel[(samples * blocks,)](
            x,
            maps,
            gamma,
            out,
            channels,
            num_maps,
            height,
            width,
            rows,
            columns,
            *((1, channels) if last else (positions, 1)),
            *((1, out.shape[1]) if last else (rows * columns, 1)),
            POOL=pool,
            CONCAT=concat,
            RELU=relu,
            BLOCK_POSITIONS=block_positions,
            BLOCK_CHANNELS=block_channels,
            BLOCK_MAPS=min(_BLOCK_MAPS, triton.next_power_of_2(num_maps)),
        )
    return out, maps
