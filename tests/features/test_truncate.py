import copy
import pickle
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from softattn import ModelError, find_backbone
from softattn.features.truncate import truncate, truncate_to_module


class Norm(nn.BatchNorm2d):
    """Norm that contains a module, like timm's norms."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop = nn.Identity()

    def forward(self, x):
        if self.training:
            self.num_batches_tracked.add_(1)
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training
        )
        return F.relu(self.drop(x))


class Network(nn.Module):
    """Modules of several kinds before and after `norm`."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True))
        self.norm = Norm(4)
        self.aux = nn.Linear(4, 2)
        self.unused = nn.Linear(4, 2)
        self.fc = nn.Linear(4, 2)

    def forward(self, x, scale=None, flag=False):
        if scale is not None and flag:
            x = x * scale
        x = self.conv(x)
        x.mul_(2)
        x = F.dropout(x, 0.5, self.training)
        x = self.norm(self.block(x))
        auxiliary = self.aux(x.mean((2, 3))) if self.training else None
        scores = self.fc(x.mean((2, 3)))
        return (scores, auxiliary) if self.training else scores


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 8)


def output_of(model, name, x):
    found = []
    # A copy at once: what comes after may change it in place.
    handle = model.get_submodule(name).register_forward_hook(
        lambda module, args, output: found.append(output.clone())
    )
    model(x)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("name", ["conv", "block", "block.0", "norm", "norm.drop"])
def test_it_computes_what_the_model_computes_there(network, x, name):
    assert torch.equal(truncate(network, name)(x), output_of(network, name, x))


def test_a_change_in_place_before_the_point_is_kept(network, x):
    assert torch.equal(truncate(network, "dropout")(x), 2 * network.conv(x))


CHANGES_OF_A_VIEW = {
    "view of a module": lambda model, y: model.relu(model.flatten(y)),
    "module": lambda model, y: model.relu(y[:, :2]),
    "function": lambda model, y: F.relu(y[:, :2], inplace=True),
    "name with an underscore": lambda model, y: torch.relu_(y[:, :2]),
    "method": lambda model, y: y[:, :2].relu_(),
}


@pytest.mark.parametrize("kind", CHANGES_OF_A_VIEW)
def test_a_change_in_place_of_a_view_is_kept(kind):
    class Changes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)
            self.last, self.flatten = nn.Conv2d(4, 4, 1), nn.Flatten()

        def forward(self, x):
            y = self.conv(x)
            CHANGES_OF_A_VIEW[kind](self, y)
            return self.last(y)

    torch.manual_seed(0)
    model, images = Changes().eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(truncate(model, "last")(images), model(images))


DRAWS = {
    "torch": lambda: torch.rand(()).item(),
    "random": random.random,
    "NumPy": lambda: np.random.rand(),  # a copy of the function has other numbers
}


class Drops(nn.Module):
    """Layer dropping in the forward of the model."""

    def __init__(self, draw, rate=0.5):
        super().__init__()
        self.draw, self.rate = draw, rate
        self.stem, self.pool = nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1)
        self.blocks = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(2))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            if not (self.training and self.draw() < self.rate):
                x = x + block(x)
        return self.pool(x)


@pytest.mark.parametrize("draw", DRAWS)
def test_random_numbers_that_a_trace_would_repeat_are_refused(draw):
    model = Drops(DRAWS[draw])
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    with pytest.raises(ModelError, match="repeat the random numbers that its forward draws"):
        find_backbone(model, input_size=32)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])


def test_without_random_numbers_a_model_is_traced_once(monkeypatch):
    monkeypatch.setattr("softattn.features.truncate._depends_on_seed", None)
    truncate(torchvision.models.resnet18(), "layer3")  # would call None


def test_random_constants_after_the_point_are_not_refused():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            return self.stem(x) + torch.randn(1, 8, 1, 1)

    model, x = Noisy(), torch.randn(2, 3, 8, 8)
    assert torch.equal(truncate(model, "stem")(x), model.stem(x))
    with pytest.raises(ModelError, match="repeat the random numbers"):
        truncate(model, "add")


