import itertools
import re
from fractions import Fraction

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from softattn import ArgumentError, ArgumentTypeError, ShapeError, SoftAttnError, functional
from softattn.functional import attend, attention_maps, soft_attention, spatial_softmax

KERNELS = [(1, 1), (3, 3), (5, 5), (1, 3)]
SIZES = [(1, 1), (4, 4), (5, 3), (7, 6)]


def tensors(size=(5, 4), kernel=(3, 3), channels=4, num_maps=3, batch=2, dtype=torch.float64):
    x = torch.randn(batch, channels, *size, dtype=dtype)
    weight = torch.randn(num_maps, channels, *kernel, dtype=dtype)
    return x, weight, torch.randn(num_maps, dtype=dtype)


@pytest.mark.parametrize(("kernel", "size"), list(itertools.product(KERNELS, SIZES)))
@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("gamma", [None, 0.01, -3.0])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_the_reference(kernel, size, aggregate, concat, gamma, activation, with_bias):
    x, weight, bias = tensors(size, kernel)
    bias = bias if with_bias else None
    features, maps = soft_attention(
        x,
        weight,
        bias,
        gamma,
        aggregate=aggregate,
        concat=concat,
        activation=activation,
        return_maps=True,
    )
    expected, expected_maps = reference.soft_attention(
        x.numpy(),
        weight.numpy(),
        None if bias is None else bias.numpy(),
        gamma,
        aggregate,
        concat,
        activation,
    )
    assert features.shape == expected.shape
    assert maps.shape == expected_maps.shape
    assert np.abs(features.numpy() - expected).max() <= 1e-12
    assert np.abs(maps.numpy() - expected_maps).max() <= 1e-12


# Spatial dimensions other than two: kernel and size.
OTHER_DIMS = [
    ((1,), (1,)),
    ((3,), (7,)),
    ((5,), (4,)),
    ((1, 1, 1), (1, 1, 1)),
    ((3, 3, 3), (3, 4, 2)),
    ((1, 3, 5), (2, 3, 4)),
]


@pytest.mark.parametrize(("kernel", "size"), OTHER_DIMS)
@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize(("gamma", "activation"), [(None, None), (-3.0, "relu")])
def test_signals_and_volumes_equal_the_reference(
    kernel, size, aggregate, concat, gamma, activation
):
    x, weight, bias = tensors(size, kernel)
    options = {"aggregate": aggregate, "concat": concat, "activation": activation}
    features, maps = soft_attention(x, weight, bias, gamma, **options, return_maps=True)
    expected, expected_maps = reference.soft_attention(
        x.numpy(), weight.numpy(), bias.numpy(), gamma, **options
    )
    assert features.shape == expected.shape
    assert maps.shape == expected_maps.shape == (2, 3, *size)
    assert np.abs(features.numpy() - expected).max() <= 1e-12
    assert np.abs(maps.numpy() - expected_maps).max() <= 1e-12


@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("concat", [True, False])
def test_volumes_of_one_slice_are_feature_maps(aggregate, concat):
    x, weight, bias = tensors((6, 5))
    options = {"aggregate": aggregate, "concat": concat, "return_maps": True}
    plain = soft_attention(x, weight, bias, 0.5, **options)
    for dim in (2, 3, 4):
        volume = soft_attention(x.unsqueeze(dim), weight.unsqueeze(dim), bias, 0.5, **options)
        for ours, expected in zip(volume, plain, strict=True):
            torch.testing.assert_close(ours.squeeze(dim), expected)


@pytest.mark.parametrize("activation", [name for name in reference.ACTIVATIONS if name])
def test_every_activation_equals_the_reference(activation):
    x, weight, bias = tensors()
    maps = attention_maps(x, weight, bias, activation=activation)
    arrays = (x.numpy(), weight.numpy(), bias.numpy())
    _, expected = reference.soft_attention(*arrays, None, True, False, activation)
    assert np.abs(maps.numpy() - expected).max() <= 1e-12


def test_the_reference_has_every_activation():
    assert set(functional._ACTIVATIONS) == {name for name in reference.ACTIVATIONS if name}


