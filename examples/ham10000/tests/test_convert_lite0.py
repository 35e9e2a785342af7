import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch

SCRIPT = Path(__file__).parents[1] / "convert_lite0.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("convert_lite0", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def packaged(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights as the package has them: in the same order, under other names."""
    state = model.state_dict()
    kept = [value for name, value in state.items() if not name.endswith("num_batches_tracked")]
    return {f"layer{place}": value for place, value in enumerate(kept)}


def test_every_tensor_gets_its_name(script: ModuleType) -> None:
    model = timm.create_model(script.MODEL)
    converted = script.convert(packaged(model))
    assert list(converted) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(converted[name], value)


def test_tensors_of_another_model(script: ModuleType) -> None:
    with pytest.raises(ValueError, match="aren't of the shapes and in the order of timm's 247"):
        script.convert(packaged(timm.create_model("test_resnet")))
