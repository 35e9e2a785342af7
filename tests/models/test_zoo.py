import sys

import pytest
import torch
import torchvision

from softattn import ArgumentError, ArgumentTypeError, MissingExtraError
from softattn.models import load_model

timm = pytest.importorskip("timm", reason="needs softattn[timm]")


@pytest.mark.parametrize(
    ("given", "built"),
    [
        ("resnet18", "timm:resnet18"),
        ("timm:resnet18", "timm:resnet18"),
        ("resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
        ("torchvision:resnet18", "torchvision:resnet18"),
        ("shufflenet_v2_x0_5", "torchvision:shufflenet_v2_x0_5"),
    ],
)
def test_which_library_builds(given, built):
    with torch.device("meta"):
        named = load_model(given)
    assert named.name == built
    assert type(named.model).__module__.startswith(built.partition(":")[0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5o", r"building resnet5o: timm and torchvision have no model named .*resnet50"),
        ("timm:resnet5o", r"building timm:resnet5o: timm has no model named 'resnet5o'.*resnet50"),
        ("torchvision:resnet5o", r"torchvision has no classifier named 'resnet5o'.*resnet50"),
        ("shufflenet_v2_x05", r"no model named .* Closest: shufflenet_v2_x0_5"),
        (
            "resnet18.a1_in2k",
            r"resnet18 has no weights tagged 'a1_in2k'. Closest: resnet18.a1_in1k",
        ),
    ],
)
def test_names_that_exist_nowhere(name, message):
    with pytest.raises(ArgumentError, match=message):
        load_model(name)


def test_without_timm_torchvision_still_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert load_model("resnet18").name == "torchvision:resnet18"
    assert load_model("torchvision:resnet18").name == "torchvision:resnet18"


@pytest.mark.parametrize("name", ["timm:resnet18", "test_vit"])
def test_without_timm_its_models_say_what_to_install(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        MissingExtraError, match=r"needs timm, which.*pip install 'softattn\[timm\]'"
    ):
        load_model(name)


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:resnet18"])
def test_arguments_that_the_model_does_not_take(name):
    with pytest.raises(ArgumentTypeError, match=rf"building {name} with .*colour.*"):
        load_model(name, kwargs={"colour": 3})


def test_pretrained_goes_through_the_libraries_own_loading(monkeypatch):
    asked = []

    def create_model(name, pretrained, **kwargs):
        asked.append((name, pretrained, kwargs))
        return torch.nn.Identity()

    def get_model(name, weights, **kwargs):
        asked.append((name, weights, kwargs))
        return torch.nn.Identity()

    monkeypatch.setattr(timm, "create_model", create_model)
    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    load_model("test_resnet", pretrained=True, kwargs={"in_chans": 1})
    load_model("torchvision:resnet18", pretrained=True, kwargs={"width_per_group": 8})
    load_model("torchvision:resnet18")
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    assert asked == [
        ("test_resnet", True, {"in_chans": 1}),
        ("resnet18", weights, {"width_per_group": 8}),
        ("resnet18", None, {}),
    ]


def test_other_prefixes_are_timms_own(monkeypatch):
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **_: asked.append(name))
    load_model("hf-hub:someone/model")
    assert asked == ["hf-hub:someone/model"]


def test_torchvisions_preprocessing_in_timms_words():
    cfg = dict(load_model("torchvision:resnet18").pretrained_cfg)
    data = timm.data.resolve_data_config(pretrained_cfg=cfg)
    assert data["input_size"] == (3, 224, 224)
    assert data["crop_pct"] == 224 / 256
    assert data["interpolation"] == "bilinear"
    assert data["mean"] == (0.485, 0.456, 0.406)
