import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from softattn import ArgumentError, ModelError, ShapeError
from softattn.features.layout import Layout, MapLayout, TokenGrid, from_nchw
from softattn.insertion.hooks import InputSize
from softattn.insertion.residual import GatedBlock, ResidualAttention, gate, residual_attention

DTYPES = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def same_bits(a: Tensor, b: Tensor) -> bool:
    # Bits, since zeros of two signs are equal. But any operation may set the quiet bit of a NaN.
    if a.dtype != b.dtype or not torch.equal(a.isnan(), b.isnan()):
        return False
    a, b = (value.masked_fill(value.isnan(), 0).view(DTYPES[a.dtype]) for value in (a, b))
    return torch.equal(a, b)


def lay(nchw: Tensor, layout: Layout, prefix: int) -> Tensor:
    in_front = torch.randn(nchw.shape[0], prefix, nchw.shape[1]).to(nchw)
    return behind(in_front, from_nchw(nchw, layout))


def behind(prefix: Tensor, x: Tensor) -> Tensor:
    """Return the feature map with tokens in front of it, if there are any."""
    return torch.cat([prefix, x], dim=1) if prefix.shape[1] else x


LAYOUTS = [(Layout.NCHW, 0), (Layout.NHWC, 0), (Layout.NLC, 0), (Layout.NLC, 3)]


@pytest.mark.parametrize(("layout", "prefix"), LAYOUTS)
def test_it_is_x_plus_gamma_a_x(layout: Layout, prefix: int) -> None:
    torch.manual_seed(0)
    nchw = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    weight, bias = torch.randn(3, 5, 3, 3).double(), torch.randn(3).double()
    x = lay(nchw, layout, prefix)

    y, maps = residual_attention(
        x, weight, bias, torch.tensor(0.7), "relu", MapLayout(layout, TokenGrid(4, 6), prefix)
    )

    logits = F.relu(F.conv2d(nchw, weight, bias, padding=1)).numpy()
    exponentials = np.exp(logits - logits.max(axis=(2, 3), keepdims=True))
    expected_maps = exponentials / exponentials.sum(axis=(2, 3), keepdims=True)
    a = torch.from_numpy(expected_maps.sum(axis=1, keepdims=True))
    expected = behind(x[:, :prefix], from_nchw(nchw + 0.7 * a * nchw, layout))
    np.testing.assert_allclose(maps, expected_maps, rtol=1e-10)
    torch.testing.assert_close(y, expected, rtol=1e-7, atol=0)
    if prefix:
        assert torch.equal(y[:, :prefix], x[:, :prefix])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=20, deadline=None)
@given(halves=st.lists(st.integers(-(2**15), 2**15 - 1), min_size=12, max_size=12))
def test_gamma_zero_leaves_every_bit(
    dtype: torch.dtype, layout: tuple[Layout, int], halves: list[int]
) -> None:
    torch.manual_seed(0)
    how, prefix = layout
    nchw = torch.randn(2, 3, 4, 2).to(dtype)
    nchw[1].view(-1)[:12] = torch.tensor(halves, dtype=torch.int16).view(torch.half).to(dtype)
    x = lay(nchw, how, prefix)
    attention = ResidualAttention(
        3, num_maps=2, map_layout=MapLayout(how, TokenGrid(4, 2), prefix), dtype=dtype
    )
    assert same_bits(attention(x), x)


@pytest.mark.parametrize("value", [-0.0, torch.inf, -torch.inf, torch.nan, 5e-45, 6.5e4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gamma_zero_leaves_special_values(value: float, dtype: torch.dtype) -> None:
    # The largest halves overflow in the convolution, and its maps are NaN.
    x = torch.full((1, 8, 3, 3), value).to(dtype)
    weight = torch.ones(4, 8, 3, 3, dtype=dtype)
    y, _ = residual_attention(x, weight, None, torch.tensor(0.0, dtype=dtype))
    assert same_bits(y, x)


def test_an_overflow_before_the_softmax_adds_nothing() -> None:
    x = torch.full((1, 8, 3, 3), 6e4, dtype=torch.half)
    weight = torch.ones(4, 8, 3, 3, dtype=torch.half)
    y, maps = residual_attention(x, weight, None, torch.tensor(1.0))
    assert maps.isnan().any()
    assert torch.equal(y, x)


def test_half_precision_rounds_once() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 4, 8, 8).bfloat16(), torch.zeros(1, 4, 1, 1)
    y, _ = residual_attention(x, weight, None, torch.tensor(0.2))
    exact = x.double() * (1 + 0.2 / 64)
    assert torch.equal(y, exact.to(torch.bfloat16))


def test_a_map_of_another_dtype_than_the_parameters() -> None:
    attention = ResidualAttention(4).half()
    assert attention(torch.randn(1, 4, 3, 3)).dtype == torch.float32


def test_gamma_learns_from_zero() -> None:
    torch.manual_seed(0)
    attention = ResidualAttention(4)
    attention(torch.randn(2, 4, 5, 5)).square().sum().backward()
    assert attention.gamma.grad is not None
    assert attention.gamma.grad.abs() > 0.01
    for parameter in attention.parameters():
        assert parameter.grad is not None


def test_gradients_are_right() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 3, 2), torch.randn(2, 3, 3, 3), torch.randn(2), torch.tensor(0.5)]
    leaves = tuple(value.double().requires_grad_() for value in inputs)
    assert torch.autograd.gradcheck(lambda *args: residual_attention(*args)[0], leaves)


