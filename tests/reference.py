"""Equation 1 in plain float64 NumPy: loops over the kernel, nothing shared with the library."""

import numpy as np

ACTIVATIONS = {
    None: lambda a: a,
    "relu": lambda a: np.maximum(a, 0),
    "tanh": np.tanh,
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "softplus": lambda a: np.log1p(np.exp(a)),
    "silu": lambda a: a / (1 + np.exp(-a)),
    "elu": lambda a: np.where(a > 0, a, np.exp(a) - 1),
    "leaky_relu": lambda a: np.where(a > 0, a, 0.01 * a),
    "gelu": lambda a: a * 0.5 * (1 + np.vectorize(_erf)(a / np.sqrt(2))),
}


def _erf(z: float) -> float:
    from math import erf

    return erf(z)


def convolve(x, weight, bias):
    """Cross-correlation of (B, C, *spatial) with (K, C, *kernel), zeros beyond the border."""
    size, kernel = x.shape[2:], weight.shape[2:]
    logits = np.zeros((x.shape[0], weight.shape[0], *size))
    for position in np.ndindex(size):
        for offset in np.ndindex(kernel):
            source = tuple(p + o - k // 2 for p, o, k in zip(position, offset, kernel, strict=True))
            if all(0 <= s < n for s, n in zip(source, size, strict=True)):
                logits[..., *position] += x[..., *source] @ weight[..., *offset].T
    return logits if bias is None else logits + bias.reshape(1, -1, *[1] * len(size))


def softmax(logits):
    positions = tuple(range(2, logits.ndim))
    exponentials = np.exp(logits - logits.max(axis=positions, keepdims=True))
    return exponentials / exponentials.sum(axis=positions, keepdims=True)


def soft_attention(x, weight, bias, gamma, aggregate, concat, activation):
    maps = softmax(ACTIVATIONS[activation](convolve(x, weight, bias)))
    factor = 1.0 if gamma is None else gamma
    each = [factor * x * maps[:, k : k + 1] for k in range(maps.shape[1])]
    attended = sum(each) if aggregate else np.concatenate(each, axis=1)
    return (np.concatenate([x, attended], axis=1) if concat else attended), maps
