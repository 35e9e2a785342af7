import copy
import io
import pickle
import re
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.ao import quantization
from torch.ao.quantization import quantize_fx
from torch.ao.quantization.fx.custom_config import PrepareCustomConfig
from torchvision.models.feature_extraction import create_feature_extractor

from softattn import (
    ArgumentError,
    ArgumentTypeError,
    ModelError,
    ShapeError,
    SoftAttention,
    SoftAttnError,
    capture_maps,
    insert_attention,
    remove_attention,
)
from softattn.features import Layout, TokenGrid
from softattn.insertion.residual import ResidualAttention

timm = pytest.importorskip("timm", reason="needs softattn[timm]")


def dense_net() -> nn.Module:
    return timm.models.densenet.DenseNet(growth_rate=8, block_config=(2, 2), num_classes=5)


def small(name: str, **kwargs: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=5, **kwargs)


# One network for each way of storing, running and laying out stages.
FAMILIES: dict[str, tuple[Callable[[], nn.Module], list[str], tuple[int, ...]]] = {
    "a plain sequence": (small("test_resnet"), ["layer3", "layer4"], (3, 64, 64)),
    "sequences in a sequence": (small("test_efficientnet"), ["blocks.3", "blocks"], (3, 64, 64)),
    "a module": (small("test_convnext"), ["stages.2", "stages.3"], (3, 64, 64)),
    "runs its children": (small("regnetx_002"), ["s3", "s4"], (3, 64, 64)),
    "a dictionary": (dense_net, ["features.denseblock1", "features.norm5"], (3, 64, 64)),
    "NHWC": (small("mambaout_femto"), ["stages.2", "stages.3"], (3, 64, 64)),
    "NHWC of one size": (
        small("swin_tiny_patch4_window7_224", img_size=56, depths=(1, 1), num_heads=(1, 2)),
        ["layers.0", "layers.1"],
        (3, 56, 56),
    ),
    "tokens": (small("test_vit", img_size=32), ["blocks.2", "blocks.4"], (3, 32, 32)),
    "tokens without prefix": (small("levit_128s"), ["stages.1", "stages.2"], (3, 224, 224)),
    "one layer": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), ["0"], (1, 8, 8)),
}
KEYS = {
    "a plain sequence": "layer4.0.soft_attention.gamma",
    "sequences in a sequence": "blocks.4.0.soft_attention.gamma",
    "a module": "stages.3.soft_attention.gamma",
    "runs its children": "s4.b7.soft_attention.gamma",
    "a dictionary": "features.denseblock1.denselayer2.soft_attention.gamma",
    "NHWC": "stages.3.soft_attention.gamma",
    "tokens": "blocks.4.soft_attention.gamma",
    "one layer": "0.soft_attention.gamma",
}


@pytest.fixture(params=FAMILIES, ids=lambda name: name.replace(" ", "-"))
def family(request: pytest.FixtureRequest) -> tuple[nn.Module, list[str], Tensor, str]:
    build, names, size = FAMILIES[request.param]
    torch.manual_seed(0)
    return build().eval(), names, torch.randn(2, *size), request.param


def res_net() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=5).eval()


def vit(**kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=5, **kwargs).eval()


IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def snapshot(model: nn.Module) -> list[Any]:
    """Return everything that must not change: values, keys, types, modes, flags, hooks, attributes."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    bits = [(name, id(t), t.numpy(force=True).tobytes()) for name, t in tensors.items()]
    flags = [(name, p.requires_grad, p.grad is None) for name, p in model.named_parameters()]
    modules = [
        (name, id(module), type(module), module.training, list(vars(module)))
        for name, module in model.named_modules()
    ]
    kinds = [k for k in vars(model) if k.endswith("_hooks") or "_hooks_" in k]
    hooks = [
        (name, kind, list(getattr(module, kind).items()))
        for name, module in model.named_modules()
        for kind in kinds
    ]
    return [bits, list(model.state_dict()), flags, modules, hooks]


def open_up(model: nn.Module, gamma: float = 0.5) -> nn.Module:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ResidualAttention):
                module.gamma.fill_(gamma)
    return model


def attentions(model: nn.Module) -> dict[str, ResidualAttention]:
    return {n: m for n, m in model.named_modules() if isinstance(m, ResidualAttention)}


@torch.no_grad()
def test_the_network_computes_what_it_did_and_is_given_back(
    family: tuple[nn.Module, list[str], Tensor, str],
) -> None:
    model, names, x, kind = family
    before, output = snapshot(model), model(x)
    keys = list(model.state_dict())

    assert insert_attention(model, names, example=x) is model

    assert torch.equal(model(x), output)
    assert [key for key in model.state_dict() if "soft_attention" not in key] == keys
    assert KEYS.get(kind, keys[0]) in model.state_dict()
    assert not any(attention.training for attention in attentions(model).values())
    with capture_maps(model) as maps:
        assert not torch.allclose(open_up(model, 5.0)(x), output)
    assert len(maps) == len(names)
    assert all(min(values.shape[2:]) > 1 for values in maps.values())

    assert remove_attention(model) is model
    assert snapshot(model) == before
    assert torch.equal(model(x), output)


def test_gamma_learns(family: tuple[nn.Module, list[str], Tensor, str]) -> None:
    model, names, x, _ = family
    insert_attention(model.train(), names, example=x)
    assert all(attention.training for attention in attentions(model).values())
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    assert all(a.gamma.grad.abs() > 0 for a in attentions(model).values())


@torch.no_grad()
def test_what_is_attended_is_the_output_of_the_module() -> None:
    model = res_net()
    seen: list[Tensor] = []
    model.layer3.register_forward_hook(lambda module, args, output: seen.append(output))
    model(IMAGE)
    open_up(insert_attention(model, "layer3"))
    model(IMAGE)
    attention = model.layer3[-1].soft_attention
    assert torch.equal(seen[-1], attention(seen[0]))
    assert not torch.equal(seen[-1], seen[0])


def test_existing_hooks_get_the_attended_output() -> None:
    model, seen = res_net(), []
    module = model.layer3[-1]
    module.register_forward_hook(lambda module, args, output: seen.append(output))
    open_up(insert_attention(model, "layer3"))
    model(IMAGE)
    [after] = seen[-1:]
    remove_attention(model)
    model(IMAGE)
    assert not torch.equal(after, seen[-1])


@pytest.mark.parametrize("flip", [False, True], ids=["NCHW", "NHWC"])
def test_a_map_as_wide_and_high_as_it_has_channels(flip: bool) -> None:
    model, x = Cube(flip), torch.randn(1, 3, 32, 32)
    insert_attention(model, "conv", example=x)
    assert attentions(model)["conv.soft_attention"].map_layout.layout.value == "NCHW"
    insert_attention(model, "last", example=x)
    found = attentions(model)["last.soft_attention"].map_layout.layout.value
    assert found == ("NHWC" if flip else "NCHW")


class Cube(nn.Module):
    def __init__(self, flip: bool) -> None:
        super().__init__()
        self.flip = flip
        self.conv = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.last = nn.Identity()
        self.head = nn.Linear(16 * 16 * 16, 2)  # runs on one size only

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(self.last(x.permute(0, 2, 3, 1) if self.flip else x).flatten(1))


def test_a_copy_uses_its_own_attention() -> None:
    model = insert_attention(res_net(), "layer4")
    copied = copy.deepcopy(model)
    output = model(IMAGE)
    assert torch.equal(copied(IMAGE), output)
    open_up(copied, 5.0)
    assert torch.equal(model(IMAGE), output)
    assert not torch.equal(copied(IMAGE), output)
    assert torch.equal(remove_attention(copied)(IMAGE), output)
    assert attentions(model)


def test_pickle() -> None:
    model = open_up(insert_attention(vit(), ["blocks.3", "blocks.4"]))
    x = torch.randn(1, 3, 160, 160)
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    for loaded in (pickle.loads(pickle.dumps(model)), torch.load(stored, weights_only=False)):
        assert torch.equal(loaded(x), model(x))
        assert not attentions(remove_attention(loaded))


def test_a_checkpoint_from_before_loads_strictly_and_leaves_the_attention() -> None:
    original, other = res_net().state_dict(), res_net()
    model = open_up(insert_attention(other, "layer4"))
    for parameter in model.parameters():
        parameter.data.add_(1)
    attention = {k: v.clone() for k, v in model.state_dict().items() if "soft_attention" in k}
    model.load_state_dict(original)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in (original | attention).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_checkpoint_from_before_is_assigned_to_the_meta_device(dtype: torch.dtype) -> None:
    original = res_net().to(dtype)
    with torch.device("meta"):
        model = res_net().to(dtype)
    insert_attention(model, ["layer3", "layer4"])
    model.load_state_dict(original.state_dict(), strict=True, assign=True)
    for attention in attentions(model).values():
        for parameter in attention.parameters():
            assert (parameter.device.type, parameter.dtype) == ("cpu", dtype)
            assert parameter.requires_grad
        assert attention.gamma.item() == 0
        assert attention.weight.any()
    if dtype == torch.float32:
        assert torch.equal(model(IMAGE), original(IMAGE))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_what_a_scripted_model_should_be_converted_with_instead_works() -> None:
    model = open_up(insert_attention(res_net(), "layer4"))
    traced = torch.jit.trace(model, IMAGE)
    exported = torch.export.export(model, (IMAGE,)).module()
    for converted in (traced, exported):
        torch.testing.assert_close(converted(IMAGE), model(IMAGE))


def test_a_checkpoint_with_attention_loads_and_must_be_complete() -> None:
    saved = open_up(insert_attention(res_net(), "layer4")).state_dict()
    model = insert_attention(res_net(), "layer4")
    model.load_state_dict(saved)
    assert attentions(model)["layer4.0.soft_attention"].gamma == 0.5
    del saved["layer4.0.soft_attention.gamma"]
    with pytest.raises(RuntimeError, match=r"Missing key.*layer4.0.soft_attention.gamma"):
        model.load_state_dict(saved)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*layer4.0.soft_attention.weight"):
        res_net().load_state_dict(saved)


@pytest.mark.parametrize("kind", ["a plain sequence", "runs its children", "NHWC", "tokens"])
def test_compile_in_one_graph(kind: str) -> None:
    build, names, size = FAMILIES[kind]
    model, x = build().eval(), torch.randn(2, *size)
    open_up(insert_attention(model, names, example=x))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).sum().backward()
    assert all(a.gamma.grad is not None for a in attentions(model).values())


def test_export_with_any_batch_and_size() -> None:
    model = open_up(insert_attention(res_net(), ["layer3", "layer4"]))
    auto = torch.export.Dim.AUTO
    program = torch.export.export(model, (IMAGE,), dynamic_shapes=[{0: auto, 2: auto, 3: auto}])
    for x in (IMAGE, torch.randn(3, 3, 96, 128)):
        torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.slow
@pytest.mark.skipif(
    torch.__version__ < (2, 7),
    reason="torch 2.6 can't export a batch norm to ONNX, attended or not",
)
def test_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs softattn[onnx]")
    model = open_up(insert_attention(res_net(), ["layer3", "layer4"]))
    auto = torch.export.Dim.AUTO
    sizes = [{0: auto, 2: auto, 3: auto}]
    program = torch.onnx.export(model, (IMAGE,), dynamo=True, dynamic_shapes=sizes, verbose=False)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for x in (IMAGE, torch.randn(3, 3, 96, 128)):
        [y] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), model(x).detach())


def test_export_of_tokens() -> None:
    model, x = open_up(insert_attention(vit(), "blocks.3")), torch.randn(2, 3, 160, 160)
    program = torch.export.export(model, (x,), dynamic_shapes=[{0: torch.export.Dim.AUTO}])
    torch.testing.assert_close(
        program.module()(x[:1].repeat(3, 1, 1, 1)), model(x[:1]).repeat(3, 1)
    )


def test_symbolic_trace() -> None:
    model = open_up(insert_attention(res_net(), ["conv1.0", "layer3", "layer4"]))
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(IMAGE), model(IMAGE))
    extractor = create_feature_extractor(model, ["layer4"])
    assert torch.equal(extractor(IMAGE)["layer4"], model.forward_features(IMAGE))


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(("name", "at"), [("test_resnet", "layer4"), ("regnetx_002", "s4")])
def test_gradient_checkpointing(name: str, at: str, before: bool) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    plain = open_up(insert_attention(copy.deepcopy(model), at))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the dry run must not warn either
        model.set_grad_checkpointing(before)
        insert_attention(model, at)
    model.load_state_dict(plain.state_dict())
    model.set_grad_checkpointing(True)
    outputs = [each(IMAGE.clone().requires_grad_()) for each in (model, plain)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    ((_, ours), (_, theirs)) = (*attentions(model).items(), *attentions(plain).items())
    assert ours.gamma.grad is not None
    torch.testing.assert_close(ours.gamma.grad, theirs.gamma.grad)


def test_a_stage_keeps_its_blocks() -> None:
    model = res_net()
    before = list(model.layer4), len(model.layer4), model.layer4[-1]
    insert_attention(model, "layer4")
    assert (list(model.layer4), len(model.layer4), model.layer4[-1]) == before


def test_the_head_stays_last() -> None:
    # timm's model_parameters(exclude_head=True) drops the last two parameters.
    model = insert_attention(res_net(), "layer4")
    assert [name for name, _ in model.named_parameters()][-2:] == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("name", "at", "options"),
    [
        ("test_resnet", "layer4", {}),
        ("test_convnext", "stages_3", {}),
        ("test_vit", "model.blocks.5", {"feature_cls": "getter"}),
        ("test_convnext", "stages_3", {"feature_cls": "hook"}),
        ("test_resnet", "graph_module.layer4.0.act2", {"feature_cls": "fx"}),
    ],
)
@torch.no_grad()
def test_features_only(name: str, at: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True, **options).eval()
    x = torch.randn(2, *model.pretrained_cfg["input_size"]) if name == "test_vit" else IMAGE
    before = model(x)
    insert_attention(model, at)
    assert all(map(torch.equal, model(x), before))
    after = open_up(model)(x)
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[-1], before[-1])


def test_prefix_tokens_stay() -> None:
    model, x = vit(), torch.randn(1, 3, 160, 160)
    gathered: list[Tensor] = []
    insert_attention(model, "blocks.5")
    model.norm.register_forward_pre_hook(lambda module, args: gathered.append(args[0]))
    for gamma in (0.0, 1.0):
        open_up(model, gamma)(x)
    without, attended = gathered
    assert torch.equal(attended[:, 0], without[:, 0])
    assert not torch.isclose(attended[:, 1:], without[:, 1:]).all(dim=-1).any()


def test_other_input_sizes() -> None:
    model = insert_attention(res_net(), "layer4")
    with capture_maps(model) as maps:
        model(torch.randn(1, 3, 96, 160))
    assert maps["layer4.0.soft_attention"].shape == (1, 16, 3, 5)


SIZES = [(96, 96), (144, 256), (256, 144), (96, 160), (160, 160), (160, 96), (64, 400), (48, 80)]


@pytest.mark.parametrize("example", [(160, 160), (64, 96)])
@torch.no_grad()
def test_other_input_sizes_of_tokens(example: tuple[int, int]) -> None:
    model = vit(dynamic_img_size=True)
    insert_attention(model, ["blocks.1", "blocks.4"], example=torch.randn(1, 3, *example))
    for part in (model, model.forward_features, copy.deepcopy(model), unpickled(model)):
        for height, width in SIZES:
            with capture_maps(getattr(part, "__self__", part)) as maps:
                part(torch.randn(1, 3, height, width))
            expected = (1, 16, height // 16, width // 16)
            assert [values.shape for values in maps.values()] == [expected] * 2


def unpickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def test_input_sizes_that_the_stride_does_not_divide() -> None:
    model = insert_attention(vit(dynamic_img_size=True, dynamic_img_pad=True), "blocks.4")
    with capture_maps(model) as maps:
        model(torch.randn(1, 3, 150, 250))
    assert maps["blocks.4.soft_attention"].shape == (1, 16, 10, 16)


@pytest.mark.usefixtures("fresh_compiler")
def test_other_input_sizes_of_tokens_compiled() -> None:
    model = open_up(insert_attention(vit(dynamic_img_size=True), "blocks.4"), 5.0)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for size in SIZES[:4]:
        x = torch.randn(1, 3, *size)
        torch.testing.assert_close(compiled(x), model(x))


def test_other_input_sizes_of_tokens_in_threads() -> None:
    model = insert_attention(vit(dynamic_img_size=True), "blocks.4")
    inside = threading.Barrier(2)

    def wait(module: nn.Module, args: object, output: object) -> None:
        inside.wait(timeout=60)

    model.blocks[0].register_forward_hook(wait)

    def grid(size: tuple[int, int]) -> tuple[int, ...]:
        with capture_maps(model) as maps, torch.no_grad():
            model(torch.randn(1, 3, *size))
        return tuple(maps["blocks.4.soft_attention"].shape[2:])

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(grid, [(144, 256), (256, 144)])) == [(9, 16), (16, 9)]


def test_other_input_sizes_of_tokens_with_checkpointing() -> None:
    model = open_up(insert_attention(vit(dynamic_img_size=True), "blocks.4"))
    plain = copy.deepcopy(model)
    model.set_grad_checkpointing(True)
    x = torch.randn(1, 3, 144, 256)
    for each in (model.train(), plain.train()):
        each(x.clone().requires_grad_()).square().sum().backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_tokens_of_an_unknown_size_are_refused() -> None:
    model = insert_attention(vit(dynamic_img_size=True), "blocks.4")
    for tokens in (torch.randn(1, 145, 64), torch.randn(1, 25, 64)):
        with pytest.raises(ShapeError, match="tokens of an image of unknown size"):
            model.blocks(tokens)
    model.blocks(torch.randn(1, 101, 64))  # as many as in the dry run


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_dtypes(dtype: torch.dtype) -> None:
    model, x = vit().to(dtype), torch.randn(1, 3, 160, 160).to(dtype)
    output = model(x)
    insert_attention(model, "blocks.5")
    assert attentions(model)["blocks.5.soft_attention"].weight.dtype == dtype
    assert torch.equal(model(x), output)


@torch.no_grad()
def test_autocast_and_channels_last() -> None:
    model, x = res_net(), IMAGE.to(memory_format=torch.channels_last)
    model = model.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
        insert_attention(model, "layer4")
        assert torch.equal(model(x), output)
        assert model.forward_features(x).is_contiguous(memory_format=torch.channels_last)


def test_meta_device() -> None:
    with torch.device("meta"):
        model = timm.create_model("test_resnet")
    insert_attention(model, "layer4")
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 1000)


def test_functional_call_and_per_sample_gradients() -> None:
    model = open_up(insert_attention(res_net(), "layer4"))
    parameters = {n: p.detach() for n, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (x[None],)).square().sum()

    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, IMAGE)
    for i, x in enumerate(IMAGE):
        model.zero_grad()
        model(x[None]).square().sum().backward()
        gamma = model.layer4[-1].soft_attention.gamma
        torch.testing.assert_close(grads["layer4.0.soft_attention.gamma"][i], gamma.grad)


class Own(nn.Module):
    """Custom network with one module of each kind that can't be attended."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, stride=2, padding=1)
        self.shared = nn.ReLU()
        self.trained_only = nn.Conv2d(6, 6, 1)
        self.pair = Pair()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.count = Count()
        self.windows = Windows()
        self.head = nn.Linear(6, 3)
        self.passes = 0

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        self.passes += 1
        x = self.shared(self.shared(self.stem(x) * scale))
        if self.training:
            x = self.trained_only(x)
        x, _ = self.pair(x)
        self.count(x)
        self.windows(x)
        return self.head(self.flat(self.pool(x)))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, x]


