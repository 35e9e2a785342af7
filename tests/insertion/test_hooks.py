"""Inserted attention and tools that replace modules."""

import copy
import io
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import fuse_modules
from torchvision.models import densenet121
from torchvision.ops import FrozenBatchNorm2d

from softattn import ModelError, capture_maps, insert_attention, remove_attention
from softattn.insertion.hooks import InputSize

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Norms at the end of a sequence and elsewhere, and a sequence that is not called as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU()
        self.features = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
        self.walked = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
        self.linear = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(self.act(self.norm(self.conv(x))))
        for module in self.walked:
            x = module(x)
        x = self.linear(x.permute(0, 2, 3, 1))
        return self.head(x.mean((1, 2)))


def net(at: str) -> nn.Module:
    torch.manual_seed(0)
    return insert_attention(Net().eval(), at, gamma=5.0, num_maps=2)


def convert(model: nn.Module) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def convert_by_timm(model: nn.Module) -> nn.Module:
    return pytest.importorskip("timm").layers.convert_sync_batchnorm(model)


def keys(model: nn.Module) -> list[str]:
    return list(model.state_dict())


NORMS = ["norm", "features", "features.1", "walked", "walked.1"]


@pytest.mark.parametrize("tool", [convert, convert_by_timm])
@pytest.mark.parametrize("at", NORMS)
def test_synchronized_norms(at: str, tool: Callable[[nn.Module], nn.Module]) -> None:
    model = net(at)
    expected = model(IMAGE)
    converted = tool(copy.deepcopy(model))
    assert keys(converted) == keys(model)
    with capture_maps(converted) as maps:
        output = converted(IMAGE)
    assert torch.equal(output, expected)
    assert len(maps) == 1
    output.sum().backward()
    [gamma] = [p for name, p in converted.named_parameters() if name.endswith("gamma")]
    assert gamma.grad is not None
    # A copy of what was restored uses its own attention.
    copied = copy.deepcopy(converted)
    assert torch.equal(remove_attention(converted)(IMAGE), net_without()(IMAGE))
    assert torch.equal(copied(IMAGE), expected)
    assert not hooks(converted)


def net_without() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def hooks(model: nn.Module) -> list[Any]:
    return [
        hook
        for module in model.modules()
        for kind in (module._forward_hooks, module._forward_pre_hooks)
        for hook in kind.values()
    ]


def test_the_norm_that_ends_densenet() -> None:
    model = densenet121(num_classes=3).eval()
    insert_attention(model, at="features", gamma=5.0)
    expected = model(IMAGE)
    converted = convert(copy.deepcopy(model))
    assert torch.equal(converted(IMAGE), expected)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiling_after_a_conversion() -> None:
    model = net("norm")
    converted = convert(copy.deepcopy(model))
    compiled = torch.compile(converted, backend="eager")
    torch.testing.assert_close(compiled(IMAGE), model(IMAGE))
    torch.compiler.reset()
    whole = torch.compile(converted, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(IMAGE), model(IMAGE))


