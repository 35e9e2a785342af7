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
    """Cross-correlation of (B, C, H, W) with (K, C, kh, kw), zeros beyond the border."""
    batch, _, height, width = x.shape
    num_maps, _, kernel_height, kernel_width = weight.shape
    logits = np.zeros((batch, num_maps, height, width))
    for i in range(height):
        for j in range(width):
            for a in range(kernel_height):
                for b in range(kernel_width):
                    row, column = i + a - kernel_height // 2, j + b - kernel_width // 2
                    if 0 <= row < height and 0 <= column < width:
                        logits[:, :, i, j] += x[:, :, row, column] @ weight[:, :, a, b].T
    return logits if bias is None else logits + bias[None, :, None, None]


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=(2, 3), keepdims=True))
    return exponentials / exponentials.sum(axis=(2, 3), keepdims=True)


def soft_attention(x, weight, bias, gamma, aggregate, concat, activation):
    maps = softmax(ACTIVATIONS[activation](convolve(x, weight, bias)))
    factor = 1.0 if gamma is None else gamma
    each = [factor * x * maps[:, k : k + 1] for k in range(maps.shape[1])]
    attended = sum(each) if aggregate else np.concatenate(each, axis=1)
    return (np.concatenate([x, attended], axis=1) if concat else attended), maps
