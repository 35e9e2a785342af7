import math
import re

import numpy as np
import pytest
import reference
import torch
from torch import nn

import softattn
from softattn import (
    ArgumentError,
    ArgumentTypeError,
    ShapeError,
    SoftAttention,
    SoftAttention1d,
    SoftAttention3d,
    SoftAttentionBlock,
    SoftAttnError,
)
from softattn.keras import KerasSoftAttention


def test_the_module_is_the_function_with_its_parameters():
    attention = SoftAttention(6, 4, (1, 3), aggregate=False, concat=True, activation="tanh")
    nn.init.normal_(attention.bias)
    x = torch.randn(2, 6, 5, 4)
    features, maps = attention(x, return_maps=True)
    expected, expected_maps = reference.soft_attention(
        x.numpy(),
        attention.weight.detach().numpy(),
        attention.bias.detach().numpy(),
        0.01,
        aggregate=False,
        concat=True,
        activation="tanh",
    )
    np.testing.assert_allclose(features.detach().numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(maps.detach().numpy(), expected_maps, atol=1e-6)
    assert torch.equal(attention(x), features)


OTHER_DIMS = [(SoftAttention1d, 3, (9,)), (SoftAttention3d, (1, 3, 5), (3, 4, 5))]


@pytest.mark.parametrize(("module", "kernel", "size"), OTHER_DIMS)
@pytest.mark.parametrize("aggregate", [True, False])
def test_signals_and_volumes(module, kernel, size, aggregate):
    attention = module(6, 4, kernel, aggregate=aggregate, concat=True, activation="tanh")
    nn.init.normal_(attention.bias)
    x = torch.randn(2, 6, *size)
    features, maps = attention(x, return_maps=True)
    weight, bias = (p.detach().numpy() for p in (attention.weight, attention.bias))
    expected, expected_maps = reference.soft_attention(
        x.numpy(), weight, bias, 0.01, aggregate=aggregate, concat=True, activation="tanh"
    )
    np.testing.assert_allclose(features.detach().numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(maps.detach().numpy(), expected_maps, atol=1e-6)
    assert features.shape == (2, attention.out_channels, *size)


@pytest.mark.parametrize(
    ("module", "kernel", "letters"),
    [(SoftAttention1d, (3,), "L"), (SoftAttention3d, (3,) * 3, "D, H, W")],
)
def test_signals_and_volumes_start_and_print_like_images(module, kernel, letters):
    attention = module(64)
    bound = math.sqrt(6 / attention.weight[0].numel())
    assert attention.weight.shape == (16, 64, *kernel)
    assert 0.95 * bound < attention.weight.abs().max() <= bound
    assert repr(attention) == f"{module.__name__}(64, num_maps=16, kernel_size={kernel})"
    assert not isinstance(attention, SoftAttention)
    with pytest.raises(ShapeError, match=rf"expected x of shape \(B, 64, {letters}\)"):
        attention(torch.zeros(2, 64, 7, 7))
    with pytest.raises(ArgumentError, match=f"building {module.__name__}: kernel_size must be one"):
        module(64, kernel_size=(3, 3))


@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("concat", [True, False])
def test_out_channels_are_those_that_come_out(aggregate, concat):
    attention = SoftAttention(6, 4, aggregate=aggregate, concat=concat)
    assert attention(torch.randn(1, 6, 3, 3)).shape[1] == attention.out_channels
    block = SoftAttentionBlock(6, 4, aggregate=aggregate)
    assert block(torch.randn(1, 6, 3, 3)).shape[1] == block.out_channels
    assert block.in_channels == 6


def test_parameters_start_as_the_authors_do():
    attention = SoftAttention(512, 16)
    bound = math.sqrt(6 / (512 * 9))  # he_uniform
    assert attention.weight.abs().max() <= bound
    assert attention.weight.abs().max() > 0.99 * bound
    assert attention.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert not attention.bias.any()
    assert attention.gamma.shape == (1,)
    assert attention.gamma.item() == pytest.approx(0.01)
    nn.init.ones_(attention.bias)
    nn.init.ones_(attention.gamma)
    attention.reset_parameters()
    assert not attention.bias.any()
    assert attention.gamma.item() == pytest.approx(0.01)


def test_disabled_parameters_do_not_exist():
    assert set(SoftAttention(4).state_dict()) == {"weight", "bias", "gamma"}
    assert set(SoftAttention(4, bias=False, gamma=None).state_dict()) == {"weight"}
    x = torch.randn(1, 4, 3, 3)
    plain, scaled = SoftAttention(4, gamma=None), SoftAttention(4, gamma=-2)
    scaled.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(scaled(x), -2 * plain(x))


def test_gamma_learns():
    attention = SoftAttention(4)
    attention(torch.rand(1, 4, 3, 3)).sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None, name
    assert attention.gamma.grad > 0


def test_device_and_dtype():
    for module in (SoftAttention, SoftAttentionBlock):
        built = module(4, device="meta", dtype=torch.bfloat16)
        assert {(p.device.type, p.dtype) for p in built.parameters()} == {("meta", torch.bfloat16)}


def pooled(x, size):
    """Max-pooling whose last window may be narrower, by loops."""
    batch, channels, height, width = x.shape
    rows, columns = math.ceil(height / size), math.ceil(width / size)
    out = np.empty((batch, channels, rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = x[:, :, i * size : (i + 1) * size, j * size : (j + 1) * size]
            out[:, :, i, j] = window.max(axis=(2, 3))
    return out


@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (4, 5), (7, 6)])
@pytest.mark.parametrize("gamma", [0.5, -0.5, None])
def test_the_block_equals_its_parts(aggregate, pool, size, gamma):
    block = SoftAttentionBlock(
        3, 2, 1, aggregate=aggregate, gamma=gamma, activation="relu", pool=pool, dtype=torch.float64
    ).eval()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    features, maps = block(x, return_maps=True)
    weight, bias = block.attention.weight, block.attention.bias
    attended, expected_maps = reference.soft_attention(
        x.numpy(), weight.detach().numpy(), bias.detach().numpy(), gamma, aggregate, False, "relu"
    )
    expected = np.concatenate([pooled(x.numpy(), pool), pooled(attended, pool)], axis=1)
    np.testing.assert_allclose(features.detach().numpy(), np.maximum(expected, 0), atol=1e-12)
    np.testing.assert_allclose(maps.detach().numpy(), expected_maps, atol=1e-12)


def test_the_block_drops_in_training_only():
    block = SoftAttentionBlock(8, drop_rate=0.25)
    x = torch.rand(4, 8, 20, 20) + 0.1
    kept = block(x)[:, :8]
    dropped = (kept == 0).float().mean().item()
    assert dropped == pytest.approx(0.25, abs=0.03)
    expected = block.eval()(x)[:, :8]
    torch.testing.assert_close(kept[kept > 0], (expected / 0.75)[kept > 0])
    assert (expected > 0).all()


def test_print_shows_what_was_asked_for():
    assert repr(SoftAttention(8)) == "SoftAttention(8, num_maps=16, kernel_size=(3, 3))"
    attention = SoftAttention(
        8, 2, 1, aggregate=False, concat=True, gamma=None, activation=torch.tanh, bias=False
    )
    assert repr(attention) == (
        "SoftAttention(8, num_maps=2, kernel_size=(1, 1), aggregate=False, concat=True, "
        "gamma=None, activation='tanh', bias=False)"
    )
    assert "pool=3, drop_rate=0.1" in repr(SoftAttentionBlock(8, pool=3, drop_rate=0.1))
    assert "(activation): Softplus" in repr(SoftAttention(8, activation=nn.Softplus()))


BAD_ARGUMENTS = [
    ({"in_channels": 0}, ArgumentError, "in_channels must be a whole number of at least 1, found 0."),
    ({"in_channels": 2**31}, ArgumentError, "in_channels must be at most 2147483647, found 2147483648."),
    ({"in_channels": 2.5}, ArgumentTypeError, "in_channels must be a whole number of at least 1, found 2.5 (float)."),
    ({"in_channels": True}, ArgumentTypeError, "found True (bool)."),
    ({"num_maps": 0}, ArgumentError, "num_maps must be a whole number of at least 1, found 0."),
    ({"num_maps": "16"}, ArgumentTypeError, "num_maps must be a whole number of at least 1, found '16' (str)."),
    ({"kernel_size": 0}, ArgumentError, "kernel_size must be a whole number of at least 1, found 0."),
    ({"kernel_size": -3}, ArgumentError, "kernel_size must be a whole number of at least 1, found -3."),
    ({"kernel_size": 4}, ArgumentError, "kernel_size must be odd, since an even kernel has no centre, found 4. Nearest: 3 or 5."),
    ({"kernel_size": (3, 2)}, ArgumentError, "kernel_size must be odd, since an even kernel has no centre, found (3, 2). Nearest: (3, 1) or (3, 3)."),
    ({"kernel_size": (2, 3)}, ArgumentError, "Nearest: (1, 3) or (3, 3)."),
    ({"kernel_size": (3, 3, 3)}, ArgumentError, "kernel_size must be one number or (height, width), found (3, 3, 3)."),
    ({"gamma": "0.01"}, ArgumentTypeError, "gamma must be a finite number, found '0.01' (str)."),
    ({"gamma": math.nan}, ArgumentError, "gamma must be a finite number, found nan."),
    ({"gamma": math.inf}, ArgumentError, "gamma must be a finite number, found inf."),
    ({"gamma": False}, ArgumentTypeError, "gamma must be a finite number, found False (bool)."),
    ({"gamma": 10**400}, ArgumentError, "gamma must be a finite number, found 1000"),
    ({"aggregate": "no"}, ArgumentTypeError, "aggregate must be True or False, found 'no' (str)."),
    ({"bias": torch.zeros(3)}, ArgumentTypeError, "bias must be True or False, found tensor"),
    ({"bias": None}, ArgumentTypeError, "bias must be True or False, found None (NoneType)."),
    ({"dtype": "float32"}, ArgumentTypeError, "dtype must be a torch.dtype, such as torch.float32, found 'float32' (str)."),
    ({"dtype": torch.int32}, ArgumentError, "dtype must be a floating-point dtype, such as torch.float32, found torch.int32."),
    ({"device": "nope"}, ArgumentError, "device must be one that torch can use here, such as 'cpu' or 'meta', found 'nope'. torch says: "),
    ({"device": 0.5}, ArgumentTypeError, "device must be one that torch can use here, such as 'cpu' or 'meta', found 0.5. torch says: "),
    ({"activation": "rleu"}, ArgumentError, "unknown name 'rleu'. Closest: relu"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ARGUMENTS)
@pytest.mark.parametrize("module", [SoftAttention, SoftAttentionBlock])
def test_bad_arguments(module, arguments, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        module(**{"in_channels": 8, **arguments})
    assert isinstance(caught.value, SoftAttnError)
    if "activation" not in arguments:
        assert str(caught.value).startswith("building SoftAttention: ")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"pool": 0}, ArgumentError, "pool must be a whole number of at least 1, found 0."),
        ({"drop_rate": 1.5}, ArgumentError, "drop_rate must be between 0 and 1, found 1.5."),
        ({"drop_rate": -0.1}, ArgumentError, "drop_rate must be between 0 and 1, found -0.1."),
        ({"drop_rate": None}, ArgumentTypeError, "drop_rate must be a finite number, found None"),
    ],
)
def test_bad_arguments_of_the_block(arguments, error, message):
    with pytest.raises(error) as caught:
        SoftAttentionBlock(8, **arguments)
    assert str(caught.value).startswith(f"building SoftAttentionBlock: {message}")