class Count(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(x.shape, dtype=torch.int64)


class Windows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (2, -1)).transpose(1, 2).flatten(0, 1)


def test_a_network_of_ones_own_with_several_inputs() -> None:
    torch.manual_seed(0)
    model, x = Own().eval(), torch.randn(2, 2, 16, 16)
    output = model(x, 0.5)
    insert_attention(model, "stem", example=(x, 0.5))
    assert torch.equal(model(x, 0.5), output)
    assert model.passes == 2  # the dry run is a copy's


@pytest.mark.parametrize("kind", [dict, MappingProxyType])
def test_a_network_with_keyword_only_arguments(kind: Callable[[Any], Any]) -> None:
    model, x = KeywordOnly().eval(), torch.randn(2, 3, 32, 16)
    output = model(pixel_values=x, scale=0.5)
    insert_attention(model, ["stem", "patches"], example=kind({"pixel_values": x, "scale": 0.5}))
    assert torch.equal(model(pixel_values=x, scale=0.5), output)
    found = {name: attention.map_layout for name, attention in attentions(model).items()}
    assert found["stem.soft_attention"].layout is Layout.NCHW
    assert found["patches.soft_attention"].grid == TokenGrid(4, 2, 8)
    with pytest.raises(ModelError, match=r"doesn't run on a dict with scale \(TypeError: .*pixel"):
        insert_attention(KeywordOnly(), "stem", example={"scale": 1.0})


class KeywordOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, stride=8)
        self.patches = nn.Flatten(2)
        self.patches.forward = lambda x: x.flatten(2).transpose(1, 2)

    def forward(self, *, pixel_values: Tensor, scale: float) -> Tensor:
        return self.patches(self.stem(pixel_values) * scale).mean(1)


OTHERS = (
    "Other modules return a tensor of 3 or 4 dimensions. There are: stem, pool, count, windows."
)
ERRORS: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ("stme", {}, ArgumentError, "Own has no module 'stme'. Closest: stem."),
    ("", {}, ArgumentError, "'' is the whole model. Name modules inside of it."),
    ([], {}, ArgumentError, "at is empty. Pass one or more names of modules."),
    (["stem", 3], {}, ArgumentTypeError, "or a list of names, found 3 (int)."),
    (None, {}, ArgumentTypeError, "at must be the name of a module, or a list of names"),
    (["stem", "stem"], {}, ArgumentError, "two insertions at one place: 'stem' and 'stem' have"),
    ("shared", {}, ModelError, "it runs 2 times in a pass, and attention needs a module"),
    ("trained_only", {}, ModelError, "at 'trained_only': it doesn't run in eval mode"),
    ("pair", {}, ModelError, "its output is a list of 2: a tensor (2, 6, 112, 112), a tensor (2"),
    ("count", {}, ModelError, "its output is of torch.int64, and attention needs a tensor of"),
    (
        "windows",
        {},
        ModelError,
        "its output (4, 6, 56, 112) doesn't begin with the input's batch of 2",
    ),
    ("pool", {}, ModelError, "its output (2, 6, 1, 1) is not a feature map: it has 1 x 1 posit"),
    ("head", {}, ModelError, "its output (2, 3) is not a feature map: expected (B, C, H, W)"),
    ("flat", {}, ModelError, OTHERS),
    ("stem", {"layout": "NLC"}, ModelError, "expected layout='NLC', as given"),
    (
        "stem",
        {"layout": "CHW"},
        ArgumentError,
        "one of ['NCHW', 'NHWC', 'NLC', 'NCDHW', 'NDHWC'], found 'CHW'",
    ),
    ("stem", {"grid": 7}, ArgumentError, "grid must be (height, width), found 7."),
    ("stem", {"grid": (0, 7)}, ArgumentError, "grid must be a whole number of at least 1"),
    ("stem", {"num_prefix_tokens": -1}, ArgumentError, "num_prefix_tokens must be a whole number"),
    ("stem", {"num_maps": 0}, ArgumentError, "num_maps must be a whole number of at least 1"),
    ("stem", {"kernel_size": 2}, ArgumentError, "kernel_size must be odd"),
    ("stem", {"gamma": float("nan")}, ArgumentError, "gamma must be a finite number, found nan"),
    ("stem", {"gamma": None}, ArgumentTypeError, "gamma must be a finite number, found None"),
    ("stem", {"activation": "relo"}, ArgumentError, "unknown name 'relo'"),
    (
        "stem",
        {"block": "ses"},
        ArgumentError,
        "timm has no attention named 'ses'. Closest: se, ese",
    ),
    ("stem", {"block": nn.ReLU()}, ArgumentTypeError, "block must be a function from the number"),
    ("stem", {"block": 3}, ArgumentTypeError, "or the name of an attention of timm, found 3."),
    ("stem", {"block": lambda c: None}, ArgumentTypeError, "block must return a torch.nn.Module"),
    (
        "stem",
        {"block": lambda c: nn.Conv2d(c, 2 * c, 1)},
        ModelError,
        "at 'stem': applying Conv2d to a map (2, 6, 112, 112): it returns a tensor (2, 12, 112, 112), "
        "and must return a map of the same shape.",
    ),
    ("stem", {"block": lambda c: Pair()}, ModelError, "it returns a list of 2: a tensor (2, 6"),
    ("stem", {"block": nn.Linear}, ArgumentError, "block raises TypeError for 6 channels: "),
    (
        "stem",
        {"block": lambda c: nn.Linear(c, c)},
        ModelError,
        "Linear to a map (2, 6, 112, 112): it",
    ),
    ("stem", {"block": "se", "gamma": "x"}, ArgumentTypeError, "finite number, found 'x'"),
    (
        "stem",
        {"block": lambda c: nn.ReLU(inplace=True)},
        ModelError,
        "it changes its input in place",
    ),
    (
        "stem",
        {"block": lambda c: Count()},
        ModelError,
        "it returns torch.int64, and must return float",
    ),
    (
        "stem",
        {"block": "se", "num_maps": 8, "bias": False},
        ArgumentError,
        "num_maps, bias applies only to the default attention. Set it in the block",
    ),
    (
        "stem",
        {"example": torch.zeros(1, 5, 8, 8)},
        ModelError,
        "Own doesn't run on a tensor (1, 5, 8, 8) (RuntimeError: ",
    ),
]