def test_an_activation_may_be_a_function():
    x, weight, bias = tensors()
    maps = attention_maps(x, weight, bias, activation=torch.nn.Softplus())
    assert torch.equal(maps, attention_maps(x, weight, bias, activation="softplus"))


@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("activation", [None, "tanh"])
@pytest.mark.parametrize("size", [(3, 4), (4,), (2, 2, 2)])
def test_gradients(aggregate, concat, activation, size):
    kernel = (3,) * len(size)
    x, weight, bias = (t.requires_grad_() for t in tensors(size, kernel, channels=2, num_maps=2))
    gamma = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def function(*inputs):
        options = {"aggregate": aggregate, "concat": concat, "activation": activation}
        return soft_attention(*inputs, **options, return_maps=True)

    assert gradcheck(function, (x, weight, bias, gamma))
    assert gradgradcheck(function, (x, weight, bias, gamma))


@pytest.mark.parametrize("channels", [1, 5, 300])
def test_conv3d_over_a_single_channel_is_the_same(channels):
    x, weight, bias = tensors((7, 6), channels=channels, num_maps=16, dtype=torch.float32)
    weight /= 3 * channels**0.5
    conv3d = torch.nn.Conv3d(1, 16, (channels, 3, 3), padding=(0, 1, 1))
    conv3d.load_state_dict({"weight": weight[:, None], "bias": bias})
    logits = conv3d(x[:, None])[:, :, 0]
    maps = logits.flatten(2).softmax(-1).view_as(logits)
    features = 0.01 * x * maps.sum(1, keepdim=True)
    assert (attention_maps(x, weight, bias) - maps).abs().max() <= 1e-6
    assert (soft_attention(x, weight, bias, 0.01) - features).abs().max() <= 1e-6


shapes = st.tuples(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5)
)


@given(shapes, st.sampled_from(KERNELS), st.floats(-30, 30), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_maps_are_distributions(shape, kernel, scale, seed):
    batch, channels, height, width, num_maps = shape
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64)
    weight = scale * torch.randn(
        num_maps, channels, *kernel, generator=generator, dtype=torch.float64
    )
    maps = attention_maps(x, weight)
    assert (maps >= 0).all()
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones_like(maps[:, :, 0, 0]))
    summed = maps.sum(dim=(1, 2, 3))
    torch.testing.assert_close(summed, torch.full_like(summed, num_maps))