@pytest.mark.parametrize("module", [SoftAttention, KerasSoftAttention])
@pytest.mark.parametrize("concat", ["no", 3, None])
def test_concat_must_be_a_bool(module, concat):
    with pytest.raises(
        ArgumentTypeError, match=r"building \w+: concat must be True or False, found"
    ):
        module(8, concat=concat)


def test_numpy_integers_are_whole_numbers():
    attention = SoftAttention(np.int64(4), np.int32(2), np.int64(3))
    assert (attention.in_channels, attention.num_maps, attention.kernel_size) == (4, 2, (3, 3))


@pytest.mark.parametrize("module", [SoftAttention, SoftAttentionBlock])
def test_features_that_do_not_fit(module):
    with pytest.raises(ShapeError, match=r"expected x of shape \(B, 8, H, W\), found \(2, 4, 7, 7"):
        module(8)(torch.zeros(2, 4, 7, 7))
    with pytest.raises(ShapeError, match=r"pass x.unsqueeze\(0\)"):
        module(8)(torch.zeros(8, 7, 7))
    with pytest.raises(ShapeError, match="It has 2 dimensions, not 4"):
        module(8)(torch.zeros(2, 8))


def test_public_names_are_sorted_and_there():
    assert softattn.__all__ == sorted(softattn.__all__)
    for name in softattn.__all__:
        assert hasattr(softattn, name)
