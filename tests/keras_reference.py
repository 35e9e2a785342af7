"""Reference for comparisons: the authors' layer in TensorFlow, reimplemented.

XLA computes the convolution, since TensorFlow's CPU kernels don't agree on it: oneDNN's gives
arbitrary numbers for some sizes, and Eigen's takes the three centre channels. XLA does what the
documentation of SAME padding says, and what GPUs do.

    python tests/keras_reference.py OUT.npz 5,6,8 9,7,4    # (H, W, C) of each case
"""

import itertools
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf


@tf.function(jit_compile=True)
def convolve(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Apply conv3d to (B, H, W, C) over height, width and channels; return (B, H, W, K)."""
    logits = tf.nn.conv3d(x[..., None], kernel, [1, 1, 1, x.shape[-1], 1], "SAME")
    return logits[:, :, :, 0]


def attention_layer(keras: ModuleType) -> type:
    """The layer as a class of Keras 2 (the package tf_keras) or Keras 3 (keras)."""

    class SoftAttention(keras.layers.Layer):
        def __init__(
            self,
            ch: int,
            m: int = 16,
            aggregate: bool = False,
            concat_with_x: bool = False,
            **options: Any,
        ) -> None:
            super().__init__(**options)
            self.ch, self.m = ch, m
            self.aggregate, self.concat_with_x = aggregate, concat_with_x

        def build(self, input_shape: tuple[int, ...]) -> None:
            self.kernel_conv3d = self.add_weight(
                shape=(self.ch, 3, 3, 1, self.m), initializer="he_uniform", name="kernel_conv3d"
            )
            self.bias_conv3d = self.add_weight(
                shape=(self.m,), initializer="random_normal", name="bias_conv3d"
            )
            super().build(input_shape)

        def call(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            kernel = tf.convert_to_tensor(self.kernel_conv3d)
            logits = tf.nn.relu(convolve(x, kernel) + tf.convert_to_tensor(self.bias_conv3d))
            height, width = x.shape[1:3]
            flat = tf.transpose(tf.reshape(logits, (-1, height * width, self.m)), (0, 2, 1))
            maps = tf.reshape(tf.nn.softmax(flat, axis=-1), (-1, self.m, height, width))
            each = [x * maps[:, k, :, :, None] for k in range(self.m)]
            features = tf.add_n(each) if self.aggregate else tf.concat(each, axis=-1)
            if self.concat_with_x:
                features = tf.concat([features, x], axis=-1)
            return features, maps

    return SoftAttention


def run_case(
    size: tuple[int, ...], num_maps: int, aggregate: bool, concat: bool, seed: int
) -> dict[str, np.ndarray]:
    """Run the layer in Keras 3 on random features (2, *size); return its inputs and outputs."""
    keras.utils.set_random_seed(seed)
    x = np.random.default_rng(seed).normal(size=(2, *size)).astype(np.float32)
    layer = attention_layer(keras)(size[-1], num_maps, aggregate, concat)
    features, maps = layer(x)
    return {
        "x": x,
        "kernel_conv3d": layer.kernel_conv3d.numpy(),
        "bias_conv3d": layer.bias_conv3d.numpy(),
        "features": features.numpy(),
        "maps": maps.numpy(),
    }


def run_cases(sizes: Iterable[tuple[int, ...]], num_maps: int) -> dict[str, np.ndarray]:
    """Run the layer for every size, with aggregate and concat both ways."""
    arrays = {}
    for seed, (size, aggregate, concat) in enumerate(
        itertools.product(sizes, (False, True), (False, True))
    ):
        case = run_case(size, num_maps, aggregate, concat, seed)
        name = f"{','.join(map(str, size))} {aggregate:d} {concat:d}"
        arrays |= {f"{name}/{key}": array for key, array in case.items()}
    return arrays


if __name__ == "__main__":
    wanted = [tuple(map(int, size.split(","))) for size in sys.argv[2:]]
    np.savez(sys.argv[1], **run_cases(wanted, num_maps=16))
