import copy
import pickle

import pytest
import torch
from torch import nn

from softattn import ModelError, SoftAttention, SoftAttentionBlock, SpatialAttention, capture_maps
from softattn.attention import observers
from softattn.keras import KerasSoftAttention


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.late = SoftAttentionBlock(8, 2)
        self.early = nn.Sequential(
            SoftAttention(8, 4), nn.ReLU(), KerasSoftAttention(8, 3, aggregate=True)
        )

    def forward(self, x):
        return self.late(self.early(self.stem(x)))


@pytest.fixture
def net():
    return Net().eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 7, 6)


NAMES = ["early.0", "early.2", "late.attention"]


def state_of(model):
    return {
        name: {key: repr(value) for key, value in vars(module).items()}
        for name, module in model.named_modules()
    }


def test_every_attention_by_name_in_the_order_of_the_pass(net, images):
    with capture_maps(net) as maps:
        assert not maps
        net(images)
    assert list(maps) == NAMES
    assert [tuple(values.shape) for values in maps.values()] == [
        (2, 4, 7, 6),
        (2, 3, 7, 6),
        (2, 2, 7, 6),
    ]
    torch.testing.assert_close(maps["early.0"], net.early[0](net.stem(images), return_maps=True)[1])


def test_features_are_what_they_were(net, images):
    before = net(images)
    with capture_maps(net):
        assert torch.equal(net(images), before)
    assert torch.equal(net(images), before)


def test_a_later_pass_replaces_an_earlier_one(net, images):
    with capture_maps(net) as maps:
        net(images)
        first = dict(maps)
        net(images[:1] + 1)
        assert list(maps) == NAMES
        assert all(len(values) == 1 for values in maps.values())
        assert all(len(values) == 2 for values in first.values())


def test_nothing_is_stored_and_nothing_stays(net, images):
    before = state_of(net)
    with capture_maps(net) as maps:
        net(images)
        assert state_of(net) == before
    assert state_of(net) == before
    assert not observers
    kept = dict(maps)
    net(images)
    assert all(maps[name] is kept[name] for name in NAMES)


def test_an_exception_leaves_nothing(net, images):
    net.late.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), capture_maps(net):
        net(images)
    assert not observers
    with pytest.raises(RuntimeError), capture_maps(net):
        net(torch.zeros(2, 5, 7, 6))
    assert not observers


def test_copies_made_inside_are_free(net, images):
    with capture_maps(net) as maps:
        twins = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
        for twin in twins:
            twin(images)
        assert not maps
    for twin in twins:
        with capture_maps(twin) as maps:
            twin(images)
        assert list(maps) == NAMES


def test_within_another(net, images):
    with capture_maps(net) as outer:
        with capture_maps(net.early) as inner:
            net(images)
        assert list(inner) == ["0", "2"]
        net(images + 1)
    assert list(outer) == NAMES
    assert not torch.equal(outer["early.0"], inner["0"])


def test_maps_carry_gradients(net, images):
    with capture_maps(net) as maps:
        net(images)
    maps["early.0"].square().sum().backward()
    assert net.stem.weight.grad.any()


def test_the_model_is_the_attention(images):
    attention = SoftAttention(3)
    with capture_maps(attention) as maps:
        attention(images)
    assert list(maps) == [""]


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("capture", [lambda net, compiled: net, lambda net, compiled: compiled])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_before(net, images, capture, backend):
    expected = net(images)
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    compiled(images)
    for _ in range(2):
        with capture_maps(capture(net, compiled)) as maps:
            torch.testing.assert_close(compiled(images), expected)
        assert list(maps) == NAMES
        kept = dict(maps)
        torch.testing.assert_close(compiled(images), expected)
        assert all(maps[name] is kept[name] for name in NAMES)
    torch.testing.assert_close(maps["early.0"], net.early[0](net.stem(images), return_maps=True)[1])


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_inside(net, images):
    with capture_maps(net) as maps:
        compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
        for shift in range(3):
            compiled(images + shift)
    assert list(maps) == NAMES
    kept = dict(maps)
    torch.testing.assert_close(compiled(images), net(images))
    assert all(maps[name] is kept[name] for name in NAMES)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_in_place(net, images):
    net.compile(fullgraph=True, backend="aot_eager")
    net(images)
    with capture_maps(net) as maps:
        net(images)
    assert list(maps) == NAMES


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_part(images):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), torch.compile(SoftAttention(8, 2), backend="eager"))
    with capture_maps(model) as maps:
        model(images)
    assert list(maps) == ["1"]


def test_an_attention_of_ones_own(images):
    class Uniform(SpatialAttention):
        def forward(self, x, return_maps=False):
            maps = torch.full_like(x[:, :1], 1 / x[0, 0].numel())
            return self.emit(x * maps, maps, return_maps)

    model = nn.Sequential(Uniform())
    with capture_maps(model) as maps:
        model(images)
    assert maps["0"].sum().item() == pytest.approx(2)


def test_a_model_without_attention():
    with pytest.raises(ModelError) as error, capture_maps(nn.Sequential(nn.ReLU())):
        pass
    assert str(error.value) == (
        "capturing attention maps: Sequential holds no attention module. Put a "
        "softattn.SoftAttention into it, or anything that derives from softattn.SpatialAttention."
    )
    assert isinstance(error.value, ValueError)
