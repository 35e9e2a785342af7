"""The kernels on Triton's interpreter: the numbers of plain torch. Run by test_triton_kernels.py,
in a process of its own, since triton asks for its interpreter once, when it is imported.
"""

import pytest
import torch

from softattn import SoftAttention, SoftAttentionBlock, capture_maps, fused
from softattn.functional import soft_attention, use_triton
from softattn.one_pass import OnePass

NAMES = ("features", "maps", *(f"gradient of {name}" for name in ("x", "1st", "2nd", "3rd")))
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.002}


@pytest.fixture(autouse=True)
def on():
    """Use the kernels, and see that they are used."""
    used, apply = [], OnePass.apply
    with pytest.MonkeyPatch.context() as patch, use_triton():
        patch.setattr(OnePass, "apply", lambda *a: used.append(a) or apply(*a))
        yield
    assert used


def block_of(channels=20, maps=5, gamma=3.0, dtype=torch.float32, **options):
    # No bias, whose gradient would be zero but for rounding.
    options = {"gamma": gamma, "dtype": dtype, "bias": False, "drop_rate": 0.0, **options}
    block = SoftAttentionBlock(channels, maps, **options)
    torch.nn.init.normal_(block.attention.weight, std=0.1)
    return block


def plainly(module, x, dtype=torch.float64):
    """Give features, maps, and what a gradient of both gives, by plain torch."""
    with use_triton(False):
        return everything(module.to(dtype), x.detach().to(dtype))


def everything(module, x):
    """Give features, maps, and the gradients of x and of the parameters."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    features, maps = module(x, return_maps=True)
    torch.manual_seed(1)
    loss = sum(
        (out * torch.randn(out.shape, dtype=torch.float64)).double().sum()
        for out in (features, maps)
    )
    return features, maps, *torch.autograd.grad(loss, [x, *module.parameters()])


def assert_equal(module, x):
    dtype, tolerance = x.dtype, TOLERANCE[x.dtype]
    ours = everything(module, x)
    assert (ours[0].dtype, ours[1].dtype) == (dtype, torch.float32)
    for i, (found, exact) in enumerate(zip(ours, plainly(module, x), strict=True)):
        assert found.shape == exact.shape
        scale = exact.nan_to_num(0, 0, 0).abs().max().clamp(min=1e-2)
        torch.testing.assert_close(
            found.double() / scale,
            exact.double() / scale,
            atol=tolerance,
            rtol=tolerance,
            equal_nan=True,
            msg=lambda text, i=i: f"{NAMES[i]}: {text}",
        )
    module.to(dtype)


@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (4, 6), (9, 16)])
def test_sizes_and_pools(size, pool):
    assert_equal(block_of(pool=pool), torch.randn(2, 20, *size))


@pytest.mark.parametrize("gamma", [None, 0.0, 0.5, -2.0])
def test_gamma_of_any_sign(gamma):
    assert_equal(block_of(gamma=gamma), torch.randn(2, 20, 5, 6))


@pytest.mark.parametrize("maps", [1, 16, 17, 40])
def test_any_number_of_maps(maps):
    assert_equal(block_of(maps=maps), torch.randn(2, 20, 5, 6))


@pytest.mark.parametrize("channels", [1, 3, 70])
def test_channels_that_fill_no_block(channels):
    assert_equal(block_of(channels), torch.randn(2, channels, 17, 9))


def test_a_map_of_more_than_one_block():
    assert_equal(block_of(2, 2), torch.randn(1, 2, 65, 64))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_dtypes_and_memory_formats(dtype, memory_format):
    block = block_of(dtype=dtype, gamma=0.5)
    x = torch.randn(2, 20, 7, 6).to(dtype).to(memory_format=memory_format)
    assert_equal(block, x)
    features = block(x)
    with use_triton(False):
        assert features.stride() == block(x).stride()


def test_a_part_of_a_larger_tensor():
    x = torch.randn(2, 40, 9, 8)[:, ::2, 1:, :-1]
    block = block_of()
    ours = block(x)
    with use_triton(False):
        torch.testing.assert_close(ours, block(x))


def test_products_are_rounded_as_torch_rounds_them():
    # Not in bfloat16, to which the interpreter cuts numbers off. GPUs round them.
    block, x = block_of(dtype=torch.float16), torch.randn(2, 20, 7, 6).half()
    ours = block(x)
    with use_triton(False):
        same = ours == block(x)
    assert same.float().mean() > 0.99  # all, but where the sum of maps is at a tie


@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("fuse", [True, False])
def test_the_layer(concat, fuse, monkeypatch):
    monkeypatch.setattr(fused, "_LEAST_BYTES", 0 if fuse else 2**30)
    attention = SoftAttention(20, 5, concat=concat, gamma=-2.0, bias=False)
    assert_equal(attention, torch.randn(2, 20, 5, 6))


def test_the_function_with_a_number_as_factor():
    x, weight = torch.randn(2, 6, 5, 4), torch.randn(3, 6, 1, 1)
    ours = soft_attention(x, weight, gamma=-0.7)
    with use_triton(False):
        torch.testing.assert_close(ours, soft_attention(x, weight, gamma=-0.7))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_no_numbers_stay(value):
    # A filter of one position without this channel, so that maps stay finite.
    x, weight = torch.randn(1, 3, 6, 6), torch.randn(2, 3, 1, 1)
    block = block_of(3, 2, kernel_size=1)
    block.attention.weight.data.copy_(weight)
    x[0, 0, 2, 3] = value
    with torch.no_grad():
        ours = block(x, return_maps=True)
        with use_triton(False):
            plain = block(x, return_maps=True)
    for found, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(found, expected, equal_nan=True)


def test_a_map_that_may_not_look_everywhere():
    def left(logits):
        return logits.masked_fill(torch.arange(6) > 2, -torch.inf)

    x = torch.randn(2, 20, 5, 6)
    assert_equal(block_of(activation=left), x)
    nowhere = block_of(activation=lambda logits: torch.full_like(logits, -torch.inf))
    with torch.no_grad():
        ours = nowhere(x)
        with use_triton(False):
            torch.testing.assert_close(ours, nowhere(x), equal_nan=True)
    assert ours.isnan().any()


def test_an_activation_and_a_bias():
    block = block_of(activation="tanh", bias=True)
    torch.nn.init.normal_(block.attention.bias)
    assert_equal(block, torch.randn(2, 20, 5, 6))


def test_logits_beyond_what_an_exponential_holds():
    assert_equal(block_of(activation=lambda logits: 1000 * logits), torch.randn(1, 20, 3, 3))


def test_equal_values_in_a_window_share_no_gradient():
    block, x = block_of(), torch.randn(2, 20, 7, 5).round()
    ours, plain = everything(block, x), plainly(block, x, torch.float32)
    for found, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast(dtype):
    block, x = block_of(), torch.randn(2, 20, 7, 5).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        ours = everything(block, x)
        with use_triton(False):
            plain = everything(block, x)
    for found, expected in zip(ours, plain, strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, atol=1e-2, rtol=2e-2)


def test_maps_are_captured():
    block, x = block_of(), torch.randn(2, 20, 7, 5)
    with capture_maps(block) as maps:
        _, expected = block(x, return_maps=True)
    assert torch.equal(maps["attention"], expected)
