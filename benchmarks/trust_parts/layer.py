"""Random arguments for the layers and functions of softattn."""

import random
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softattn import (
    SoftAttention,
    SoftAttention1d,
    SoftAttention3d,
    SoftAttentionBlock,
    functional,
)
from softattn.keras import KerasSoftAttention

from . import values
from .campaign import WrongResultError

ACTIVATIONS = (None, "relu", "tanh", "silu", "gelu", "sofplus", torch.sin)
LAYERS: dict[type[Any], int] = {
    SoftAttention: 2,
    SoftAttention1d: 1,
    SoftAttention3d: 3,
    SoftAttentionBlock: 2,
    KerasSoftAttention: 2,
}
"""Layers by their number of spatial dimensions."""


def prepare(_: Path) -> None:
    """Silence warnings of torch: cases share nothing."""
    warnings.simplefilter("ignore")


def case(_: None, rng: random.Random) -> None:
    """Call a layer or a function."""
    rng.choice((_layer, _layer, _soft_attention, _attention_maps, _attend, _softmax))(rng)


def _layer(rng: random.Random) -> None:
    kind = rng.choice(list(LAYERS))
    num_dims = LAYERS[kind]
    channels, maps, batch = rng.randint(1, 6), rng.randint(1, 4), rng.randint(0, 3)
    dtype, device = rng.choice(values.FLOATS), rng.choice(("cpu", "cpu", "cpu", "meta"))
    options: dict[str, Any] = {
        "num_maps": maps,
        "aggregate": rng.random() < 0.5,
        "concat": rng.random() < 0.5,
        "kernel_size": rng.choice((1, 3, 5, 3, 2, (3,) * num_dims)),
        "gamma": rng.choice((0.01, 0.0, 1, -2.5, None)),
        "activation": rng.choice(ACTIVATIONS),
        "bias": rng.random() < 0.5,
        "pool": rng.choice((1, 2, 3)),
        "drop_rate": rng.choice((0.0, 0.5, 1.0)),
    }
    unknown = {KerasSoftAttention: {"kernel_size", "gamma", "activation", "bias"}}.get(kind, set())
    unknown |= {"concat"} if kind is SoftAttentionBlock else {"pool", "drop_rate"}
    options = {key: value for key, value in options.items() if key not in unknown}
    given = values.some(rng, options)
    places = {"dtype": values.mostly(rng, dtype), "device": values.mostly(rng, device)}
    layer = kind(values.mostly(rng, channels), **given, **places)
    layer.train(rng.random() < 0.5)
    sizes = [rng.randint(1, 7) for _ in range(num_dims)]
    x = values.mostly(
        rng, values.tensor(rng, values.shape(rng, batch, channels, *sizes), dtype, device)
    )
    features, found = layer(x, return_maps=True)
    copies = layer.out_channels
    # The three channels and positions of x, since the case may have changed its shape.
    pool = layer.pool if kind is SoftAttentionBlock else 1
    expected = (len(x), copies, *(-(-size // pool) for size in x.shape[2:]))
    attention = layer.attention if kind is SoftAttentionBlock else layer
    _check(features, expected, x.dtype, x)
    _check_maps(found, (len(x), attention.num_maps, *x.shape[2:]), x)


def _arguments(rng: random.Random) -> dict[str, Any]:
    """Return arguments of a function of the equation, in one to three dimensions."""
    num_dims = rng.choice((1, 2, 3))
    channels, maps, batch = rng.randint(1, 6), rng.randint(1, 4), rng.randint(0, 3)
    dtype, device = rng.choice(values.FLOATS), rng.choice(("cpu", "cpu", "cpu", "meta"))
    sizes = [rng.randint(1, 7) for _ in range(num_dims)]
    kernel = [rng.choice((1, 3, 5, 3, 2)) if rng.random() < 0.3 else 3 for _ in range(num_dims)]

    def make(*of: int) -> Any:
        return values.mostly(rng, values.tensor(rng, values.shape(rng, *of), dtype, device))

    x, weight = make(batch, channels, *sizes), make(maps, channels, *kernel)
    bias = make(maps) if rng.random() < 0.5 else None
    return {"x": x, "weight": weight, "bias": bias}


def _soft_attention(rng: random.Random) -> None:
    given = _arguments(rng)
    aggregate, concat = rng.random() < 0.5, rng.random() < 0.5
    gamma = values.mostly(
        rng, rng.choice((None, 0.01, 1, torch.tensor(0.5), torch.ones(1), torch.ones(2)))
    )
    activation = values.mostly(rng, rng.choice(ACTIVATIONS))
    features, maps = functional.soft_attention(
        **given,
        gamma=gamma,
        aggregate=aggregate,
        concat=concat,
        activation=activation,
        return_maps=True,
    )
    x, count = given["x"], len(given["weight"])
    copies = (1 if aggregate else count) + concat
    finite = not isinstance(gamma, float) or -10 < gamma < 10
    _check(features, (len(x), copies * x.shape[1], *x.shape[2:]), x.dtype, x, finite=finite)
    _check_maps(maps, (len(x), count, *x.shape[2:]), x)


def _attention_maps(rng: random.Random) -> None:
    given = _arguments(rng)
    maps = functional.attention_maps(**given, activation=values.mostly(rng, "relu"))
    x = given["x"]
    _check_maps(maps, (len(x), len(given["weight"]), *x.shape[2:]), x)


def _attend(rng: random.Random) -> None:
    given = _arguments(rng)
    x = given["x"]
    maps: Any = values.junk(rng)
    if isinstance(x, Tensor) and rng.random() < 0.95:
        like = (len(x) if x.ndim else 1, rng.randint(1, 4), *x.shape[2:])
        maps = values.tensor(rng, values.shape(rng, *like), torch.float32, x.device.type)
    aggregate = rng.random() < 0.5
    gamma = values.mostly(rng, rng.choice((None, 2.0, torch.ones(()))))
    features = functional.attend(x, maps, gamma, aggregate=aggregate)
    copies = 1 if aggregate else maps.shape[1]
    finite = not isinstance(gamma, float) or -10 < gamma < 10
    _check(features, (len(x), copies * x.shape[1], *x.shape[2:]), x.dtype, x, finite=finite)


def _softmax(rng: random.Random) -> None:
    given = _arguments(rng)
    maps = functional.spatial_softmax(given["x"])
    _check_maps(maps, tuple(given["x"].shape), given["x"])


def _check(
    found: Tensor, sizes: tuple[int, ...], dtype: torch.dtype, x: Tensor, finite: bool = True
) -> None:
    if not isinstance(found, Tensor) or tuple(found.shape) != sizes or found.dtype != dtype:
        kind = f"{tuple(found.shape)} {found.dtype}"
        raise WrongResultError(f"expected features {sizes} {dtype}, found {kind}")
    if finite and found.device.type != "meta" and x.isfinite().all() and not found.isfinite().all():
        raise WrongResultError(f"features of finite x {tuple(x.shape)} {x.dtype} are not finite")


def _check_maps(maps: Tensor, sizes: tuple[int, ...], x: Tensor) -> None:
    wide = torch.promote_types(x.dtype, torch.float32)
    if tuple(maps.shape) != sizes or maps.dtype != wide:
        kind = f"{tuple(maps.shape)} {maps.dtype}"
        raise WrongResultError(f"expected maps {sizes} {wide}, found {kind}")
    if maps.device.type == "meta":
        return
    sums = maps.flatten(2).sum(-1)
    if not torch.allclose(sums, torch.ones_like(sums), atol=1e-4) or bool((maps < 0).any()):
        raise WrongResultError(f"maps of x {tuple(x.shape)} {x.dtype} do not sum to 1")