def test_random_numbers_without_effect_are_not_refused():
    x = torch.randn(2, 3, 32, 32)
    for model, at in ((Drops(DRAWS["torch"], rate=0.0), None), (Drops(DRAWS["torch"]), "stem")):
        expected = output_of(model.eval(), at or "pool", x)
        found = find_backbone(model, at=at, input_size=32)(x)
        assert torch.allclose(found.mean((2, 3)), expected.mean((2, 3)), atol=1e-6)


def test_a_branch_that_the_point_does_not_need_is_left_out():
    model = torchvision.models.squeezenet1_1()
    backbone = find_backbone(model, at="features.12.expand3x3", input_size=64)
    assert not [name for name in backbone.state_dict() if "12.expand1x1" in name]
    assert all(parameter.requires_grad for parameter in model.parameters())


CHANGES_IN_PLACE = {
    "module": lambda model, y: model.relu(y),
    "function": lambda model, y: F.relu(y, inplace=True),
    "positional argument": lambda model, y: F.relu(y, True),
    "keyword argument": lambda model, y: F.relu(input=y, inplace=True),
    "name with an underscore": lambda model, y: torch.relu_(y),
    "method": lambda model, y: y.relu_(),
}


@pytest.mark.parametrize("kind", CHANGES_IN_PLACE)
def test_a_change_in_place_whose_result_is_not_used_is_kept(kind):
    class Changes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)
            self.norm, self.fc = nn.BatchNorm2d(4), nn.Linear(4, 2)

        def forward(self, x):
            y = self.conv(x)
            CHANGES_IN_PLACE[kind](self, y)
            z = self.norm(y)
            CHANGES_IN_PLACE[kind](self, z)
            return self.fc(z.mean((2, 3)))

    torch.manual_seed(0)
    model, images = Changes().eval(), torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        expected = model.norm(model.conv(images).relu())
        assert torch.equal(truncate(model, "norm")(images), expected)
        assert torch.equal(find_backbone(model, input_size=8)(images), expected.relu())


def test_an_operator_whose_name_ends_with_an_underscore_changes_nothing():
    class Masks(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            y = self.conv(x)
            large = y > 0
            both = large & (y < 0.1)
            return self.conv.weight.sum() + y * large - both.float()

    torch.manual_seed(0)
    model, images = Masks().eval(), torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(truncate(model, "sub")(images), model(images))


def test_only_what_is_needed_is_kept(network):
    part = truncate(network, "norm.drop")
    state, whole = part.state_dict(), network.state_dict()
    assert set(state) == {name for name in whole if name.split(".")[0] in ("conv", "block", "norm")}
    assert all(state[name].data_ptr() == whole[name].data_ptr() for name in state)


def test_every_parameter_gets_a_gradient(network, x):
    part = truncate(network, "norm.drop").train()
    part(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in part.parameters())


def test_the_model_is_left_as_it_was(network, x):
    before = copy.deepcopy(network.state_dict())
    modes = {name: module.training for name, module in network.named_modules()}
    network.block.train()
    modes["block"] = modes["block.0"] = modes["block.1"] = True
    truncate(network, "norm.drop")
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {name: module.training for name, module in network.named_modules()} == modes


def test_training_is_another_graph(network, x):
    part = truncate(network, "norm.drop")
    assert not part.training
    assert torch.equal(part(x), part(x))
    part.train()
    assert not torch.equal(part(x), part(x))  # dropout
    assert part.norm.num_batches_tracked == 2
    assert network.norm.num_batches_tracked == 2


def test_auxiliary_heads_are_named(network):
    assert truncate(network, "norm").training_only == ("aux",)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_independent(network, x, again):
    part = truncate(network, "norm.drop")
    other = again(part)
    assert torch.equal(other(x), part(x))
    with torch.no_grad():
        other.conv.weight.zero_()
    assert not torch.equal(other(x), part(x))
    assert not torch.equal(other.train()(x), part(x))


def test_compile_and_export(network, x):
    part = truncate(network, "norm.drop")
    compiled = torch.compile(part, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), part(x))
    batch = torch.export.Dim("batch", max=4096)
    exported = torch.export.export(part, (x,), dynamic_shapes=({0: batch},)).module()
    assert torch.allclose(exported(x[:1].repeat(5, 1, 1, 1)), part(x[:1]).expand(5, -1, -1, -1))


