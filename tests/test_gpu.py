"""On a CUDA GPU: the same numbers as on the CPU, in the ways that people run it there."""

import copy

import pytest
import torch

from softattn import SoftAttention, SoftAttentionBlock, capture_maps, wrap_backbone
from softattn.functional import use_triton
from softattn.keras import KerasSoftAttention
from softattn.one_pass import OnePass

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]

MODULES = {
    "attention": lambda: SoftAttention(64),
    "each map": lambda: SoftAttention(64, 4, aggregate=False, concat=True),
    "block": lambda: SoftAttentionBlock(64, drop_rate=0.0),
    "authors'": lambda: KerasSoftAttention(64, 4, concat=True),
}


@pytest.fixture(params=MODULES)
def module(request):
    return MODULES[request.param]()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_equals_the_cpu_in_float64(module, memory_format):
    module = module.double()
    ours = copy.deepcopy(module).cuda()
    x = torch.randn(3, 64, 9, 8, dtype=torch.float64, requires_grad=True)
    y = x.detach().cuda().to(memory_format=memory_format).requires_grad_()
    expected, features = module(x), ours(y)
    expected.square().sum().backward()
    features.square().sum().backward()
    torch.testing.assert_close(features.cpu(), expected)
    torch.testing.assert_close(y.grad.cpu(), x.grad)
    for (name, theirs), parameter in zip(module.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad.cpu(), theirs.grad, msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(module, dtype):
    module, x = module.cuda(), torch.randn(3, 64, 9, 8, device="cuda")
    with torch.autocast("cuda", dtype):
        features, maps = module(x, return_maps=True)
    features.float().sum().backward()
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones_like(maps[:, :, 0, 0]))
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.fixture
def one_pass():
    """Compute by the Triton kernels inside the test, and count how often."""
    pytest.importorskip("triton", reason="needs softattn[triton]")
    used, apply = [], OnePass.apply
    with pytest.MonkeyPatch.context() as patch, use_triton():
        patch.setattr(OnePass, "apply", lambda *a: used.append(a) or apply(*a))
        yield used


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("shape", [(3, 70, 9, 8), (1, 1, 1, 1), (2, 192, 8, 8), (2, 20, 65, 64)])
def test_one_pass_equals_plain_torch(one_pass, shape, pool, dtype, memory_format):
    block = SoftAttentionBlock(shape[1], gamma=-3.0, pool=pool, bias=False, drop_rate=0.0)
    block = block.to("cuda", dtype)
    x = torch.randn(shape, device="cuda").to(dtype).to(memory_format=memory_format)
    x.requires_grad_()

    def everything():
        features, maps = block(x, return_maps=True)
        loss = features.float().square().sum() + (maps * maps.detach()).sum()
        return features, maps, *torch.autograd.grad(loss, [x, *block.parameters()])

    ours = everything()
    assert len(one_pass) == 1
    assert ours[0].is_contiguous(memory_format=memory_format)
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    with use_triton(False):
        for found, plain in zip(ours, everything(), strict=True):
            assert (found.dtype, found.shape) == (plain.dtype, plain.shape)
            scale = plain.abs().max().clamp(min=1e-2)
            assert ((found - plain).abs().max() / scale) < tolerance


def test_one_pass_keeps_what_is_no_number(one_pass):
    block = SoftAttentionBlock(3, 2, kernel_size=1, drop_rate=0.0).cuda()
    x = torch.randn(1, 3, 6, 6, device="cuda")
    x[0, 0, 2, 3] = torch.nan
    ours = block(x)
    with use_triton(False):
        torch.testing.assert_close(ours, block(x), equal_nan=True)
    assert one_pass


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_one_pass_under_autocast(one_pass, dtype):
    block = SoftAttentionBlock(64, drop_rate=0.0).cuda()
    x = torch.randn(3, 64, 9, 8, device="cuda")
    with torch.autocast("cuda", dtype):
        ours = block(x)
        with use_triton(False):
            torch.testing.assert_close(ours, block(x), atol=1e-3, rtol=1e-3)
    assert len(one_pass) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_with_and_without_capture():
    model = wrap_backbone("torchvision:resnet18", num_classes=7).cuda().eval()
    x = torch.randn(2, 3, 96, 96, device="cuda")
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x), atol=1e-3, rtol=1e-3)
    with capture_maps(model) as maps:
        compiled(x)
    torch.testing.assert_close(maps["attention"].sum(dim=(2, 3)), torch.ones(2, 16, device="cuda"))