@given(shapes, st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_maps_changes_nothing_with_aggregate(shape, seed):
    batch, channels, height, width, num_maps = shape
    torch.manual_seed(seed)
    x, weight, bias = tensors((height, width), (3, 3), channels, num_maps, batch)
    order = torch.randperm(num_maps)
    features = soft_attention(x, weight, bias, 0.5)
    torch.testing.assert_close(features, soft_attention(x, weight[order], bias[order], 0.5))


@given(st.integers(0, 2**31), st.floats(-5, 5))
@settings(max_examples=20, deadline=None)
def test_a_bias_has_no_effect_without_an_activation(seed, shift):
    torch.manual_seed(seed)
    x, weight, bias = tensors()
    torch.testing.assert_close(attention_maps(x, weight, bias + shift), attention_maps(x, weight))
    assert not torch.allclose(
        attention_maps(x, weight, bias - 2.0, activation="relu"),
        attention_maps(x, weight, bias + 2.0, activation="relu"),
    )


@given(st.floats(-100, 100), st.sampled_from(KERNELS), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_a_constant_input_gives_uniform_maps_away_from_the_border(value, kernel, seed):
    torch.manual_seed(seed)
    _, weight, bias = tensors(kernel=kernel)
    x = torch.full((1, 4, 9, 8), value, dtype=torch.float64)
    down, across = kernel[0] // 2, kernel[1] // 2
    inner = attention_maps(x, weight, bias)[:, :, down : 9 - down, across : 8 - across]
    expected = inner[:, :, :1, :1].expand_as(inner)
    torch.testing.assert_close(inner, expected, rtol=1e-9, atol=0)


def test_aggregate_is_the_sum_of_the_maps_copies():
    x, weight, bias = tensors()
    each = soft_attention(x, weight, bias, 2.0, aggregate=False).unflatten(1, (3, 4)).sum(1)
    torch.testing.assert_close(soft_attention(x, weight, bias, 2.0), each)


def test_maps_are_at_least_float32_and_features_keep_their_dtype():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x, weight, bias = tensors(dtype=dtype)
        features, maps = soft_attention(x, weight, bias, 0.01, return_maps=True)
        assert (features.dtype, maps.dtype) == (dtype, torch.float32)
        torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones(2, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_large_logits_stay_finite(dtype):
    logits = torch.tensor([1e4, -1e4, 0.0, 1e4], dtype=dtype).reshape(1, 1, 2, 2)
    assert spatial_softmax(logits).flatten().tolist() == [0.5, 0.0, 0.0, 0.5]
    x = torch.full((1, 1, 3, 3), 100.0, dtype=dtype)
    weight = torch.full((2, 1, 1, 1), 100.0, dtype=dtype)
    assert soft_attention(x, weight, gamma=0.01).isfinite().all()


def test_attend_with_maps_from_elsewhere():
    x, maps = torch.randn(2, 3, 4, 5), torch.rand(2, 2, 4, 5)
    features = attend(x, maps, 0.5, aggregate=False, concat=True)
    assert torch.equal(features[:, :3], x)
    torch.testing.assert_close(features[:, 3:6], 0.5 * x * maps[:, :1])
    torch.testing.assert_close(features[:, 6:], 0.5 * x * maps[:, 1:])


def test_defaults_are_the_equation_without_gamma():
    x, weight, bias = tensors()
    maps = attention_maps(x=x, weight=weight, bias=bias)
    expected = x * maps.sum(dim=1, keepdim=True)
    torch.testing.assert_close(attend(x=x, maps=maps), expected)
    torch.testing.assert_close(soft_attention(x=x, weight=weight, bias=bias), expected)
    torch.testing.assert_close(soft_attention(x, weight), expected)


def test_options_go_by_name():
    x, weight, bias = tensors()
    maps = attention_maps(x, weight)
    for function, arguments in (
        (soft_attention, (x, weight, bias, 1.0, False)),
        (attention_maps, (x, weight, bias, "relu")),
        (attend, (x, maps, 1.0, False)),
    ):
        with pytest.raises(TypeError, match="positional argument"):
            function(*arguments)


@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_keeps_the_memory_format(aggregate, concat, memory_format):
    x, weight, bias = tensors((6, 5))
    plain = soft_attention(x, weight, bias, 0.5, aggregate=aggregate, concat=concat)
    x = x.to(memory_format=memory_format)
    features = soft_attention(x, weight, bias, 0.5, aggregate=aggregate, concat=concat)
    assert features.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(features, plain)


@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_keeps_the_memory_format_of_volumes(aggregate, concat, memory_format):
    x, weight, bias = tensors((4, 3, 5), (3, 3, 3))
    plain = soft_attention(x, weight, bias, 0.5, aggregate=aggregate, concat=concat)
    x = x.to(memory_format=memory_format)
    features = soft_attention(x, weight, bias, 0.5, aggregate=aggregate, concat=concat)
    assert features.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(features, plain)


def test_a_single_channel_is_no_reason_for_channels_last():
    x, weight, _ = tensors((6, 5), channels=1)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert soft_attention(x, weight, aggregate=False).is_contiguous()


def test_a_batch_of_hundreds():
    x = torch.randn(300, 2, 2, 1)
    maps = torch.ones(300, 1, 2, 1)
    assert torch.equal(attend(x, maps), x)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 5, 7, 7), "expected x of shape (B, 4, H, W), found (2, 5, 7, 7). Build the attention "
         "with in_channels=5."),
        ((2, 5, 7, 3), "found (2, 5, 7, 3). Build the attention with in_channels=5."),
        ((2, 7, 7, 4), "found (2, 7, 7, 4). This looks like channels last: pass "
         "x.permute(0, 3, 1, 2)."),
        ((4, 7, 7), "found (4, 7, 7). For a single feature map pass x.unsqueeze(0)."),
        ((2, 4), "found (2, 4). It has 2 dimensions, not 4."),
        ((2, 4, 7, 7, 7), "found (2, 4, 7, 7, 7). It has 5 dimensions, not 4."),
        ((2, 4, 0, 7), "found (2, 4, 0, 7). It needs at least one channel and one position."),
        ((2, 4, 7, 0), "found (2, 4, 7, 0). It needs at least one channel and one position."),
    ],
)  # fmt: skip
def test_features_that_do_not_fit(shape, message):
    with pytest.raises(ShapeError) as error:
        soft_attention(torch.zeros(shape), torch.zeros(3, 4, 3, 3))
    assert str(error.value).startswith("computing attention maps: expected x of shape")
    assert message in str(error.value)
    assert isinstance(error.value, SoftAttnError)
    assert isinstance(error.value, ValueError)