def test_checkpointing_changes_no_gradient(network, x):
    network.eval()  # without dropout, whose order of random numbers is its own
    gradients = []
    for enable in (False, True):
        part = truncate(copy.deepcopy(network), "norm.drop")
        part.set_grad_checkpointing(enable)
        part(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in part.parameters()])
        saved = copy.deepcopy(part)
        assert torch.equal(saved(x), part(x))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_checkpointing_saves_less():
    block = [layer for _ in range(8) for layer in (nn.Conv2d(1, 1, 1), nn.Tanh())]
    model = nn.Sequential(nn.Sequential(*block), nn.ReLU(inplace=True))
    counts = []
    for enable in (False, True):
        part = truncate(model, "1")
        part.set_grad_checkpointing(enable)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda t: t):
            part(torch.ones(1, 1, 2, 2, requires_grad=True))
        counts.append(len(saved))
    assert counts[1] < counts[0]


def test_a_missing_module():
    with pytest.raises(
        ModelError,
        match=r"ResNet at 'layr3'.*there is no module or node of this name\. Closest: lay",
    ):
        truncate(torchvision.models.resnet18(), "layr3")


def test_a_module_that_is_not_called(network):
    message = (
        r"'unused': forward doesn't call this module, or not in both modes. The last modules.*fc"
    )
    with pytest.raises(ModelError, match=message):
        truncate(network, "unused")


def test_a_module_that_only_training_calls(network):
    with pytest.raises(
        ModelError, match=r"'aux': forward doesn't call this module, or not in both modes. The last"
    ):
        truncate(network, "aux")


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.inner = nn.Conv2d(4, 4, 3)

    def forward(self, x):
        x = self.conv(x)
        return self.inner(x) if x.sum() > 0 else x


def test_a_forward_that_cannot_be_traced():
    with pytest.raises(ModelError, match=r"Branching: its forward can't be traced \(TraceError"):
        truncate(Branching(), "inner")


class Numbered(nn.Module):
    """Modules whose names end like counts, one that is called twice, and one beside a function."""

    def __init__(self):
        super().__init__()
        self.conv_0 = nn.Conv2d(3, 4, 1)
        self.conv_1 = nn.Conv2d(4, 5, 1)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(5, 6, 1)

    def forward(self, x):
        x = F.relu(self.conv_0(x))
        return self.relu(self.conv(self.relu(self.conv_1(x))))


@pytest.mark.parametrize(
    ("at", "channels"),
    [("conv_0", 4), ("conv_1", 5), ("relu", 5), ("conv", 6), ("relu_1", 4), ("relu_2", 6)],
)
def test_names_that_end_in_numbers(at, channels):
    assert truncate(Numbered(), at)(torch.ones(1, 3, 2, 2)).shape[1] == channels


def test_control_flow_beside_the_way_does_not_matter():
    model = nn.Sequential(Branching(), nn.ReLU(), nn.Flatten())
    assert truncate(model, "1")(torch.ones(1, 3, 8, 8)).ndim == 4


def test_a_constant_of_the_forward_is_not_left_on_the_model():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x - torch.tensor([0.5]))

    model = Shifted().eval()
    attributes = set(vars(model))
    part = truncate(model, "conv")
    assert set(vars(model)) == attributes
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(part(x), model(x))
    assert torch.equal(copy.deepcopy(part)(x), model(x))


def test_the_model_is_in_its_mode_all_the_time():
    modes = []

    class Watched(nn.Sequential):
        def forward(self, x):
            modes.append(model[0].training)
            return super().forward(x)

    model = nn.Sequential(Watched(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.ReLU()).train()
    truncate(model, "0.0")
    assert len(modes) == 2
    assert all(modes)


def test_one_module_keeps_its_name_and_its_modes(network, x):
    part = truncate_to_module(network, "block")
    assert all(name.startswith("block.") for name in part.state_dict())
    x = network.conv(x)
    assert torch.equal(part(x), network.block(x))
    copied = pickle.loads(pickle.dumps(part))
    assert torch.equal(copied(x), network.block(x))
