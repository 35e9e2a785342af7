"""Operations that users apply to modules, such as copying and export, on every module."""

import copy
import io
import pickle
import shutil

import pytest
import torch
from torch import nn
from torch.export import Dim
from torchvision.models.feature_extraction import create_feature_extractor

from softattn import SoftAttention, SoftAttention1d, SoftAttention3d, SoftAttentionBlock
from softattn.keras import KerasSoftAttention

CHANNELS = 6
BUILDERS = {
    "attention": lambda **k: SoftAttention(CHANNELS, 4, **k),
    "each map, with x": lambda **k: SoftAttention(CHANNELS, 4, aggregate=False, concat=True, **k),
    "no gamma, 1 x 3, relu": lambda **k: SoftAttention(
        CHANNELS, 4, (1, 3), gamma=None, activation="relu", bias=False, **k
    ),
    "signal": lambda **k: SoftAttention1d(CHANNELS, 4, **k),
    "volume": lambda **k: SoftAttention3d(CHANNELS, 4, **k),
    "volume, each map, with x": lambda **k: SoftAttention3d(
        CHANNELS, 4, (1, 3, 5), aggregate=False, concat=True, activation="relu", **k
    ),
    "block": lambda **k: SoftAttentionBlock(CHANNELS, 4, **k),
    "block, each map": lambda **k: SoftAttentionBlock(CHANNELS, 4, aggregate=False, pool=3, **k),
    "authors'": lambda **k: KerasSoftAttention(CHANNELS, 4, **k),
    "authors', aggregated, with x": lambda **k: KerasSoftAttention(
        CHANNELS, 4, aggregate=True, concat=True, **k
    ),
}


@pytest.fixture(params=BUILDERS)
def build(request):
    return BUILDERS[request.param]


@pytest.fixture
def module(build):
    return build().eval()


@pytest.fixture
def num_dims(build):
    return getattr(build(device="meta"), "num_dims", 2)


@pytest.fixture
def x(num_dims):
    return torch.randn(2, CHANNELS, *(9, 8, 3)[:num_dims])


def assert_same(module, other, x):
    for ours, theirs in zip(module(x, return_maps=True), other(x, return_maps=True), strict=True):
        assert torch.equal(ours, theirs)


def test_deepcopy(module, x):
    twin = copy.deepcopy(module)
    assert_same(module, twin, x)
    with torch.no_grad():
        next(twin.parameters()).add_(torch.randn_like(next(twin.parameters())))
    assert not torch.equal(module(x), twin(x))


def test_pickle(module, x):
    assert_same(module, pickle.loads(pickle.dumps(module)), x)


def test_state_dict(build, module, x):
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = build().eval()
    assert not torch.equal(module(x), other(x))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same(module, other, x)