def test_an_empty_batch():
    x, weight = torch.zeros(0, 4, 7, 5), torch.zeros(3, 4, 3, 3)
    features, maps = soft_attention(x, weight, return_maps=True)
    assert (features.shape, maps.shape) == ((0, 4, 7, 5), (0, 3, 7, 5))


def test_a_feature_map_without_channels():
    with pytest.raises(ShapeError, match=r"found \(2, 0, 7, 7\)\. It needs at least one channel"):
        soft_attention(torch.zeros(2, 0, 7, 7), torch.zeros(3, 0, 3, 3))


@pytest.mark.parametrize(
    ("shape", "weight", "message"),
    [
        ((2, 5, 9), (3, 4, 3), "x of shape (B, 4, L), found (2, 5, 9). Build the attention with "
         "in_channels=5."),
        ((2, 9, 4), (3, 4, 3), "(2, 9, 4). This looks like channels last: pass x.permute(0, 2, 1)."),
        ((4, 9), (3, 4, 3), "found (4, 9). For a single feature map pass x.unsqueeze(0)."),
        ((1, 4, 5, 5), (3, 4, 3), "found (1, 4, 5, 5). It has 4 dimensions, not 3."),
        ((2, 4, 0), (3, 4, 3), "found (2, 4, 0). It needs at least one channel and one position."),
        ((2, 5, 6, 7, 8), (3, 4, 3, 1, 3), "x of shape (B, 4, D, H, W), found (2, 5, 6, 7, 8). "),
        ((2, 6, 7, 8, 4), (3, 4, 3, 1, 3), "channels last: pass x.permute(0, 4, 1, 2, 3)."),
        ((4, 6, 7, 8), (3, 4, 3, 1, 3), "For a single feature map pass x.unsqueeze(0)."),
        ((2, 4, 3), (3, 4, 3, 1, 3), "It has 3 dimensions, not 5."),
        ((2, 4, 3, 0, 3), (3, 4, 3, 1, 3), "It needs at least one channel and one position."),
    ],
)  # fmt: skip
def test_signals_and_volumes_that_do_not_fit(shape, weight, message):
    with pytest.raises(ShapeError) as error:
        soft_attention(torch.zeros(shape), torch.zeros(weight))
    assert str(error.value).startswith("computing attention maps: expected x of shape (B, 4, ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 4, 2), "(K, C, k) with odd k, found (3, 4, 2)."),
        ((3, 4, 3, 3, 2), "(K, C, kd, kh, kw) with odd kd, kh and kw, found (3, 4, 3, 3, 2)."),
        ((3, 4, 4, 3, 3), "(K, C, kd, kh, kw) with odd kd, kh and kw, found (3, 4, 4, 3, 3)."),
    ],
)
def test_kernels_of_signals_and_volumes_must_be_odd(shape, expected):
    with pytest.raises(ShapeError) as error:
        attention_maps(torch.zeros(1, 4, *[5] * (len(shape) - 2)), torch.zeros(shape))
    assert str(error.value) == (
        f"computing attention maps: expected a weight of shape {expected} A kernel of even size "
        "has no centre."
    )


def test_many_channels_get_the_same_advice():
    with pytest.raises(ShapeError, match="This looks like channels last"):
        soft_attention(torch.zeros(1, 7, 7, 300), torch.zeros(2, 300, 3, 3))
    with pytest.raises(ShapeError, match="It needs at least one channel and one position"):
        soft_attention(torch.zeros(1, 300, 0, 7), torch.zeros(2, 300, 3, 3))


