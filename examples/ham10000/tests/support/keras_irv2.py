"""Reference for comparisons: the authors' Inception-ResNet-v2 with attention, in Keras.

    python keras_irv2.py IN.npz OUT.npz

IN has the weights by layer, `images` (B, 299, 299, 3), scaled, for the logits, and for one
training step without dropout `batch`, `labels`, `class_weights` (7,) and the settings of Adam. OUT
gets the logits, the loss and the weights after the step.

The logits are computed in float32 and the step in float64: the gradients of 200 layers with random
weights amplify rounding, to 2 % of some updates in float32.
"""

import re
import sys
from collections.abc import Mapping

import keras
import numpy as np
from keras import layers
from keras_reference import attention_layer
from numpy.typing import NDArray

_FROM_THE_END = 28
"""Their code attends to the output of `irv2.layers[-28]`."""


def build_model() -> tuple[keras.Model, keras.Model]:
    """Return a model of the probabilities and one of the logits, which share their layers."""
    whole = keras.applications.InceptionResNetV2(weights=None)
    x = whole.layers[-_FROM_THE_END].output
    attended, _ = attention_layer(keras)(
        int(x.shape[-1]), 16, aggregate=True, concat_with_x=False, name="soft_attention"
    )(x)
    attended = layers.MaxPooling2D(pool_size=(2, 2), padding="same")(attended)
    pooled = layers.MaxPooling2D(pool_size=(2, 2), padding="same")(x)
    y = layers.Activation("relu")(layers.concatenate([pooled, attended]))
    logits = layers.Dense(7, name="head")(layers.Flatten()(y))
    probabilities = layers.Activation("softmax")(logits)
    return keras.Model(whole.input, probabilities), keras.Model(whole.input, logits)


def layers_by_name(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Return the layers with weights: conv0, norm0, ... in order of creation, up0, and the rest."""
    found: dict[str, list[tuple[int, keras.layers.Layer]]] = {"conv": [], "norm": [], "up": []}
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            found["up" if layer.use_bias else "conv"].append((_creation(layer.name), layer))
        elif isinstance(layer, layers.BatchNormalization):
            found["norm"].append((_creation(layer.name), layer))
    named = {
        f"{kind}{number}": layer
        for kind, pairs in found.items()
        for number, (_, layer) in enumerate(sorted(pairs, key=lambda pair: pair[0]))
    }
    return {**named, **{name: model.get_layer(name) for name in ("soft_attention", "head")}}


def _creation(name: str) -> int:
    # Keras numbers unnamed layers: conv2d, conv2d_1, ... The others are block35_1_conv to
    # block35_10_conv, then block17_1_conv and so on.
    block = re.fullmatch(r"block(\d+)_(\d+)_conv", name)
    if block:
        return 1000 * (35 - int(block[1])) + int(block[2])
    number = name.rpartition("_")[2]
    return int(number) if number.isdigit() else 0


def load(arrays: Mapping[str, NDArray[np.float64]]) -> tuple[keras.Model, keras.Model]:
    """Return both models with the weights of IN; every one of them must be used."""
    model, logits = build_model()
    used = set()
    for name, layer in layers_by_name(model).items():
        names = [f"{name}/{number}" for number in range(len(layer.weights))]
        layer.set_weights([arrays[each] for each in names])
        used |= set(names)
    assert used == {name for name in arrays if "/" in name}
    return model, logits


def main(given: str, out: str) -> None:
    """Compute the arrays of OUT from those of IN."""
    arrays = dict(np.load(given))
    _, logits = load(arrays)
    result = {"logits": logits.predict(arrays["images"], verbose=0)}
    keras.backend.clear_session()
    keras.config.set_floatx("float64")
    model, _ = load(arrays)
    model.compile(
        keras.optimizers.Adam(float(arrays["lr"]), epsilon=float(arrays["eps"])),
        "categorical_crossentropy",
    )
    result["loss"] = model.train_on_batch(
        arrays["batch"],
        np.eye(7)[arrays["labels"]],
        class_weight=dict(enumerate(arrays["class_weights"].tolist())),
    )
    for name, layer in layers_by_name(model).items():
        result |= {f"{name}/{i}": weight for i, weight in enumerate(layer.get_weights())}
    np.savez(out, **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