@pytest.mark.parametrize(("at", "options", "error", "text"), ERRORS)
def test_errors_say_why_and_change_nothing(
    at: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    model = Own()
    before = snapshot(model)
    with pytest.raises(error, match=re.escape(text)) as raised:
        insert_attention(model, at, **options)
    assert isinstance(raised.value, SoftAttnError)
    assert snapshot(model) == before


@settings(max_examples=25, deadline=None)
@given(
    good=st.lists(st.sampled_from(["conv1.0", "layer1", "layer2.0", "layer3"]), unique=True),
    bad=st.sampled_from(["layer5", "", "fc", "global_pool", "layer4.0.drop_block.x", "layer9"]),
    where=st.integers(0, 4),
    training=st.booleans(),
    inserted=st.booleans(),
)
def test_one_bad_name_among_any_good_ones_changes_nothing(
    good: list[str], bad: str, where: int, training: bool, inserted: bool
) -> None:
    model = res_net().train(training)
    model.layer2.register_forward_pre_hook(lambda module, args: None)
    if inserted:
        insert_attention(model, "layer4")
        bad = "layer4"
    before = snapshot(model)
    with pytest.raises(SoftAttnError):
        insert_attention(model, [*good[:where], bad, *good[where:]])
    assert snapshot(model) == before


def test_a_block_must_be_a_new_module_in_each_call() -> None:
    model, shared = res_net(), nn.Identity()
    before = snapshot(model)
    for names, block in ((["layer3", "layer4"], shared), ("layer3", model.layer4[0].drop_block)):
        with pytest.raises(ArgumentError, match="block returned a module that is in use already"):
            insert_attention(model, names, block=lambda channels, block=block: block)
    assert snapshot(model) == before


def test_an_activation_that_is_a_module_is_copied_for_each_attention() -> None:
    model = insert_attention(res_net(), ["layer3", "layer4"], activation=nn.ReLU())
    first, second = (getattr(model, name)[-1].soft_attention for name in ("layer3", "layer4"))
    assert first.activation is not second.activation


def test_a_block_without_values_is_refused() -> None:
    model = res_net()
    before = snapshot(model)
    with pytest.raises(ModelError, match=r"SoftAttention to a map .*: it raises NotImpl"):
        insert_attention(model, "layer4", block=lambda c: SoftAttention(c, device="meta"))
    assert snapshot(model) == before


def test_a_module_of_the_user_may_have_the_name_of_the_attention() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.soft_attention = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.soft_attention(self.conv(x))

    model = Net()
    before, expected = snapshot(model), model(IMAGE)
    remove_attention(insert_attention(model, "soft_attention", example=IMAGE))
    assert snapshot(model) == before
    assert torch.equal(model(IMAGE), expected)


@pytest.mark.parametrize("block", [None, "se"])
def test_what_is_inserted_in_inference_mode_can_be_trained(block: str | None) -> None:
    model = res_net()
    with torch.inference_mode():
        insert_attention(model, "layer4", block=block)
        model(IMAGE)
    model(IMAGE).square().sum().backward()
    assert model.layer4[-1].soft_attention.gamma.grad is not None


@pytest.mark.parametrize("before", [True, False], ids=["inserted-first", "converted-first"])
def test_a_block_survives_the_conversion_to_synchronized_norms(before: bool) -> None:
    model = res_net()

    def block(channels: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))

    if before:
        insert_attention(model, ["conv1.0", "layer4"], block=block, gamma=0.5)
        expected = model(IMAGE)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if not before:
        insert_attention(model, ["conv1.0", "layer4"], block=block, gamma=0.5)
        expected = copy.deepcopy(model)(IMAGE)
    torch.testing.assert_close(model(IMAGE), expected)
    remove_attention(model)
    assert not torch.allclose(model(IMAGE), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("block", [None, "se"])
def test_quantization(block: str | None) -> None:
    model = open_up(insert_attention(res_net(), "layer4", block=block))
    output = model(IMAGE)
    dynamic = quantization.quantize_dynamic(model, {nn.Linear})
    mapping = quantization.get_default_qconfig_mapping("fbgemm")
    prepared = quantize_fx.prepare_fx(copy.deepcopy(model), mapping, (IMAGE,))
    prepared(IMAGE)
    static = quantize_fx.convert_fx(prepared)
    for quantized in (dynamic, static):
        assert (quantized(IMAGE) - output).abs().max() < 0.1 * output.abs().max()
    assert dynamic.layer4[-1].soft_attention.gamma == model.layer4[-1].soft_attention.gamma


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_eager_quantization_says_what_to_do() -> None:
    model = nn.Sequential(quantization.QuantStub(), nn.Conv2d(3, 4, 3), quantization.DeQuantStub())
    insert_attention(model.eval(), "1")
    model.qconfig = quantization.get_default_qconfig("fbgemm")
    prepared = quantization.prepare(model)
    prepared(IMAGE)
    with pytest.raises(
        ModelError, match=r"was replaced by .*Conv2d, .* attention is gone\. Call rem"
    ):
        quantization.convert(prepared)(IMAGE)


def quantizable(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(quantization.QuantStub(), *layers, quantization.DeQuantStub()).eval()


def quantized(model: nn.Module) -> nn.Module:
    model.qconfig = quantization.get_default_qconfig("fbgemm")
    prepared = quantization.prepare(model)
    prepared(IMAGE)
    return quantization.convert(prepared)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("block", [None, "se"])
def test_attention_gets_no_quantized_tensors(block: str | None) -> None:
    model = quantizable(nn.Conv2d(3, 8, 3), nn.ReLU())
    insert_attention(model, "2", block=block)  # eager quantization does not replace a ReLU
    with pytest.raises(ModelError, match=r"found a quantized tensor \(torch\.quint8\)"):
        quantized(model)(IMAGE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_attention_after_a_dequantization() -> None:
    model = quantized(quantizable(nn.Conv2d(3, 8, 3), nn.ReLU()))
    before = model(IMAGE)
    with pytest.raises(ModelError, match=r"its output is of torch\.quint8"):
        insert_attention(model, "2")
    insert_attention(model, "3", num_maps=2)
    assert torch.equal(model(IMAGE), before)
    nn.init.constant_(model[3].soft_attention.gamma, 5.0)
    assert not torch.equal(model(IMAGE), before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("at", "is_kept"), [("layer4", True), ("conv1.0", False)])
def test_maps_after_quantization_with_fx(at: str, is_kept: bool) -> None:
    model = insert_attention(res_net(), at, gamma=0.5)
    output = model(IMAGE)
    mapping = quantization.get_default_qconfig_mapping("fbgemm")
    keep = PrepareCustomConfig().set_non_traceable_module_classes([ResidualAttention])
    prepared = quantize_fx.prepare_fx(model, mapping, (IMAGE,), prepare_custom_config=keep)
    prepared(IMAGE)
    static = quantize_fx.convert_fx(prepared)
    if not is_kept:  # FX rebuilds single layers without their hooks
        with pytest.raises(ModelError, match="contains no attention"), capture_maps(static):
            pass
        return
    with capture_maps(static) as maps:
        assert (static(IMAGE) - output).abs().max() < 0.1 * output.abs().max()
    assert [name.endswith("soft_attention") for name in maps] == [True]


def test_a_second_insertion_at_one_place() -> None:
    model = insert_attention(res_net(), "layer4")
    before = snapshot(model)
    for name in ("layer4", "layer4.0"):
        with pytest.raises(ModelError, match=r"two insertions at one place: 'layer4.0' would hold"):
            insert_attention(model, name)
    assert snapshot(model) == before
    with pytest.raises(ArgumentError, match=r"'layer3' and 'layer3.0' have the same output"):
        insert_attention(model, ["layer3", "layer3.0"])


def test_a_module_that_cannot_be_a_parent() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), RunsChildren(), nn.ReLU())
    with pytest.raises(ModelError, match="'1' would run the attention as one of its own modules"):
        insert_attention(model, "1")


class RunsChildren(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


@pytest.mark.parametrize(
    ("pool", "at", "warns"),
    [
        ("token", "blocks.5", True),
        ("token", "norm", True),
        ("token", "blocks.4", False),
        ("avg", "blocks.5", False),
    ],
)
def test_positions_that_the_output_does_not_depend_on(pool: str, at: str, warns: bool) -> None:
    model = vit(global_pool=pool, img_size=32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        insert_attention(model, at)
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == warns
    if warns:
        assert f"at {at!r}: the model's output depends on no position" in texts[0]
        assert caught[0].filename == __file__
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    [attention] = attentions(model).values()
    assert (attention.gamma.grad is None or not attention.gamma.grad.any()) == warns


def test_tokens_in_another_order_than_the_models_own_map() -> None:
    model = timm.create_model("hiera_tiny_224", embed_dim=24)
    with pytest.raises(ModelError, match="its tokens are not in the order of the model's"):
        insert_attention(model, ["blocks.11", "blocks.2"])
    insert_attention(model, "blocks.11")
    assert attentions(model)["blocks.11.soft_attention"].map_layout.grid == TokenGrid(7, 7, 32)


def test_the_dry_run_leaves_caches_alone() -> None:
    # LeViT in evaluation keeps its attention biases, which training would then change unseen.
    model = timm.create_model("levit_128s")
    insert_attention(model, "stages.2")
    caches = [m.attention_bias_cache for m in model.modules() if hasattr(m, "attention_bias_cache")]
    assert len(caches) > 1
    assert not any(caches)


def test_the_dry_run_leaves_the_random_state_alone() -> None:
    states = []
    for at in ("layer4", "fc"):
        model = res_net()
        try:
            insert_attention(model, at)
        except ModelError:
            states.append(torch.get_rng_state())
    model = res_net()
    assert torch.equal(states[0], torch.get_rng_state())


def test_removing_from_a_model_that_has_none() -> None:
    with pytest.raises(ModelError, match="ResNet has no attention from insert_attention"):
        remove_attention(res_net())


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(
    ("wrap", "text"),
    [
        (lambda model: torch.compile(model), "OptimizedModule is compiled"),
        (lambda model: model.compile() or model, "ResNet is compiled, and the compiled code would"),
        (lambda model: torch.jit.trace(model, IMAGE), "is a TorchScript module, whose code cannot"),
        (lambda model: "resnet18", "expected a torch.nn.Module, found str"),
    ],
)
def test_scripted_compiled_and_distributed_models_are_refused(
    wrap: Callable[[nn.Module], Any], text: str
) -> None:
    model = wrap(res_net())
    with pytest.raises(SoftAttnError, match=text):
        insert_attention(model, "layer4")


def test_a_distributed_model() -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(res_net())
        with pytest.raises(ModelError, match="which does not reduce the gradients of"):
            insert_attention(model, "module.layer1")
    finally:
        torch.distributed.destroy_process_group()


def test_it_prints() -> None:
    model = insert_attention(res_net(), "layer4", num_maps=2)
    assert "(soft_attention): ResidualAttention(96, num_maps=2, kernel_size=(3, 3), gamma=0.0" in (
        repr(model)
    )


def test_removing_from_a_compiled_model() -> None:
    model = insert_attention(res_net(), "layer4")
    with pytest.raises(ModelError, match="removing attention: OptimizedModule is compiled"):
        remove_attention(torch.compile(model))
    assert attentions(model)


def test_a_model_with_lazy_parameters() -> None:
    with pytest.raises(ModelError, match="Sequential has lazy parameters, whose shapes are unk"):
        insert_attention(nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU()), "1")


def test_a_model_with_the_old_weight_norm() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.utils.weight_norm(nn.Conv2d(3, 4, 3))
    model, x = nn.Sequential(layer, nn.ReLU()), torch.randn(1, 3, 8, 8)
    output = model(x)
    assert torch.equal(insert_attention(model, "0")(x), output)


def train_three_steps(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=5)
    insert_attention(model, ["layer3", "layer4"])
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    torch.manual_seed(rank)
    for _ in range(3):
        optimizer.zero_grad()
        parallel(torch.randn(2, 3, 64, 64)).square().mean().backward()
        optimizer.step()
    torch.save(dict(model.named_parameters()), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(train_three_steps, (str(tmp_path),), nprocs=2)
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert one["layer4.0.soft_attention.gamma"] != 0