@pytest.mark.parametrize(
    "shape",
    [
        (3, 4, 2, 3),
        (3, 4, 3, 2),
        (3, 4, 4, 3),
        (3, 4, 3, 4),
        (3, 4, 3, 8),
        (3, 4),
        (4, 3, 3, 1, 3, 3),
    ],
)
def test_weights_that_do_not_fit(shape):
    with pytest.raises(ShapeError) as error:
        soft_attention(torch.zeros(1, 4, 5, 5), torch.zeros(shape))
    assert str(error.value) == (
        "computing attention maps: expected a weight of shape (K, C, kh, kw) with odd kh and kw, "
        f"found {shape}. A kernel of even size has no centre."
    )


@pytest.mark.parametrize("shape", [(4,), (2,), (3, 1)])
def test_a_bias_that_does_not_fit(shape):
    with pytest.raises(ShapeError) as error:
        soft_attention(torch.zeros(1, 4, 5, 5), torch.zeros(3, 4, 3, 3), torch.zeros(shape))
    assert str(error.value) == (
        "computing attention maps: expected a bias of shape (3,) for a weight with 3 maps, "
        f"found {shape}."
    )


@pytest.mark.parametrize(
    "maps",
    [
        (2, 3, 5, 4),
        (2, 3, 4, 4),
        (2, 3, 4, 6),
        (1, 3, 4, 5),
        (3, 3, 4, 5),
        (2, 4, 5),
        (2, 3, 4, 5, 1),
    ],
)
def test_maps_that_do_not_fit(maps):
    with pytest.raises(ShapeError) as error:
        attend(torch.zeros(2, 8, 4, 5), torch.zeros(maps))
    assert str(error.value) == (
        "scaling a feature map by attention maps: expected x (B, C, H, W) and maps (B, K, H, W) "
        f"of the same B, H and W, found x (2, 8, 4, 5) and maps {maps}."
    )


@pytest.mark.parametrize(
    ("x", "maps", "letters", "same"),
    [
        ((8, 4, 5), (2, 3, 4, 5), "L", "B and L"),
        ((2, 8, 4), (2, 3, 5), "L", "B and L"),
        ((2, 8, 4, 5, 1), (2, 3, 4, 5), "D, H, W", "B, D, H and W"),
        ((2, 8, 4, 5, 6), (2, 3, 4, 5, 7), "D, H, W", "B, D, H and W"),
        ((2, 8), (2, 3), "H, W", "B, H and W"),
        ((2, 8, 4, 5, 1, 1), (2, 3, 4, 5, 1, 1), "H, W", "B, H and W"),
    ],
)
def test_features_that_do_not_fit_their_maps(x, maps, letters, same):
    with pytest.raises(ShapeError) as error:
        attend(torch.zeros(x), torch.zeros(maps))
    assert str(error.value) == (
        f"scaling a feature map by attention maps: expected x (B, C, {letters}) and maps "
        f"(B, K, {letters}) of the same {same}, found x {x} and maps {maps}."
    )


@pytest.mark.parametrize("size", [(7,), (4, 5), (2, 3, 4)])
def test_attend_in_any_number_of_dimensions(size):
    x, maps = torch.randn(2, 3, *size), torch.rand(2, 2, *size)
    assert torch.equal(attend(x, maps, 0.5), x * (0.5 * maps.sum(1, keepdim=True)))
    softmax = spatial_softmax(maps)
    assert softmax.shape == maps.shape
    torch.testing.assert_close(softmax.flatten(2).sum(-1), torch.ones(2, 2))


def test_an_unknown_activation():
    with pytest.raises(ArgumentError) as error:
        functional.get_activation("rellu")
    assert str(error.value) == (
        "choosing the activation before the softmax: unknown name 'rellu'. "
        "Closest: relu, elu, gelu. Any function on tensors works too."
    )
    with pytest.raises(ArgumentTypeError) as error:
        functional.get_activation(3)
    assert str(error.value) == (
        "choosing the activation before the softmax: expected a function, its name, "
        "or None, found 3 (int)."
    )


