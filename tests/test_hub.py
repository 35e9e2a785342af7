import json
import pickle
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from softattn import (
    ArgumentTypeError,
    MissingExtraError,
    ModelError,
    SoftAttention,
    SoftAttentionBlock,
    SoftAttentionClassifier,
    WeightsError,
    insert_attention,
    wrap_backbone,
)
from softattn.hub import from_pretrained, save_pretrained
from softattn.keras import KerasSoftAttention
from softattn.models import ClassifierHead

pytest.importorskip("timm", reason="needs softattn[timm]")
huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs softattn[hub]")
load_file = pytest.importorskip("safetensors.torch", reason="needs softattn[hub]").load_file

NAME = "timm:test_resnet"


def build(backbone: Any = NAME, **kwargs: Any) -> SoftAttentionClassifier:
    torch.manual_seed(0)
    return wrap_backbone(backbone, num_classes=3, **kwargs).eval()


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_pretrained(build(), folder)
    return folder


@pytest.fixture
def saved(saved_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved_once, tmp_path / "model"))


def change(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        (config if key in config else config["arguments"])[key] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"at": "layer3", "block": "se", "head": "flatten", "input_size": (3, 64, 64)},
        {"num_maps": 2, "drop_rate": 0.5, "in_chans": 1, "input_size": (1, 64, 64)},
        {"block": partial(SoftAttention, num_maps=2, kernel_size=(3, 1), gamma=None)},
        {"block": partial(SoftAttentionBlock, num_maps=4, pool=1, drop_rate=0.1)},
        {"block": KerasSoftAttention, "head": "flatten", "input_size": 64},
        {"block": torch.nn.Identity},
        {"backbone": "timm:test_vit", "img_size": 64},
        {"backbone": "torchvision:shufflenet_v2_x0_5"},
    ],
    ids=str,
)
def test_the_same_model_comes_back(options: dict[str, Any], tmp_path: Path) -> None:
    model = build(**options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(str(tmp_path))
    assert not loaded.training
    state = model.state_dict()
    assert list(loaded.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    x = torch.randn(1, options.get("in_chans", 3), 64, 64)
    assert torch.equal(loaded(x), model(x))


def test_what_is_in_the_folder(saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    config = json.loads((saved / "config.json").read_text())
    assert config["model"] == "softattn.SoftAttentionClassifier"
    assert config["arguments"]["backbone"] == NAME
    assert set(load_file(saved / "model.safetensors")) == set(build().state_dict())
    card = huggingface_hub.ModelCard.load(saved / "README.md")
    assert card.data.library_name == "softattn"
    assert card.data.pipeline_tag == "image-classification"
    assert "# timm:test_resnet with Soft-Attention, 3 classes" in card.text
    assert "| input | (3, 160, 160) |" in card.text


def test_a_card_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    save_pretrained(build(), tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize("number", [0, 9])
def test_another_number_of_classes(number: int, tmp_path: Path) -> None:
    model = build()
    model.reset_classifier(number)
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path)
    assert loaded.num_classes == number
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(x), model(x))


def test_a_head_of_a_function_cannot_be_stored(tmp_path: Path) -> None:
    model = build()
    model.reset_classifier(3, head=lambda c, n: ClassifierHead(c, n, drop_rate=0.5))
    with pytest.raises(ModelError):
        save_pretrained(model, tmp_path)


@pytest.mark.parametrize(("block", "gamma"), [(None, 0.01), ("se", "uniform")])
def test_a_config_without_gamma_is_of_when_it_was_always_a_hundredth(
    block: str | None, gamma: object, tmp_path: Path
) -> None:
    model = build(block=block) if block else build(gamma=0.01)
    save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["arguments"]["gamma"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = from_pretrained(tmp_path)
    assert loaded.wrap_arguments is not None
    assert loaded.wrap_arguments["gamma"] == gamma
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(x), model(x))


def test_half_precision_and_channels_last(tmp_path: Path) -> None:
    model = build().half().to(memory_format=torch.channels_last)
    save_pretrained(model, tmp_path)
    for key, value in from_pretrained(tmp_path).state_dict().items():
        assert torch.equal(value, model.state_dict()[key].to(value.dtype))


def test_saving_leaves_the_random_state_alone(tmp_path: Path) -> None:
    model, state = build(), torch.get_rng_state()
    save_pretrained(model, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_from_a_repository(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repo_id: str, filename: str, revision: str | None = None, **_: Any) -> str:
        asked.append((repo_id, filename, revision))
        return str(saved / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub.hub_mixin, "hf_hub_download", download)
    assert from_pretrained("someone/model", revision="v1").num_classes == 3
    assert asked == [
        ("someone/model", "config.json", "v1"),
        ("someone/model", "model.safetensors", "v1"),
    ]


def test_nothing_is_unpickled(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    from_pretrained(saved)
    (saved / "model.safetensors").unlink()
    torch.save(build().state_dict(), saved / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"it contains no model.safetensors. Weights in other"):
        from_pretrained(saved)


@pytest.mark.parametrize("source", ["checkpoint_path", "pretrained", "pretrained_cfg", "weights"])
def test_a_config_that_refers_to_weights_elsewhere(source: str, saved: Path) -> None:
    change(saved, **{source: "evil.bin"})
    with pytest.raises(
        WeightsError, match=f"weights outside the folder, with {source}. This is refused"
    ):
        from_pretrained(saved)


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:someone/model",
        "local-dir:{folder}",
        "timm:hf-hub:someone/model",
        "transformers:someone/model",
        "transformers:{folder}",
        "test_resnet",
        "",
    ],
)
def test_a_config_that_refers_to_a_backbone_elsewhere(
    name: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("built")

    monkeypatch.setattr("softattn.hub.wrap_backbone", refuse)
    change(saved, backbone=name.format(folder=saved))
    with pytest.raises(
        WeightsError,
        match=r"expected a backbone of timm:, torchvision: or transformers: \(model types\) in",
    ):
        from_pretrained(saved, local_files_only=True)


def test_a_backbone_from_elsewhere_is_not_saved(tmp_path: Path) -> None:
    model = build()
    assert model.wrap_arguments is not None
    model.wrap_arguments["backbone"] = "timm:hf-hub:someone/model"
    with pytest.raises(ModelError, match=r"built from 'timm:hf-hub:someone/model', and only names"):
        save_pretrained(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            lambda: build(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), input_size=8),
            "given a module",
        ),
        (lambda: build(block=lambda c: SoftAttention(c)), "a function as block or head"),
        (
            lambda: build(block=partial(SoftAttention, activation=torch.relu)),
            "arguments cannot be written as JSON: Object of type builtin",
        ),
        (
            lambda: build(act_layer=nn.SiLU),
            "arguments cannot be written as JSON: Object of type type is not",
        ),
        (lambda: insert_attention(build(), "backbone.model.layer3"), r"changed after .* 3 of its"),
    ],
)
def test_models_that_no_arguments_build(model: Any, text: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(ModelError, match=text) as raised:
        save_pretrained(model(), folder)
    assert "Save its state_dict instead: torch.save(model.state_dict(), path)." in str(raised.value)
    assert not folder.exists()


def test_another_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentTypeError, match=r"expected a SoftAttentionClassifier, found Linear"
    ):
        save_pretrained(nn.Linear(2, 2), tmp_path)


