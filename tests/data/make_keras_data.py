"""Make the arrays and files beside this script with TensorFlow and both versions of Keras.

pip install tensorflow-cpu tf-keras h5py
python tests/data/make_keras_data.py
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tf_keras

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from keras_reference import attention_layer, run_cases  # noqa: E402 (lies in tests/)

# (H, W, C): more and fewer rows than channels, odd and even sizes, and fewer than three channels.
SIZES = [(5, 6, 8), (9, 7, 4), (4, 3, 7), (3, 3, 13), (6, 5, 3), (5, 4, 2), (4, 4, 1), (1, 1, 5)]


def small_model(keras_: object) -> object:
    """A model with a convolution before and a dense layer after the attention, trained a step."""
    layers = keras_.layers
    inputs = keras_.Input((6, 5, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(inputs)
    x, _ = attention_layer(keras_)(8, 4, aggregate=True, name="soft_attention")(x)
    outputs = layers.Dense(7, name="head")(layers.GlobalAveragePooling2D()(x))
    model = keras_.Model(inputs, outputs)
    model.compile("adam", "mse")
    rng = np.random.default_rng(0)
    model.fit(rng.normal(size=(4, 6, 5, 3)), rng.normal(size=(4, 7)), verbose=0)
    return model


def main() -> None:
    np.savez_compressed(HERE / "keras_layer.npz", **run_cases(SIZES, num_maps=3))

    keras.utils.set_random_seed(1)
    tf_keras.utils.set_random_seed(2)
    three, two = small_model(keras), small_model(tf_keras)
    three.save(HERE / "keras3.keras")
    three.save_weights(HERE / "keras3.weights.h5")
    three.save(HERE / "keras3_whole.h5")
    two.save(HERE / "keras2_whole.hdf5")
    two.save_weights(HERE / "keras2_weights.h5")
    for name, model in (("keras3", three), ("keras2", two)):
        layer = model.get_layer("soft_attention")
        np.savez(
            HERE / f"{name}_weights.npz",
            kernel_conv3d=layer.kernel_conv3d.numpy(),
            bias_conv3d=layer.bias_conv3d.numpy(),
        )


if __name__ == "__main__":
    main()