X, WEIGHT = torch.zeros(1, 4, 5, 5), torch.zeros(3, 4, 3, 3)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (soft_attention, ([1], WEIGHT), r"x must be a tensor, found \[1\] \(list\)"),
        (soft_attention, (X, None), r"weight must be a tensor, found None \(NoneType\)"),
        (soft_attention, (X, WEIGHT, [1, 2, 3]), "bias must be a tensor"),
        (attention_maps, (None, WEIGHT), "x must be a tensor"),
        (attention_maps, (X, "w"), "weight must be a tensor"),
        (attend, (X, [1]), "maps must be a tensor"),
        (attend, (3, X), "x must be a tensor"),
        (spatial_softmax, ([1.0],), "logits must be a tensor"),
    ],
)
def test_arguments_that_are_no_tensors(function, arguments, message):
    with pytest.raises(ArgumentTypeError, match=message):
        function(*arguments)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (1, 1, 1, 1, 2, 2)])
def test_logits_of_another_shape(shape):
    with pytest.raises(ShapeError, match=r"expected logits of shape \(B, K, H, W\), .* found"):
        spatial_softmax(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3, 3), (3,), (1, 1)])
def test_gamma_of_several_elements(shape):
    message = re.escape(f"gamma a number or a tensor of shape (1,) or (), found {shape}.")
    with pytest.raises(ShapeError, match=message):
        soft_attention(X, WEIGHT, gamma=torch.ones(shape))
    with pytest.raises(ShapeError, match=message):
        attend(X, attention_maps(X, WEIGHT), torch.ones(shape))


def test_gamma_as_number_or_tensor_is_the_same():
    x, weight, bias = tensors()
    expected = soft_attention(x, weight, bias, 0.5)
    for gamma in (torch.tensor(0.5), torch.tensor([0.5])):
        assert torch.equal(soft_attention(x, weight, bias, gamma), expected)


def test_maps_of_a_convolution_that_overflows_are_nan():
    x = torch.full((1, 1, 3, 3), 1e30)
    assert attention_maps(x, torch.full((1, 1, 1, 1), 1e8)).isfinite().all()
    assert attention_maps(x, torch.full((1, 1, 1, 1), 1e10)).isnan().all()


def test_an_activation_that_returns_something_else():
    for activation in (lambda x: None, lambda x: x.sum()):
        with pytest.raises(SoftAttnError, match="logits"):
            soft_attention(X, WEIGHT, activation=activation)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize(("dtype", "call"), [(torch.uint8, "float"), (torch.quint8, "dequantize")])
def test_features_that_are_not_floating_point(dtype, call):
    x, weight = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    x = x.to(dtype) if call == "float" else torch.quantize_per_tensor(x, 1.0, 0, dtype)
    message = rf"must hold floating-point numbers, found {dtype}\. Call x\.{call}\(\)"
    with pytest.raises(ArgumentTypeError, match=message):
        attention_maps(x, weight)


ALL_DTYPES = [torch.float8_e4m3fn, torch.complex64, torch.int64, torch.bool]


@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_operands_of_other_dtypes_are_refused(name, dtype):
    given = {"x": X, "weight": WEIGHT, "bias": torch.zeros(len(WEIGHT))}
    given[name] = given[name].to(dtype)
    message = rf"{name} must hold floating-point numbers, found {dtype}\. Call {name}\."
    for function in (attention_maps, soft_attention):
        with pytest.raises(ArgumentTypeError, match=message):
            function(**given)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_operands_of_different_dtypes_are_refused_without_autocast(name):
    given = {"x": X.half(), "weight": WEIGHT.half(), "bias": torch.zeros(len(WEIGHT)).half()}
    given[name] = given[name].float()
    message = rf"x has dtype torch\.float16 and {name} torch\.float32\. Convert .* autocast"
    with pytest.raises(ArgumentTypeError, match=message):
        attention_maps(**given)
    with torch.autocast("cpu", torch.bfloat16):
        assert attention_maps(**given).isfinite().all()
        given[name] = given[name].double()
        with pytest.raises(ArgumentTypeError, match=rf"{name} torch\.float64"):
            attention_maps(**given)


@pytest.mark.slow
def test_autocast_compiles_with_operands_of_different_dtypes():
    compiled = torch.compile(attention_maps, backend="eager", fullgraph=True)
    x = torch.randn(1, 4, 5, 5, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(x, WEIGHT), attention_maps(x, WEIGHT))


