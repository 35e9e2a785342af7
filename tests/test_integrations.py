"""Libraries that change modules, run on wrapped models and on models with inserted attention."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from softattn import (
    ModelError,
    SoftAttention,
    SoftAttentionBlock,
    capture_maps,
    insert_attention,
    remove_attention,
    wrap_backbone,
)
from softattn.keras import KerasSoftAttention

IMAGES = torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(4) % 3


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.GroupNorm(2, 8)
        self.act = nn.ReLU()
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.ReLU())

    def forward(self, x):
        return self.block(self.act(self.norm(self.stem(x))))


class Net(Body):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(super().forward(x).mean((2, 3)))


def wrapped(**kwargs):
    return wrap_backbone(Body(), 3, input_size=24, **kwargs)


def inserted(*at, **kwargs):
    return insert_attention(Net(), at or ["act", "block"], gamma=5.0, **kwargs)


MODELS = {"wrapped": wrapped, "inserted": inserted}


@pytest.fixture(params=MODELS)
def build(request):
    return MODELS[request.param]


def maps_of(model):
    with capture_maps(model) as maps:
        model(IMAGES)
    return list(maps.values())


def train(model):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(IMAGES), LABELS).backward()
        optimizer.step()


# PEFT


@pytest.fixture
def peft():
    return pytest.importorskip("peft", reason="pip install peft")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", MODELS)
def test_adapters_of_peft_are_trained_saved_and_merged(name, peft, tmp_path):
    torch.manual_seed(0)
    model = MODELS[name]()
    plain, expected = copy.deepcopy(model), model(IMAGES)
    new = ["attention", "head"] if name == "wrapped" else ["soft_attention", "fc"]
    config = peft.LoraConfig(target_modules=["stem", "block.0"], modules_to_save=new)
    adapted = peft.get_peft_model(model, config)
    assert torch.equal(adapted(IMAGES), expected)
    train(adapted)
    trained, maps = adapted(IMAGES), maps_of(adapted)
    assert not torch.allclose(trained, expected)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path)
    assert torch.equal(again(IMAGES), trained)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(IMAGES), trained)
    for ours, theirs in zip(maps_of(merged), maps, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert merged.state_dict().keys() == plain.state_dict().keys()


def test_attention_is_removed_below_adapters_of_peft(peft):
    config = peft.LoraConfig(target_modules=["stem"], modules_to_save=["soft_attention"])
    adapted = peft.get_peft_model(inserted(), config)
    remove_attention(adapted)
    assert not any("soft_attention" in key for key in adapted.state_dict())
    net = Net()
    net.load_state_dict(adapted.merge_and_unload().state_dict())


def test_attention_at_an_adapted_layer_is_an_error(peft):
    adapted = peft.get_peft_model(inserted("stem"), peft.LoraConfig(target_modules=["stem"]))
    with pytest.raises(ModelError, match=r"wrapped in peft\.tuners\.lora\..*parameters of its own"):
        adapted(IMAGES)
    first = peft.get_peft_model(Net(), peft.LoraConfig(target_modules=["stem"]))
    insert_attention(first, "base_model.model.stem")
    with pytest.raises(ModelError, match="was replaced by Conv2d"):
        first.merge_and_unload()(IMAGES)


# Opacus


def each_gradient(model):
    found = {name: [] for name, _ in model.named_parameters()}
    for image, label in zip(IMAGES, LABELS, strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()
        for name, parameter in model.named_parameters():
            found[name].append(parameter.grad.clone())
    return {name: torch.stack(grads) for name, grads in found.items()}


PRIVATE = {
    "wrapped": wrapped,
    "block": lambda: wrapped(block=partial(SoftAttentionBlock, drop_rate=0.0)),
    "authors'": lambda: wrapped(block=KerasSoftAttention),
    "inserted": inserted,
    "inserted block": lambda: inserted(block=SoftAttention),
}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("name", PRIVATE)
def test_gradients_of_each_sample_by_opacus(name):
    opacus = pytest.importorskip("opacus", reason="pip install opacus")
    model = PRIVATE[name]()
    expected = each_gradient(copy.deepcopy(model))
    private = opacus.GradSampleModule(model)
    F.cross_entropy(private(IMAGES), LABELS).backward()
    for parameter, (key, gradients) in zip(private.parameters(), expected.items(), strict=True):
        torch.testing.assert_close(parameter.grad_sample, gradients, msg=key, atol=1e-5, rtol=1e-4)


def test_opacus_and_attention_after_a_layer_with_parameters():
    opacus = pytest.importorskip("opacus", reason="pip install opacus")
    private = opacus.GradSampleModule(inserted("stem"))
    with pytest.warns(
        UserWarning, match="a backward hook of Conv2d, .* such as Opacus, gets wrong"
    ):
        private(IMAGES)


def test_opacus_replaces_norms_around_attention():
    validators = pytest.importorskip("opacus.validators", reason="pip install opacus")
    net = nn.Sequential(Body(), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()
    model = insert_attention(net, ["0.block", "3"], gamma=5.0)
    fixed = validators.ModuleValidator.fix(model).eval()
    assert isinstance(fixed[1], nn.GroupNorm)
    assert len(maps_of(fixed)) == 2
    attended = fixed(IMAGES)
    assert not torch.allclose(remove_attention(fixed)(IMAGES), attended)


# accelerate


@pytest.fixture
def accelerate():
    return pytest.importorskip("accelerate", reason="pip install accelerate")


TOOLS = {
    "CPU": lambda a, model, folder: a.cpu_offload(model, execution_device="cpu"),
    "buffers too": lambda a, model, folder: a.cpu_offload(
        model, execution_device="cpu", offload_buffers=True
    ),
    "disk": lambda a, model, folder: a.disk_offload(model, folder, execution_device="cpu"),
    "dispatched": lambda a, model, folder: a.dispatch_model(
        model,
        {n: "disk" if i % 2 else "cpu" for i, (n, _) in enumerate(model.named_children())},
        main_device="cpu",
        offload_dir=folder,
        force_hooks=True,
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_offloaded_attention(build, tool, accelerate, tmp_path):
    model = build().eval()
    expected, maps = model(IMAGES), maps_of(model)
    offloaded = TOOLS[tool](accelerate, model, tmp_path)
    assert any(parameter.is_meta for parameter in offloaded.parameters())
    assert torch.equal(offloaded(IMAGES), expected)
    assert all(map(torch.equal, maps_of(offloaded), maps))


@pytest.mark.parametrize("tool", TOOLS)
def test_attention_in_an_offloaded_model(tool, accelerate, tmp_path):
    net = Net().eval()
    expected = net(IMAGES)
    offloaded = TOOLS[tool](accelerate, copy.deepcopy(net), tmp_path)
    insert_attention(offloaded, ["stem", "block"], num_maps=2)
    assert torch.equal(offloaded(IMAGES), expected)
    insert_attention(net, ["stem", "block"], num_maps=2)
    for name in ("stem", "block.1"):
        attention = offloaded.get_submodule(f"{name}.soft_attention")
        nn.init.constant_(attention.gamma, 5.0)
        net.get_submodule(f"{name}.soft_attention").load_state_dict(attention.state_dict())
    assert torch.equal(offloaded(IMAGES), net(IMAGES))
    assert torch.equal(remove_attention(offloaded)(IMAGES), expected)
    offloaded = TOOLS[tool](accelerate, Body().eval(), tmp_path / "body")
    assert maps_of(wrap_backbone(offloaded, 3, input_size=24))[0].shape == (4, 16, 5, 5)


def test_a_checkpoint_that_is_dispatched(build, accelerate, tmp_path):
    model = build().eval()
    checkpoint = str(tmp_path / "model.pth")  # accelerate takes no Path
    torch.save(model.state_dict(), checkpoint)
    with accelerate.init_empty_weights():
        empty = build().eval()
    assert all(parameter.is_meta for parameter in empty.parameters())
    dispatched = accelerate.load_checkpoint_and_dispatch(
        empty, checkpoint, device_map={"": "disk"}, offload_folder=tmp_path / "offloaded"
    )
    assert torch.equal(dispatched(IMAGES), model(IMAGES))