def truncate(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no weights")


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def write_other_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def write_other_bytes(folder: Path) -> None:
    (folder / "config.json").write_bytes(b'{"model": "\xff"}')


def nest_config(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (
            remove_config,
            "expected a .* with the config.json of a softattn.Soft.* found no config.json",
        ),
        (write_other_config, "found one without model"),
        (break_config, "not found as a folder that save_pretrained wrote"),
        (write_other_bytes, "not found as a folder that save_pretrained wrote.*codec"),
        (nest_config, "not found as a folder that save_pretrained wrote.*recursion"),
        (shutil.rmtree, "not found as a folder .*, and not available as a repository"),
        (truncate, "model.safetensors does not match config.json"),
        (partial(change, model="bert"), "found one with model='bert'"),
        (partial(change, num_maps=3), "does not match config.json: Error.* loading state_dict"),
        (
            partial(change, backbone="timm:test_resnat"),
            "cannot build the model of config.json: .*test_resnet",
        ),
        (
            partial(change, block={"class": "Linear", "arguments": {}}),
            "expected a name, or class and arguments with a class of SoftAttention, ",
        ),
        (
            partial(change, block={"class": "SoftAttention", "arguments": {"colour": 1}}),
            "block raises TypeError for 96 channels: .*colour",
        ),
        (partial(change, act_layer="nope"), "cannot build the model of config.json: .*'nope'"),
        (partial(change, colour="red"), "cannot build the model of config.json: .*colour"),
        (
            partial(change, arguments={}),
            "expected backbone and num_classes in the arguments of config.json, found {}",
        ),
        (
            partial(change, arguments={"backbone": 3, "num_classes": 3}),
            "expected backbone and num_classes in",
        ),
    ],
)
def test_files_that_do_not_fit(damage: Any, text: str, saved: Path) -> None:
    damage(saved)
    with pytest.raises(WeightsError, match=f"(?s)loading .*{text}"):
        from_pretrained(saved, local_files_only=True)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (partial(save_pretrained, build(), tmp_path), partial(from_pretrained, tmp_path)):
        with pytest.raises(MissingExtraError, match=r"pip install 'softattn\[hub\]'"):
            call()


def test_importing_it_imports_no_hub() -> None:
    code = "import sys, softattn.hub; sys.exit('huggingface_hub' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


TINY = {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8, "layer_type": "basic"}


def test_fields_of_a_configuration_that_refer_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs softattn[transformers]")
    save_pretrained(build("transformers:resnet", **TINY, input_size=32), tmp_path / "model")
    for field, value in {
        "hidden_act": "someone/kernel",
        "attn_implementation": "eager",
        "hidden_sizes": ["hf-hub:someone/model"],
        "depths": {"use_pretrained_backbone": True},
    }.items():
        folder = Path(shutil.copytree(tmp_path / "model", tmp_path / field))
        change(folder, **{field: value})
        with pytest.raises(WeightsError, match=f"outside the folder, with {field}. This is refu"):
            from_pretrained(folder, local_files_only=True)


def test_preprocessing_of_other_weights_is_kept(tmp_path: Path) -> None:
    model = build()
    model.pretrained_cfg["mean"] = (0.1, 0.2, 0.3)
    save_pretrained(model, tmp_path)
    assert from_pretrained(tmp_path).pretrained_cfg["mean"] == (0.1, 0.2, 0.3)


def test_names_of_classes_are_kept(tmp_path: Path) -> None:
    model = build()
    model.pretrained_cfg["label_names"] = ("mel", "nv", "bcc")
    model.pretrained_cfg["label_descriptions"] = {"mel": "melanoma"}
    model.pretrained_cfg["crop_mode"] = "squash"
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path).pretrained_cfg
    assert loaded["label_names"] == ("mel", "nv", "bcc")
    assert loaded["label_descriptions"] == {"mel": "melanoma"}
    assert loaded["crop_mode"] == "squash"
