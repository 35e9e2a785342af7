"""When the kernels are used, and their gradient: with plain torch in the place of the kernels,
which test_triton_kernels.py tests."""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import softattn
from softattn import MissingExtraError, SoftAttention, SoftAttentionBlock, capture_maps, one_pass
from softattn.functional import attend, soft_attention, spatial_softmax, use_triton


@pytest.fixture
def runs(monkeypatch):
    """Put plain torch in the place of the kernels, for CPUs and float64 too; count its runs."""
    counted = []

    def run(x, logits, gamma, *, concat, pool, relu):
        counted.append(x)
        assert not torch.is_grad_enabled()
        maps = spatial_softmax(logits)
        features = attend(x, maps, gamma, concat=concat)
        features = F.max_pool2d(features, pool, ceil_mode=True)
        return (F.relu(features) if relu else features), maps

    kernels = SimpleNamespace(run=run, INTERPRETED=True)
    monkeypatch.setattr(one_pass, "_load", lambda: kernels)
    monkeypatch.setattr(one_pass, "_DTYPES", (torch.float32, torch.float64))
    with use_triton():
        yield counted


def block_of(**options):
    return SoftAttentionBlock(4, 3, **{"drop_rate": 0.0, "dtype": torch.float64, **options})


def feature_map(**options):
    return torch.randn(2, 4, 5, 4, **{"dtype": torch.float64, **options})


def test_off_until_asked_for_and_restored(runs):
    block, x = block_of(), feature_map()
    with use_triton(False):
        block(x)
        assert not runs
        use_triton()
        block(x)
    assert len(runs) == 1
    block(x)
    assert len(runs) == 2
    use_triton(False)
    block(x)
    assert len(runs) == 2


def test_off_by_default():
    assert one_pass._kernels is None


def test_kernels_for_gpus_leave_tensors_on_a_cpu_alone():
    pytest.importorskip("triton", reason="needs softattn[triton]")
    block, x = block_of(dtype=torch.float32), feature_map(dtype=torch.float32)
    expected = block(x)
    with use_triton():
        if one_pass._kernels.INTERPRETED:
            pytest.skip("TRITON_INTERPRET=1 lets them run on a CPU")
        assert torch.equal(block(x), expected)