def test_memory_format_is_kept() -> None:
    attention = ResidualAttention(4)
    x = torch.randn(2, 4, 5, 5)
    assert attention(x).is_contiguous()
    assert attention(x.to(memory_format=torch.channels_last)).is_contiguous(
        memory_format=torch.channels_last
    )


def test_the_grid_of_tokens_is_that_of_the_image() -> None:
    input_size = InputSize()
    layout = MapLayout(Layout.NLC, TokenGrid(4, 6, 16), 1)
    attention = ResidualAttention(4, map_layout=layout, input_size=input_size)
    assert attention(torch.randn(1, 25, 4), return_maps=True)[1].shape[2:] == (4, 6)
    with pytest.raises(ShapeError, match="found 144 tokens of an image of unknown size"):
        attention(torch.randn(1, 145, 4))
    input_size(nn.Identity(), (torch.zeros(1, 3, 144, 256),))
    assert attention(torch.randn(1, 145, 4), return_maps=True)[1].shape[2:] == (9, 16)


def test_a_tuple_is_refused() -> None:
    with pytest.raises(ModelError, match="the module returned a tuple in this pass"):
        ResidualAttention(4)((torch.randn(1, 4, 3, 3),))


def test_an_empty_batch() -> None:
    assert ResidualAttention(4)(torch.randn(0, 4, 3, 3)).shape == (0, 4, 3, 3)


