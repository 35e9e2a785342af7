"""Results on a CUDA GPU equal those on the CPU, also with compilation and mixed precision."""

import copy

import pytest
import torch
import torchvision

from softattn import SoftAttention, SoftAttentionBlock, capture_maps, wrap_backbone
from softattn.keras import KerasSoftAttention

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


def test_a_model_on_the_gpu_is_wrapped_there():
    wrapped = wrap_backbone(torchvision.models.resnet18().cuda(), 7, input_size=64)
    assert {parameter.device.type for parameter in wrapped.parameters()} == {"cuda"}
    assert wrapped(torch.randn(2, 3, 64, 64, device="cuda")).shape == (2, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(module, dtype):
    module, x = module.cuda(), torch.randn(3, 64, 9, 8, device="cuda")
    with torch.autocast("cuda", dtype):
        features, maps = module(x, return_maps=True)
    features.float().sum().backward()
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones_like(maps[:, :, 0, 0]))
    assert all(p.grad.isfinite().all() for p in module.parameters())


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