def as_before(state):
    """A state dict from before, when gamma was a scalar."""
    return {n: t.reshape(()) if n.endswith("gamma") else t for n, t in state.items()}


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_a_state_dict_with_a_scalar_gamma(build, module, x, nested, meta, assign):
    old = as_before(module.state_dict())
    shapes = {name: tensor.shape for name, tensor in old.items()}
    other = build(device="meta" if meta and assign else None).eval()
    target, prefix = (nn.Sequential(other), "0.") if nested else (other, "")
    keys = target.load_state_dict({prefix + n: t for n, t in old.items()}, assign=assign)
    assert not keys.missing_keys
    assert not keys.unexpected_keys
    assert_same(module, other, x)
    assert all(p.is_leaf and p.requires_grad for p in other.parameters())
    assert {n: p.shape for n, p in other.named_parameters()} == {
        n: p.shape for n, p in module.named_parameters()
    }
    assert {name: tensor.shape for name, tensor in old.items()} == shapes


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("dynamic", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compile_fullgraph(module, x, dynamic):
    compiled = torch.compile(module, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in ((9, 8), (6, 7)):
        some = x[:, :, : size[0], : size[1]] if x.ndim > 3 else x[:, :, : size[0]]
        features, maps = compiled(some, return_maps=True)
        expected, expected_maps = module(some, return_maps=True)
        torch.testing.assert_close(features, expected)
        torch.testing.assert_close(maps, expected_maps)
        torch.testing.assert_close(compiled(some), expected)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile on a CPU needs a compiler")
def test_compile_to_machine_code():
    block, x = SoftAttentionBlock(CHANNELS, 4).eval(), torch.randn(2, CHANNELS, 9, 8)
    compiled = torch.compile(block, fullgraph=True)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    compiled(ours).square().sum().backward()
    block(theirs).square().sum().backward()
    torch.testing.assert_close(compiled(x), block(x))
    torch.testing.assert_close(ours.grad, theirs.grad)


# Batch and positions, of which a module takes the first ones.
SHAPES = ((2, 9, 8, 3), (5, 4, 13, 2), (1, 30, 5, 4))


def dynamic_shapes(module, num_dims):
    # torch specializes on a pooled map of a single position, and before 2.8 it can't slice a
    # dimension without an upper bound.
    least = getattr(module, "pool", 1) + 1
    size = {"min": least, "max": 4096}
    names = ("height", "width", "depth")[:num_dims]
    return (
        {0: Dim("batch", max=4096), **{2 + i: Dim(n, **size) for i, n in enumerate(names)}},
        None,
    )


def test_export_with_dynamic_batch_and_size(module, x, num_dims):
    shapes = dynamic_shapes(module, num_dims)
    program = torch.export.export(module, (x, True), dynamic_shapes=shapes).module()
    for batch, *size in SHAPES:
        some = torch.randn(batch, CHANNELS, *size[:num_dims])
        for ours, theirs in zip(program(some, True), module(some, True), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_onnx_with_dynamic_batch_and_size(module, x, num_dims):
    pytest.importorskip("onnxscript", reason="needs softattn[onnx]")
    runtime = pytest.importorskip("onnxruntime", reason="needs softattn[onnx]")
    program = torch.onnx.export(
        module,
        (x, True),
        dynamic_shapes=dynamic_shapes(module, num_dims),
        dynamo=True,
        verbose=False,
    )
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    (name,) = (given.name for given in session.get_inputs())
    for batch, *size in SHAPES:
        some = torch.randn(batch, CHANNELS, *size[:num_dims])
        expected = module(some, return_maps=True)
        for ours, theirs in zip(session.run(None, {name: some.numpy()}), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(build, x, dtype):
    module = build().train()
    with torch.autocast("cpu", dtype):
        features, maps = module(x, return_maps=True)
    assert (features.dtype, maps.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(maps.flatten(2).sum(-1), torch.ones(2, 4))
    torch.testing.assert_close(maps, module(x, return_maps=True)[1], atol=0.02, rtol=0.1)
    features.sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(module, x, dtype):
    expected = module(x)
    module = module.to(dtype)
    features, maps = module(x.to(dtype), return_maps=True)
    assert features.dtype == dtype
    torch.testing.assert_close(maps.flatten(2).sum(-1), torch.ones(2, 4))
    torch.testing.assert_close(features.float(), expected, atol=0.05, rtol=0.1)


def test_channels_last(module, x, num_dims):
    if num_dims == 1:
        features = module(x.transpose(1, 2).contiguous().transpose(1, 2))
        assert features.transpose(1, 2).is_contiguous()
    else:
        order = torch.channels_last if num_dims == 2 else torch.channels_last_3d
        features = module.to(memory_format=order)(x.to(memory_format=order))
        assert features.is_contiguous(memory_format=order)
    torch.testing.assert_close(features, module(x))


def test_meta_device(build, x):
    module = build(device="meta").eval()
    features, maps = module(x.to("meta"), return_maps=True)
    assert (features.device.type, maps.shape) == ("meta", (2, 4, *x.shape[2:]))
    module = module.to_empty(device="cpu")
    for child in module.modules():
        if hasattr(child, "reset_parameters"):
            child.reset_parameters()
    assert module(x).isfinite().all()


def test_functional_call_and_vmap_over_an_ensemble(build, x):
    modules = [build().eval() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(modules)

    def run(parameters, buffers, x):
        return torch.func.functional_call(modules[0], (parameters, buffers), (x,))

    features = torch.func.vmap(run, in_dims=(0, 0, None))(parameters, buffers, x)
    for module, ours in zip(modules, features, strict=True):
        torch.testing.assert_close(ours, module(x))


def test_gradients_of_each_sample(module, x):
    parameters = dict(module.named_parameters())

    def loss(parameters, sample):
        return torch.func.functional_call(module, parameters, (sample[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    module(x).square().sum().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(each[name].sum(0), parameter.grad, atol=1e-4, rtol=1e-4)


def test_a_batch_of_none_and_of_one(module, x):
    features, maps = module(x[:0], return_maps=True)
    assert (features.shape[0], maps.shape) == (0, (0, 4, *x.shape[2:]))
    torch.testing.assert_close(module(x[:1]), module(x)[:1])


def test_a_single_position(module, num_dims):
    features, maps = module(torch.randn(2, CHANNELS, *[1] * num_dims), return_maps=True)
    assert torch.equal(maps, torch.ones(2, 4, *[1] * num_dims))
    assert features.shape[2:] == (1,) * num_dims
    assert features.isfinite().all()


def test_symbolic_trace(module, num_dims):
    stem = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[num_dims - 1]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = stem(3, CHANNELS, 3)
            self.attention = module

        def forward(self, images):
            return self.attention(self.stem(images))

    model = Model().eval()
    traced = torch.fx.symbolic_trace(model)
    extractor = create_feature_extractor(model, ["attention"])
    for size in (9, 12):
        images = torch.randn(2, 3, *[size] * num_dims)
        torch.testing.assert_close(traced(images), model(images))
        torch.testing.assert_close(extractor(images)["attention"], model(images))


def test_train_and_eval_agree_but_for_dropout(module, x):
    for part in module.modules():
        if hasattr(part, "drop_rate"):
            part.drop_rate = 0.0
    assert torch.equal(module.train()(x), module.eval()(x))
