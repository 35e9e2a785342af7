import sys

import pytest
import torch
import torchvision

from softattn import (
    ArgumentError,
    ArgumentTypeError,
    MissingExtraError,
    ModelError,
    WeightsError,
    wrap_backbone,
)
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


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("timm:test_efficientnet", {"act_layer": "nope"}),
        ("timm:test_vit", {"img_size": 161, "patch_size": 0}),
        ("torchvision:vit_b_32", {"image_size": 33}),
    ],
)
def test_values_that_the_model_does_not_take(name, arguments):
    with pytest.raises(ArgumentError, match=rf"building {name} with .*: the library raises "):
        load_model(name, kwargs=arguments)


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:resnet18"])
def test_arguments_that_the_model_does_not_take(name):
    with pytest.raises(ArgumentTypeError, match=rf"building {name} with .*colour.*"):
        load_model(name, kwargs={"colour": 3})


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("torchvision:resnet18", r"pretrained=True .*\.get_model\('resnet18', weights=\.\.\.\)\."),
        ("resnet18", r"pretrained=True, with the tag .*'torchvision:resnet50'\."),
    ],
)
def test_the_argument_weights_of_torchvision(name, remedy):
    with pytest.raises(ArgumentTypeError, match=f"weights= is an argument of torch.* {remedy}"):
        wrap_backbone(name, num_classes=7, weights="IMAGENET1K_V2")


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


def test_a_model_type_of_transformers_is_built_from_its_configuration():
    transformers = pytest.importorskip("transformers", reason="needs softattn[transformers]")
    with torch.device("meta"):
        named = load_model("transformers:convnext", kwargs={"depths": [1, 1, 1, 1]})
    assert isinstance(named.model, transformers.ConvNextForImageClassification)
    assert (named.name, dict(named.kwargs)) == ("transformers:convnext", {"depths": [1, 1, 1, 1]})
    # The default interpolation differs between versions of transformers.
    assert {key: x for key, x in named.pretrained_cfg.items() if key != "interpolation"} == {
        "architecture": "convnext",
        "input_size": (3, 224, 224),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "crop_pct": 0.875,
    }
    assert named.pretrained_cfg["interpolation"] in ("bilinear", "bicubic")


def test_a_folder_of_transformers_is_read_with_and_without_its_weights(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs softattn[transformers]")
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    theirs = transformers.ResNetModel(transformers.ResNetConfig(**sizes, layer_type="basic"))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.fill_(0.25)
    theirs.save_pretrained(tmp_path)
    name = f"transformers:{tmp_path}"
    for pretrained in (True, False):
        named = load_model(name, pretrained)
        weight = named.model.resnet.embedder.embedder.convolution.weight
        assert bool((weight == 0.25).all()) == pretrained
        assert named.name == "transformers:resnet"
        assert load_model(named.name, kwargs=named.kwargs).model.config.hidden_sizes == [8, 16]
    assert load_model(name, kwargs={"num_channels": 1}).model.config.num_channels == 1


@pytest.mark.parametrize(
    ("name", "options", "kind", "message"),
    [
        ("vitt", {}, ArgumentError, r"no model type named 'vitt'.*only accessed with pre.*vit, "),
        ("google/vit", {}, ArgumentError, r"Repositories on .* only accessed with pretrained=True"),
        ("vit", {"pretrained": True}, ArgumentError, r"a model type has no weights. Pass the name"),
        ("bert", {}, ModelError, r"the main input of BertModel is input_ids, not images\.$"),
        ("llava", {}, ModelError, r"not images. Its part for images is transformers:clip_vision"),
        (
            "vit",
            {"kwargs": {"color": 3}},
            ArgumentTypeError,
            r"building transformers:vit with {'color': 3}: ViTConfig has no field 'color'",
        ),
        (
            "vit",
            {"kwargs": {"image_size": "wide"}},
            (ArgumentError, ArgumentTypeError, WeightsError),
            r"building transformers:vit.*image_size",
        ),
    ],
)
def test_names_of_transformers_that_build_nothing(name, options, kind, message):
    pytest.importorskip("transformers", reason="needs softattn[transformers]")
    with torch.device("meta"), pytest.raises(kind, match=message):
        load_model(f"transformers:{name}", **options)


def test_sizes_that_do_not_fit():
    pytest.importorskip("transformers", reason="needs softattn[transformers]")
    with pytest.raises(ModelError, match=r"building transformers:cvt: it raises IndexError: list"):
        load_model("transformers:cvt", kwargs={"depth": [1, 1, 1]})


def test_a_folder_without_a_configuration(tmp_path):
    pytest.importorskip("transformers", reason="needs softattn[transformers]")
    with pytest.raises(WeightsError, match=r"building transformers:/.*config\.json"):
        load_model(f"transformers:{tmp_path}", pretrained=True)


def test_a_backbone_that_would_be_downloaded_is_refused():
    pytest.importorskip("transformers", reason="needs softattn[transformers]")
    backbone = {"model_type": "timm_backbone", "backbone": "resnet18"}
    fields = {"backbone_config": {**backbone, "use_pretrained_backbone": True}}
    with torch.device("meta"), pytest.raises(ModelError, match=r"weights of another model over"):
        load_model("transformers:dpt", kwargs=fields)


def test_without_transformers_its_models_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'softattn\[transformers\]'"):
        load_model("transformers:vit")


@pytest.mark.parametrize("name", ["r3d_18", "torchvision:swin3d_t", "timm:mvit_v2_s"])
def test_models_of_videos(name):
    bare = name.rpartition(":")[2]
    with pytest.raises(ArgumentError) as error:
        load_model(name)
    assert str(error.value) == (
        f"building {name}: it is a model of videos, and only models of images are supported. Build "
        f"it with torchvision.models.get_model({bare!r}), and use insert_attention."
    )
