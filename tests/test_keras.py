import re
from pathlib import Path

import numpy as np
import pytest
import torch

from softattn import ArgumentError, ArgumentTypeError, ShapeError
from softattn.keras import KerasSoftAttention, load_weights

DATA = Path(__file__).parent / "data"
LAYER = np.load(DATA / "keras_layer.npz")
CASES = sorted({name.rpartition("/")[0] for name in LAYER.files})


def assert_equals_tensorflow(case, aggregate, concat):
    """Compare the layer with arrays from TensorFlow, both in float32."""
    kernel = case["kernel_conv3d"]
    layer = KerasSoftAttention(
        kernel.shape[0], kernel.shape[-1], aggregate=aggregate, concat=concat
    )
    load_weights(layer, {name: case[name] for name in ("kernel_conv3d", "bias_conv3d")})
    features, maps = layer(torch.from_numpy(case["x"]).permute(0, 3, 1, 2), return_maps=True)
    features = features.detach().permute(0, 2, 3, 1).numpy()
    assert features.shape == case["features"].shape
    assert features.shape[-1] == layer.out_channels
    assert np.abs(maps.detach().numpy() - case["maps"]).max() <= 2e-6
    assert np.abs(features - case["features"]).max() <= 2e-6


@pytest.mark.parametrize("name", CASES)
def test_equals_stored_arrays_of_tensorflow(name):
    case = {key: LAYER[f"{name}/{key}"] for key in ("x", "kernel_conv3d", "bias_conv3d")}
    case |= {key: LAYER[f"{name}/{key}"] for key in ("features", "maps")}
    _, aggregate, concat = name.split()
    assert_equals_tensorflow(case, aggregate == "1", concat == "1")


def plain_maps(x, kernel, bias):
    """The authors' maps in float64 by loops: (B, H, W, C) and (C, 3, 3, 1, K) to (B, K, H, W)."""
    batch, height, width, channels = x.shape
    top, front = (channels - 1) // 2, max(3 - channels, 0) // 2
    logits = np.zeros((batch, kernel.shape[-1], height, width)) + bias[:, None, None]
    for i, j, a, b, c in np.ndindex(height, width, channels, 3, 3):
        row, column, channel = i + a - top, j + b - 1, c - front
        if 0 <= row < height and 0 <= column < width and 0 <= channel < channels:
            logits[:, :, i, j] += x[:, row, column, channel, None] * kernel[a, b, c, 0]
    exponentials = np.exp(np.maximum(logits, 0))
    return exponentials / exponentials.sum(axis=(2, 3), keepdims=True)