def test_operands_of_different_dtypes_are_refused_on_the_meta_device():
    with pytest.raises(ArgumentTypeError, match="x has dtype"):
        attention_maps(X.to("meta"), WEIGHT.to("meta").double())


@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_sparse_operands_are_refused(name):
    given = {"x": X, "weight": WEIGHT, "bias": torch.zeros(len(WEIGHT))}
    given[name] = given[name].to_sparse()
    with pytest.raises(ArgumentTypeError, match=rf"{name} must be a dense tensor.*to_dense"):
        attention_maps(**given)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_operands_on_different_devices_are_refused(name):
    given = {"x": X, "weight": WEIGHT, "bias": torch.zeros(len(WEIGHT))}
    given[name] = given[name].to("meta")
    with pytest.raises(ArgumentError, match=rf"x is on cpu and {name} on meta\. Move both"):
        soft_attention(**given)


@pytest.mark.parametrize(
    ("gamma", "kind", "message"),
    [
        ({}, ArgumentTypeError, r"gamma must be a number, a tensor or None, found \{\} \(dict\)"),
        ("2", ArgumentTypeError, r"gamma must be a number, a tensor or None, found '2'"),
        (np.ones(1), ArgumentTypeError, r"found array\(\[1\.\]\) \(ndarray\)"),
        (10**30, ArgumentError, r"gamma must be below 2\*\*63, found 10"),
        (1j, ArgumentTypeError, r"found 1j \(complex\)"),
        (torch.ones(1, dtype=torch.complex64), ArgumentTypeError, "gamma must hold real numbers"),
        (Fraction(1, 2), ArgumentTypeError, r"found Fraction\(1, 2\) \(Fraction\)"),
        (torch.ones(1).to_sparse(), ArgumentTypeError, "gamma must be a dense tensor"),
        (torch.ones(1, device="meta"), ArgumentError, "x is on cpu and gamma on meta"),
    ],
)
def test_a_gamma_that_is_no_factor_is_refused(gamma, kind, message):
    with pytest.raises(kind, match=message):
        soft_attention(X, WEIGHT, gamma=gamma)


def test_maps_of_small_integers_do_not_overflow():
    maps = torch.full((1, 2, 3, 3), 200, dtype=torch.uint8)
    for gamma, aggregate in ((2, False), (2.0, False), (2, True)):
        scaled = attend(torch.ones(1, 1, 3, 3), maps, gamma, aggregate=aggregate)
        assert (scaled == (800 if aggregate else 400)).all()


def test_weights_without_a_map_are_refused():
    with pytest.raises(ShapeError, match="with at least one map, found none"):
        attention_maps(X, WEIGHT[:0])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused():
    nested = torch.nested.nested_tensor([torch.ones(2, 3, 3), torch.ones(2, 4, 3)])
    with pytest.raises(ArgumentTypeError, match=r"found a nested one\. Call x\.to_padded"):
        attention_maps(nested, WEIGHT)


def test_a_gamma_may_be_any_real_number():
    expected = soft_attention(X, WEIGHT, gamma=2.0)
    for gamma in (2, np.float32(2), np.int64(2), torch.tensor(2), torch.tensor([2.0])):
        assert torch.equal(soft_attention(X, WEIGHT, gamma=gamma), expected)


@pytest.mark.parametrize("dtype", ALL_DTYPES[:2])
def test_logits_and_maps_that_are_not_real_are_refused(dtype):
    values = torch.ones(1, 2, 3, 3).to(dtype)
    with pytest.raises(ArgumentTypeError, match=r"logits must hold real numbers"):
        spatial_softmax(values)
    with pytest.raises(ArgumentTypeError, match=r"maps must hold real numbers"):
        attend(torch.ones(1, 2, 3, 3), values)
    with pytest.raises(ArgumentTypeError, match=r"x must hold floating-point numbers"):
        attend(values, torch.ones(1, 2, 3, 3))


@pytest.mark.parametrize("shape", [(), (1,), (1, 2), (1, 2, 3)])
def test_maps_of_fewer_dimensions_are_refused(shape):
    with pytest.raises(ShapeError, match="scaling a feature map"):
        attend(torch.ones(1, 2, 3, 3), torch.ones(shape))