def replace(name: str, make: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    def tool(model: nn.Module) -> nn.Module:
        model.set_submodule(name, make(model.get_submodule(name)))
        return model

    return tool


def freeze_by_timm(model: nn.Module) -> nn.Module:
    return pytest.importorskip("timm").layers.freeze_batch_norm_2d(model)


LOST: list[tuple[str, Callable[[nn.Module], nn.Module], str]] = [
    ("norm", freeze_by_timm, "replaced by FrozenBatchNorm2d, which has neither its hooks nor"),
    ("features", freeze_by_timm, "replaced by FrozenBatchNorm2d, which has neither its hooks nor"),
    ("norm", replace("norm", lambda old: FrozenBatchNorm2d(8)), "replaced by FrozenBatchNorm2d"),
    ("norm", replace("norm", lambda old: nn.GroupNorm(2, 8)), "replaced by GroupNorm"),
    ("linear", replace("linear", lambda old: nn.Linear(8, 8)), "replaced by Linear"),
    (
        "act",
        lambda model: fuse_modules(model, [["conv", "norm", "act"]]),
        "replaced by Identity",
    ),
]


@pytest.mark.parametrize(("at", "tool", "text"), LOST)
def test_attention_that_is_lost_is_an_error(
    at: str, tool: Callable[[nn.Module], nn.Module], text: str
) -> None:
    model = tool(net(at))
    with pytest.raises(ModelError, match=text):
        model(IMAGE)
    with pytest.raises(ModelError, match="was replaced by"):
        insert_attention(model, "head")
    remove_attention(model)
    assert not hooks(model)
    assert not any("soft_attention" in key for key in keys(model))
    model(IMAGE)


def test_hooks_without_children() -> None:
    model = net("act").features
    insert_attention(model, "1")
    moved = nn.Identity()
    moved._forward_hooks = model[1]._forward_hooks
    with pytest.raises(ModelError, match="by Identity, which has its hooks but not its children"):
        moved(IMAGE)
    remove_attention(moved)
    moved(IMAGE)


def test_attention_that_no_pass_reaches_is_detected() -> None:
    model = convert(net("walked"))
    for module in model.modules():  # as a tool that takes hooks from all modules
        module._forward_pre_hooks.clear()
    with (
        pytest.raises(ModelError, match=r"no pass reaches 'walked.1.soft_attention'"),
        capture_maps(model),
    ):
        model(IMAGE)
    remove_attention(model)
    assert keys(model) == keys(net_without())


def test_an_error_inside_capture_maps_stays_as_it_is() -> None:
    model = convert(net("walked"))
    for module in model.modules():
        module._forward_pre_hooks.clear()
    with pytest.raises(ZeroDivisionError), capture_maps(model):
        raise ZeroDivisionError


def test_maps_of_a_part_whose_hook_is_outside_of_it() -> None:
    class Residual(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return x + self[0](x)

    model = insert_attention(nn.Sequential(Residual(nn.Conv2d(3, 3, 1)), nn.ReLU()), "0")
    with capture_maps(model[0][0]) as maps:
        model(IMAGE)
    assert list(maps) == ["soft_attention"]


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["norm", "features"])
def test_wrapped_modules_keep_their_attention(name: str) -> None:
    model = net("norm" if name == "norm" else "features.1")
    expected = model(IMAGE)
    wrapped = replace(name, Wrapper)(model)
    assert torch.equal(wrapped(IMAGE), expected)
    compiled = torch.compile(wrapped, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(IMAGE), expected)


class Adapter(Wrapper):
    """Adds the output of a layer of its own, as LoRA does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.lora = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.lora(x)


def test_adapters_around_the_module_are_an_error() -> None:
    model = replace("norm", Adapter)(net("norm"))
    with pytest.raises(
        ModelError, match=r"wrapped in .*\.Adapter, which has parameters of its own"
    ):
        model(IMAGE)


class Saved(nn.Module):
    """Trains a copy of a module and keeps the original, as modules_to_save of PEFT does."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = original
        self.trained = copy.deepcopy(original)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.trained(*args, **kwargs)


@pytest.mark.parametrize(("at", "attention"), [("norm", "norm"), ("features", "features.1")])
def test_attention_that_is_wrapped_itself(at: str, attention: str) -> None:
    model = replace(f"{attention}.soft_attention", Saved)(net(at))
    with capture_maps(model) as maps:
        assert torch.equal(model(IMAGE), net(at)(IMAGE))
    assert list(maps) == [f"{attention}.soft_attention.trained"]
    remove_attention(model)
    assert keys(model) == keys(net_without())
    assert torch.equal(model(IMAGE), net_without()(IMAGE))


@pytest.mark.parametrize(("at", "is_wrong"), [("norm", True), ("act", False)])
def test_backward_hooks_that_compute_gradients_of_parameters(at: str, is_wrong: bool) -> None:
    model = net(at)
    model.get_submodule(at).register_full_backward_hook(lambda module, grad_in, grad_out: None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(IMAGE)
    texts = [str(warning.message) for warning in caught]
    assert [text[: text.index(",")] for text in texts] == is_wrong * [
        "applying inserted attention: a backward hook of BatchNorm2d"
    ]
    model.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(IMAGE)


def test_attention_inserted_twice_around_a_conversion() -> None:
    model = convert(net("norm"))
    expected = net("norm")(IMAGE)
    insert_attention(model, "features")
    assert torch.equal(model(IMAGE), expected)


OTHER_PROCESS = """
import pickle, sys, torch
from torch import nn
model = pickle.load(open(sys.argv[1], "rb"))
for count in range(2000):
    model[0].register_forward_hook(lambda module, args, output: None)
print(model(torch.ones(1, 3, 8, 8)).sum().item())
"""


def test_hooks_of_another_process_do_not_replace_the_attention(tmp_path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    insert_attention(model, "0", gamma=5.0)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(model))
    expected = model(torch.ones(1, 3, 8, 8)).sum().item()
    command = [sys.executable, "-c", OTHER_PROCESS, str(path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(shown) == pytest.approx(expected, rel=1e-6)


def test_pickle_after_a_conversion() -> None:
    model = convert(net("norm"))
    loaded = pickle.load(io.BytesIO(pickle.dumps(model)))
    assert torch.equal(loaded(IMAGE), net("norm")(IMAGE))


def test_the_size_of_images_that_are_given_by_keyword() -> None:
    size, layer = InputSize(), nn.Conv2d(3, 4, 3)
    handle = layer.register_forward_pre_hook(size, with_kwargs=True)
    layer(torch.zeros(1, 3, 8, 16))
    layer(input=torch.zeros(1, 3, 6, 9))
    assert size.get() == (6, 9)
    handle.remove()


class Pair(nn.Module):
    """Returns a map and a vector, of which the network uses one."""

    def __init__(self, use: int) -> None:
        super().__init__()
        self.use = use
        self.stage = nn.Conv2d(3, 4, 3)
        self.both = Both()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.both(self.stage(x))[self.use]
        return output


class Both(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x.mean((2, 3))


def test_a_tuple_is_attended_and_its_rest_handed_on() -> None:
    net = Pair(use=0).eval()
    before = net(IMAGE)
    insert_attention(net, "both", num_maps=2)
    assert torch.equal(net(IMAGE), before)
    rest: list[Tensor] = []
    net.both.register_forward_hook(lambda _m, _x, output: rest.append(output[1]))
    with torch.no_grad():
        net.both.soft_attention.gamma.fill_(1.0)
    assert not torch.equal(net(IMAGE), before)
    assert torch.equal(rest[0], net.stage(IMAGE).mean((2, 3)))
    assert torch.equal(copy.deepcopy(net)(IMAGE), net(IMAGE))
    assert torch.equal(remove_attention(net)(IMAGE), before)


def test_the_part_of_a_tuple_that_is_not_used_is_pointed_out() -> None:
    with pytest.warns(UserWarning, match="depends on no position of this map"):
        insert_attention(Pair(use=1), "both")