@pytest.mark.parametrize("size", [(5, 6, 8), (9, 7, 4), (4, 3, 13), (5, 4, 2), (4, 4, 1)])
def test_equals_a_plain_reference(size):
    layer = KerasSoftAttention(size[-1], 3, aggregate=True, dtype=torch.float64)
    x, kernel, bias = (
        np.random.default_rng(0).normal(size=shape)
        for shape in ((2, *size), (size[-1], 3, 3, 1, 3), (3,))
    )
    load_weights(layer, {"kernel_conv3d": kernel, "bias_conv3d": bias})
    features, maps = layer(torch.from_numpy(x).permute(0, 3, 1, 2), return_maps=True)
    expected = plain_maps(x, kernel, bias)
    np.testing.assert_allclose(maps.detach().numpy(), expected, rtol=0, atol=1e-12)
    expected = (x * expected.sum(1)[..., None]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(features.detach().numpy(), expected, rtol=0, atol=1e-12)


def test_only_the_first_three_channels_reach_the_maps():
    layer = KerasSoftAttention(64, 4)
    x = torch.randn(1, 64, 7, 7)
    maps = layer(x, return_maps=True)[1]
    others = x.clone()
    others[:, 3:] = torch.randn(1, 61, 7, 7)
    assert torch.equal(layer(others, return_maps=True)[1], maps)
    for channel in range(3):
        others = x.clone()
        others[:, channel] += 1
        assert not torch.equal(layer(others, return_maps=True)[1], maps)


def test_copies_are_ordered_by_map_with_x_last():
    layer = KerasSoftAttention(4, 2, concat=True)
    x = torch.randn(1, 4, 3, 3)
    features, maps = layer(x, return_maps=True)
    torch.testing.assert_close(features, torch.cat([x * maps[:, :1], x * maps[:, 1:], x], dim=1))


def test_has_the_authors_parameters():
    # The attention of their Inception-ResNet-v2.
    assert sum(p.numel() for p in KerasSoftAttention(192, 16).parameters()) == 27_664
    layer = KerasSoftAttention(192, 16)
    bound = np.sqrt(6 / (192 * 9))  # he_uniform of the kernel (C, 3, 3, 1, K)
    assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert not layer.bias.any()
    assert "192, num_maps=16, aggregate=False, concat=False" in repr(layer)


@pytest.mark.parametrize(
    ("version", "suffix"),
    [
        ("keras2", "_whole.hdf5"),
        ("keras2", "_weights.h5"),
        ("keras3", "_whole.h5"),
        ("keras3", ".weights.h5"),
        ("keras3", ".keras"),
    ],
)
def test_reads_every_kind_of_file(version, suffix):
    pytest.importorskip("h5py", reason="needs softattn[keras]")
    stored = np.load(DATA / f"{version}_weights.npz")
    from_file, from_arrays = KerasSoftAttention(8, 4), KerasSoftAttention(8, 4)
    assert load_weights(from_file, DATA / f"{version}{suffix}") is from_file
    load_weights(from_arrays, stored)
    for ours, theirs in zip(from_file.parameters(), from_arrays.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert np.array_equal(from_file.bias.detach().numpy(), stored["bias_conv3d"])
    assert from_file.bias.any()


def test_tensors_are_arrays_too():
    kernel, bias = torch.randn(4, 3, 3, 1, 2), torch.randn(2)
    layer = KerasSoftAttention(4, 2)
    load_weights(
        layer, {"soft_attention/kernel_conv3d:0": kernel, "soft_attention/bias_conv3d:0": bias}
    )
    assert torch.equal(layer.bias, bias)
    assert torch.equal(layer.weight[1, 2, 3, 0], kernel[3, 0, 2, 0, 1])


def test_a_dtype_of_the_wrong_kind():
    with pytest.raises(
        ArgumentError, match="building KerasSoftAttention: dtype must be a floating"
    ):
        KerasSoftAttention(8, dtype=torch.int32)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ArgumentError, "in_channels must be a whole number of at least 1, found 0."),
        ((8, 0), ArgumentError, "num_maps must be a whole number of at least 1, found 0."),
        ((8, None), ArgumentTypeError, "num_maps must be a whole number of at least 1, found None"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=re.escape(f"building KerasSoftAttention: {message}")):
        KerasSoftAttention(*arguments)


def test_features_that_do_not_fit():
    with pytest.raises(ShapeError) as error:
        KerasSoftAttention(8)(torch.zeros(2, 7, 7, 8))
    assert str(error.value) == (
        "computing the authors' attention: expected x of shape (B, 8, H, W), found (2, 7, 7, 8). "
        "This looks like channels last: pass x.permute(0, 3, 1, 2)."
    )


def test_another_layer_is_refused():
    with pytest.raises(ArgumentTypeError, match="expected a KerasSoftAttention, found Conv2d"):
        load_weights(torch.nn.Conv2d(3, 3, 3), {})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (None, "x must be a tensor, found None"),
        (torch.zeros(1, 4, 3, 3, dtype=torch.int64), "x must hold floating-point numbers"),
        (torch.zeros(1, 4, 3, 3).to_sparse(), "x must be a dense tensor"),
        (torch.zeros(1, 4, 3, 3).double(), "x has dtype torch.float64 and weight torch.float32"),
    ],
)
def test_inputs_of_other_types_are_refused(x, message):
    with pytest.raises(ArgumentTypeError, match=f"computing the authors' attention: {message}"):
        KerasSoftAttention(4)(x)