@pytest.mark.parametrize("name", ["triton", "softattn.triton_kernels"])
def test_without_triton(monkeypatch, name):
    monkeypatch.delitem(sys.modules, "softattn.triton_kernels", raising=False)
    monkeypatch.delattr(softattn, "triton_kernels", raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    text = (
        r"use_triton needs triton, which is not installed. "
        r"Install it with: pip install 'softattn\[triton\]'"
    )
    with pytest.raises(MissingExtraError, match=text):
        use_triton()
    assert one_pass._kernels is None
    use_triton(False)


@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("gamma", [None, -0.7])
def test_the_blocks_gradients(runs, pool, gamma):
    block, x = block_of(pool=pool, gamma=gamma), feature_map(requires_grad=True)
    inputs = [x, *block.parameters()]

    def gradients():
        features, maps = block(x, return_maps=True)
        loss = features.square().sum() + (maps * torch.arange(20.0).view(5, 4)).sum()
        return torch.autograd.grad(loss, inputs)

    ours = gradients()
    assert len(runs) == 1
    with use_triton(False):
        for found, expected in zip(ours, gradients(), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("frozen", [(), ("x",), ("weight",), ("gamma",), ("x", "weight")])
@pytest.mark.parametrize("concat", [True, False])
def test_first_and_second_derivatives(runs, concat, frozen):
    given = {
        "x": torch.randn(2, 2, 3, 2).double(),
        "weight": torch.randn(2, 2, 1, 3).double(),
        "gamma": torch.tensor(-0.7).double(),
    }
    inputs = [tensor.requires_grad_(name not in frozen) for name, tensor in given.items()]

    def function(x, weight, gamma):
        return soft_attention(x, weight, gamma=gamma, concat=concat, return_maps=True)

    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)
    assert runs


def test_only_the_maps_or_only_the_features_are_used(runs):
    block, x = block_of(), feature_map(requires_grad=True)
    for i in (0, 1):
        found = torch.autograd.grad(block(x, return_maps=True)[i].square().sum(), x)
        with use_triton(False):
            expected = torch.autograd.grad(block(x, return_maps=True)[i].square().sum(), x)
        torch.testing.assert_close(found, expected)
    features, maps = block(x, return_maps=True)
    (features.detach() + maps.detach().sum()).sum()
    assert len(runs) == 3


@pytest.mark.parametrize("output", [0, 1])
def test_only_gamma_is_learned(runs, output):
    block, x = block_of(), feature_map()
    block.attention.weight.requires_grad_(False)
    block.attention.bias.requires_grad_(False)
    gamma = block.attention.gamma
    out = block(x, return_maps=True)[output]
    (found,) = torch.autograd.grad(out.sum(), gamma, allow_unused=True)
    assert (found is None) == (output == 1)
    assert len(runs) == 1


def test_gradients_of_many_outputs_at_once(runs):
    block, x = block_of(), feature_map(requires_grad=True)
    features = block(x)
    many = torch.randn(3, *features.shape, dtype=features.dtype)
    (batched,) = torch.autograd.grad(features, x, many, is_grads_batched=True, retain_graph=True)
    for ours, grad in zip(batched, many, strict=True):
        torch.testing.assert_close(
            ours, torch.autograd.grad(features, x, grad, retain_graph=True)[0]
        )
    assert len(runs) == 1


def test_under_checkpointing(runs):
    block, x = block_of(), feature_map(requires_grad=True)
    checkpoint(block, x, use_reentrant=False).square().sum().backward()
    assert len(runs) == 2
    with use_triton(False):
        (expected,) = torch.autograd.grad(block(x).square().sum(), x)
    torch.testing.assert_close(x.grad, expected)


def test_kept_between_the_passes_are_x_and_the_logits(runs):
    block, x = block_of(), feature_map(requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        block(x)
    shapes = {tensor.shape for tensor in kept}
    assert shapes <= {x.shape, (2, 3, 5, 4), block.attention.weight.shape, ()}


def test_dropout_comes_after(runs):
    block, x = block_of(drop_rate=0.5), feature_map()
    torch.manual_seed(3)
    ours = block(x)
    with use_triton(False):
        torch.manual_seed(3)
        torch.testing.assert_close(ours, block(x))
    assert len(runs) == 1


def test_maps_are_captured(runs):
    block, x = block_of(), feature_map()
    with capture_maps(block) as maps:
        _, expected = block(x, return_maps=True)
    assert torch.equal(maps["attention"], expected)
    assert len(runs) == 1


def test_only_for_what_the_kernels_do(runs):
    x = feature_map()
    block_of(aggregate=False)(x)
    block_of()(x[:0])
    block_of(dtype=torch.bfloat16)(x.bfloat16())
    block_of(device="meta")(x.to("meta"))
    each = torch.ones(2, 1, 1, 1).double()  # a factor for each sample
    soft_attention(x, torch.randn(3, 4, 1, 1).double(), gamma=each)
    with FakeTensorMode():
        block_of()(feature_map())
    one_pass._kernels.INTERPRETED = False
    block_of()(x)
    assert not runs


def test_only_the_blocks_own_attention_without_hooks(runs):
    x = feature_map()

    class Doubled(SoftAttention):
        def forward(self, x, return_maps=False):
            features, maps = super().forward(x, return_maps=True)
            return self.emit(2 * features, maps, return_maps)

    block = block_of()
    block.attention = Doubled(4, 3, dtype=torch.float64)
    ours = block(x)  # the layer inside goes by the kernels, and the block around it doesn't
    with use_triton(False):
        torch.testing.assert_close(ours, block(x))

    seen = []
    hooked = block_of()
    hook = hooked.attention.register_forward_hook(lambda m, i, out: seen.append(out[0].shape))
    hooked(x)
    assert seen == [x.shape]
    hook.remove()
    hooked(x)
    assert len(seen) == 1


def test_transforms_and_forward_mode_see_plain_torch(runs):
    block, x = block_of(), feature_map()
    torch.func.grad(lambda x: block(x).sum())(x)
    torch.func.vmap(block)(x[None])
    with forward_ad.dual_level():
        features = block(forward_ad.make_dual(x, torch.ones_like(x)))
        assert forward_ad.unpack_dual(features).tangent is not None
    assert not runs


@pytest.mark.usefixtures("fresh_compiler")
def test_compilers_and_tracers_see_plain_torch(runs):
    def traced(module):
        return torch.fx.symbolic_trace(module, {"return_maps": False}).graph

    block, x = block_of(), feature_map()
    with use_triton(False):
        expected, traced_without = block(x), str(traced(block))
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(torch.export.export(block, (x,)).module()(x), expected)
    torch.testing.assert_close(torch.jit.trace(block, (x,), check_trace=False)(x), expected)
    assert str(traced(block)) == traced_without
    assert not runs


def test_errors_are_the_same(runs):
    for x in (feature_map()[:, :3], feature_map()[0]):
        with pytest.raises(ValueError, match="expected x of shape") as ours:
            block_of()(x)
        with use_triton(False), pytest.raises(ValueError, match="expected x of shape") as plain:
            block_of()(x)
        assert str(ours.value) == str(plain.value)


def test_a_module_is_what_it_was(runs):
    block = block_of()
    text, names = repr(block), list(block.state_dict())
    block(feature_map())
    assert repr(block) == text
    assert list(block.state_dict()) == names
    assert isinstance(copy.deepcopy(block), nn.Module)
