import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from softattn import ArgumentError, ArgumentTypeError, wrap_backbone
from softattn.models.param_groups import decays, layer_ids

timm = pytest.importorskip("timm", reason="needs softattn[timm]")
optim = pytest.importorskip("timm.optim")


@pytest.fixture(params=["test_vit", "test_resnet", "torchvision:shufflenet_v2_x0_5"])
def model(request):
    return wrap_backbone(request.param, 3)


def settings(model, groups):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }


def test_each_parameter_is_in_one_group(model):
    groups = model.param_groups(lr=0.1, head_lr_scale=10, weight_decay=0.05, layer_decay=0.5)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())
    torch.optim.AdamW(groups)


def test_what_decays():
    found = settings(m := wrap_backbone("test_vit", 3), m.param_groups(lr=1, weight_decay=0.5))
    without = {name for name, (_, decay) in found.items() if decay == 0}
    assert {"backbone.model.pos_embed", "backbone.model.cls_token", "attention.gamma"} < without
    assert {"attention.bias", "head.fc.bias", "backbone.model.norm.weight"} < without
    decaying = set(found) - without
    assert {"attention.weight", "head.fc.weight", "backbone.model.blocks.0.attn.qkv.weight"} < (
        decaying
    )
    assert all(name.endswith("weight") for name in decaying)


def test_parametrized_filters_decay():
    model = nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), spectral_norm(nn.Linear(4, 2)))
    decaying = {name for name, parameter in model.named_parameters() if decays(name, parameter)}
    assert decaying == {
        "0.parametrizations.weight.original0",
        "0.parametrizations.weight.original1",
        "1.parametrizations.weight.original",
    }


def test_rates_fall_towards_the_input(model):
    found = settings(model, model.param_groups(lr=1.0, head_lr_scale=10, layer_decay=0.5))
    rates = [rate for name, (rate, _) in found.items() if name.startswith("backbone.")]
    assert max(rates) == 1.0
    assert min(rates) < 0.2
    assert {rate for name, (rate, _) in found.items() if not name.startswith("backbone.")} == {10.0}


def test_frozen_parameters_are_left_out(model):
    model.freeze_backbone()
    found = settings(model, model.param_groups(lr=1.0))
    assert {name.partition(".")[0] for name in found} == {"attention", "head"}


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_timms_factory_agrees(model, layer_decay):
    optimizer = optim.create_optimizer_v2(
        model, opt="sgd", lr=1.0, weight_decay=0.05, layer_decay=layer_decay
    )
    timms = {
        id(parameter): (group.get("lr_scale", 1.0), group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    # timm counts attention and head as one more layer, at the full rate; here `lr` is the
    # backbone's last layer's.
    own = model.param_groups(
        lr=layer_decay or 1.0,
        head_lr_scale=1 / (layer_decay or 1.0),
        weight_decay=0.05,
        layer_decay=layer_decay or 1.0,
    )
    for group in own:
        for parameter in group["params"]:
            assert timms[id(parameter)] == pytest.approx((group["lr"], group["weight_decay"]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"lr": "fast"}, ArgumentTypeError, "making parameter groups: lr must be a finite number"),
        ({"lr": -1}, ArgumentError, "lr must be at least 0, found -1"),
        ({"lr": 1, "head_lr_scale": -2.0}, ArgumentError, "head_lr_scale must be at least 0"),
        ({"lr": 1, "weight_decay": -0.1}, ArgumentError, "weight_decay must be at least 0"),
        ({"lr": 1, "layer_decay": 1.5}, ArgumentError, "layer_decay must be between 0 and 1"),
    ],
)
def test_bad_arguments(model, arguments, error, message):
    with pytest.raises(error, match=message):
        model.param_groups(**arguments)


def test_layers_of_a_model_without_a_group_matcher():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2))
    assert list(layer_ids(model).values()) == [0, 0, 0, 0, 1, 1]


def test_layers_without_timm(monkeypatch):
    model = timm.create_model("test_resnet")
    monkeypatch.setitem(__import__("sys").modules, "timm.models", None)
    ids = layer_ids(model)
    assert ids["conv1.0.weight"] == 0
    assert ids["layer1.0.conv1.weight"] < ids["layer2.0.conv1.weight"] < ids["fc.weight"]
