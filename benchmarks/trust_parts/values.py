"""Random values, valid or not."""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

JUNK: tuple[Callable[[], Any], ...] = (
    lambda: None,
    lambda: True,
    lambda: 0,
    lambda: -1,
    lambda: 1.5,
    lambda: math.nan,
    lambda: math.inf,
    lambda: 10**30,
    lambda: "",
    lambda: "x",
    lambda: b"x",
    lambda: [],
    lambda: {},
    lambda: (3, 3, 3, 3),
    lambda: (1, "x"),
    lambda: object(),
    lambda: range(3),
    lambda: np.int64(3),
    lambda: np.zeros((2, 2)),
    lambda: torch.zeros(2, 3),
    lambda: torch.tensor(3),
    lambda: complex(1, 1),
    lambda: lambda *_: None,
)
"""Values that most arguments do not accept, some of them valid for a few."""

FLOATS = (torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)
OTHERS = (torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn)


def junk(rng: random.Random) -> Any:
    """Return a value of `JUNK`."""
    return rng.choice(JUNK)()


def mostly(rng: random.Random, value: Any, chance: float = 0.04) -> Any:
    """Return a value, or junk instead of it."""
    return junk(rng) if rng.random() < chance else value


def some(rng: random.Random, options: dict[str, Any], chance: float = 0.04) -> dict[str, Any]:
    """Return some of the options, a few of them with junk."""
    return {key: mostly(rng, value, chance) for key, value in options.items() if rng.random() < 0.5}


def shape(rng: random.Random, *expected: int) -> tuple[int, ...]:
    """Return the expected sizes, or others."""
    sizes = list(expected)
    change = rng.random()
    if change < 0.05 and sizes:
        sizes[rng.randrange(len(sizes))] = rng.choice((0, 1, 2, 5))
    elif change < 0.08:
        sizes = [rng.choice((0, 1, 2, 3, 7)) for _ in range(rng.randrange(7))]
    elif change < 0.1:
        rng.shuffle(sizes)
    return tuple(sizes)


def tensor(
    rng: random.Random, sizes: tuple[int, ...], dtype: torch.dtype, device: str = "cpu"
) -> Tensor:
    """Return a tensor of moderate values, in one of several memory layouts."""
    if rng.random() < 0.06:
        dtype = rng.choice(FLOATS + OTHERS)
    x = torch.randn(sizes).clamp(-3, 3).to(dtype)
    form = rng.random()
    if form < 0.1 and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    elif form < 0.15 and x.ndim > 1:
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    elif form < 0.2:
        x = torch.nn.Parameter(x, requires_grad=x.is_floating_point())
    elif form < 0.22 and x.dtype in FLOATS:
        x = x.to_sparse()
    elif form < 0.24 and x.dtype == torch.float32:
        x = torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)
    if rng.random() < 0.03:
        device = "meta"
    return x.to(device) if device != "cpu" and not x.is_quantized else x