class Explodes(nn.Module):
    """Block whose output is infinite or NaN in places."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x * torch.inf, -x)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=20, deadline=None)
@given(halves=st.lists(st.integers(-(2**15), 2**15 - 1), min_size=12, max_size=12))
def test_a_gated_block_leaves_every_bit(
    dtype: torch.dtype, layout: tuple[Layout, int], halves: list[int]
) -> None:
    torch.manual_seed(0)
    how, prefix = layout
    nchw = torch.randn(2, 3, 4, 2).to(dtype)
    nchw[1].view(-1)[:12] = torch.tensor(halves, dtype=torch.int16).view(torch.half).to(dtype)
    x = lay(nchw, how, prefix)
    map_layout = MapLayout(how, TokenGrid(4, 2), prefix)
    for block in (Explodes(), nn.Conv2d(3, 3, 1).to(dtype), nn.Identity()):
        assert same_bits(GatedBlock(block, map_layout=map_layout, dtype=dtype)(x), x)


@pytest.mark.parametrize("value", [-0.0, torch.inf, -torch.inf, torch.nan, 5e-45, 6.5e4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gated_block_leaves_special_values(value: float, dtype: torch.dtype) -> None:
    x = torch.full((1, 8, 3, 3), value).to(dtype)
    for block in (Explodes(), nn.Conv2d(8, 8, 1).to(dtype), nn.Tanh(), nn.ReLU()):
        assert same_bits(GatedBlock(block, dtype=dtype)(x), x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_gated_block_is_x_plus_gamma_times_the_difference(layout: tuple[Layout, int]) -> None:
    how, prefix = layout
    nchw = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    x = lay(nchw, how, prefix)
    block = nn.Conv2d(5, 5, 3, padding=1, dtype=torch.float64)
    map_layout = MapLayout(how, TokenGrid(4, 6), prefix)
    y = GatedBlock(block, gamma=0.7, map_layout=map_layout, dtype=torch.float64)(x)
    expected = behind(x[:, :prefix], from_nchw(nchw + 0.7 * (block(nchw) - nchw), how))
    torch.testing.assert_close(y, expected)
    assert torch.autograd.gradcheck(
        lambda x, gamma: gate(x, x, x.sin(), gamma), (nchw[:1].requires_grad_(), y.new_tensor(0.7).requires_grad_())
    )  # fmt: skip


def test_the_gradient_of_a_gated_block_at_zero_is_finite() -> None:
    x = torch.tensor([[[[1.0, -2.0, torch.inf, torch.nan]]]], requires_grad=True)
    attention = GatedBlock(nn.ReLU6())
    attention(x).sum().backward()
    assert attention.gamma.grad == 2.0  # of the second position, the difference of 0 and -2
    assert torch.equal(x.grad, torch.ones_like(x))
    overflows = GatedBlock(nn.Conv2d(1, 1, 1, dtype=torch.half), dtype=torch.half)
    nn.init.constant_(overflows.block.weight, 6e4)
    overflows(torch.full((1, 1, 2, 2), 6e4, dtype=torch.half)).sum().backward()
    assert overflows.gamma.grad == 0


def test_a_device_that_is_not_there():
    with pytest.raises(ArgumentError, match="building GatedBlock: device must be one that torch"):
        GatedBlock(nn.Identity(), device="nope")


def test_a_gated_block_must_keep_the_shape() -> None:
    with pytest.raises(ShapeError, match=r"the block returned \(1, 8, 3, 3\) for a map \(1, 4, 3"):
        GatedBlock(nn.Conv2d(4, 8, 1))(torch.randn(1, 4, 3, 3))
    with pytest.raises(ModelError, match="the module returned a tuple in this pass"):
        GatedBlock(nn.ReLU())((torch.randn(1, 4, 3, 3),))


def test_a_gated_block_in_another_dtype() -> None:
    x = torch.randn(1, 4, 3, 3)
    assert GatedBlock(nn.Conv2d(4, 4, 1)).half()(x).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert GatedBlock(nn.Conv2d(4, 4, 1))(x.bfloat16()).dtype == torch.bfloat16


def gated_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    block = nn.Sequential(nn.Conv2d(4, 4, 1, dtype=dtype), nn.BatchNorm2d(4, dtype=dtype))
    model = nn.Sequential(nn.Conv2d(3, 4, 3, dtype=dtype))
    model.add_module("attention", GatedBlock(block, gamma=0.5, dtype=dtype))
    return model.eval()


@pytest.mark.parametrize("assign", [False, True])
def test_a_checkpoint_from_before_keeps_the_block(assign: bool) -> None:
    model = gated_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    old = {k: torch.ones_like(v) for k, v in before.items() if "attention" not in k}
    keys = model.load_state_dict(old, strict=True, assign=assign)
    assert not keys.missing_keys
    state = model.state_dict()
    assert all(torch.equal(state[key], {**before, **old}[key]) for key in before)
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in model.parameters())
    assert set(old) == {"0.weight", "0.bias"}
    partly = {k: v for k, v in before.items() if not k.endswith("gamma")}
    with pytest.raises(RuntimeError, match=r"Missing key.*attention.gamma"):
        model.load_state_dict(partly)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_checkpoint_from_before_is_assigned_to_a_gated_block_on_meta(dtype: torch.dtype) -> None:
    old = {k: v for k, v in gated_model(dtype).state_dict().items() if "attention" not in k}
    with torch.device("meta"):
        model = gated_model(dtype)
    model.load_state_dict(old, strict=True, assign=True)
    for tensor in (*model.parameters(), *model.buffers()):
        assert tensor.device.type == "cpu"
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model.attention.gamma == 0.5
    assert torch.equal(model.attention.block[1].running_var, torch.ones(4, dtype=dtype))
    assert model(torch.randn(1, 3, 8, 8, dtype=dtype)).isfinite().all()
    with torch.device("meta"):
        model.attention.block.own = nn.Parameter(torch.zeros(3))
        model.attention.gamma = nn.Parameter(torch.zeros(1))
    with pytest.raises(
        ModelError, match=r"'block' of the inserted attention \(Sequential\) has no"
    ):
        model.load_state_dict(old, strict=True, assign=True)


def test_reset_parameters() -> None:
    attention = GatedBlock(nn.ReLU(), gamma=0.25, device="meta").to_empty(device="cpu")
    attention.reset_parameters()
    assert attention.gamma == 0.25


def test_volumes() -> None:
    for layout in (Layout.NCDHW, Layout.NDHWC):
        ncdhw = torch.randn(2, 3, 2, 4, 5)
        x = from_nchw(ncdhw, layout)
        attention = ResidualAttention(3, 2, map_layout=MapLayout(layout))
        assert attention.weight.shape == (2, 3, 3, 3, 3)
        assert same_bits(attention(x), x)
        nn.init.constant_(attention.gamma, 0.5)
        y, maps = attention(x, return_maps=True)
        expected = ncdhw * (1 + 0.5 * maps.sum(1, keepdim=True))
        torch.testing.assert_close(y, from_nchw(expected, layout))
        assert maps.shape == (2, 2, 2, 4, 5)
    with pytest.raises(ShapeError, match=r"as NDHWC: expected 5 dimensions, found \(2, 3, 4, 5\)"):
        attention(torch.zeros(2, 3, 4, 5))
