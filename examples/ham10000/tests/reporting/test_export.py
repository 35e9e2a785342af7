import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import ranks
import torch
from making import store_evaluation
from softattn.hub import from_pretrained
from torch import Tensor

from ham10000.cli import main
from ham10000.data import CLASS_NAMES, CLASSES, open_folder
from ham10000.errors import ArgumentError, ExportError, MissingPackageError
from ham10000.models import build_model
from ham10000.recipe import make_recipe
from ham10000.reporting import export
from ham10000.reporting.export import ExportFormat, export_run
from ham10000.training import open_run, train

FILES = {"hub": "model.safetensors", "onnx": "model.onnx", "torch-export": "model.pt2"}


@pytest.fixture(scope="module")
def timm_run(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with a model of timm, which took seconds."""
    out = tmp_path_factory.mktemp("export") / "run"
    recipe = make_recipe(
        {
            "name": "resnet",
            "data": {"root": str(synthetic), "size": 64, "epoch_samples": 32, "workers": 0},
            "model": {"backbone": "timm:test_resnet", "mean": [0.4, 0.5, 0.6]},
            "attention": {"layer": "soft", "block": "paper", "num_maps": 2, "pool": 1},
            "training": {"epochs": 1, "batch_size": 16, "tta": 2},
            "logging": {"tensorboard": False},
        }
    )
    assert ranks.run(train, recipe, out) == [0]
    return out


def load(folder: Path, to: ExportFormat) -> Callable[[Tensor], npt.NDArray[np.float32]]:
    """Load an exported model with the means of its format."""
    if to == "hub":
        model = from_pretrained(folder)
        return lambda x: model(x).softmax(1).detach().numpy()
    if to == "torch-export":
        program = torch.export.load(folder / "model.pt2").module()
        return lambda x: program(x)[0].detach().numpy()
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return lambda x: session.run(["probabilities"], {"images": x.numpy()})[0]


@pytest.fixture(scope="module", params=list(FILES))
def exported(
    request: pytest.FixtureRequest, timm_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ExportFormat]:
    to = request.param
    out = tmp_path_factory.mktemp("export") / to
    assert main(["export", str(timm_run), "--to", to, "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"README.md", "config.json", FILES[to]}
    return out, to


def compare(timm_run: Path, exported: tuple[Path, ExportFormat], images: list[Path]) -> None:
    run, model = open_run(timm_run), load(*exported)
    expected = run.predict_images(images, tta=1).to_numpy()
    assert model(run.preprocess(images)) == pytest.approx(expected, abs=1e-4)
    assert model(run.preprocess(images[:1])) == pytest.approx(expected[:1], abs=1e-4)


def test_the_exported_model_computes_the_same(
    timm_run: Path, exported: tuple[Path, ExportFormat], synthetic: Path
) -> None:
    compare(timm_run, exported, open_folder(synthetic).paths()[:9])


def test_the_exported_model_computes_the_same_on_real_images(
    timm_run: Path, exported: tuple[Path, ExportFormat], real: Path
) -> None:
    compare(timm_run, exported, open_folder(real).paths()[::1000])


def test_the_code_of_the_card_runs(
    timm_run: Path,
    exported: tuple[Path, ExportFormat],
    synthetic: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder, _ = exported
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    monkeypatch.chdir(copy)
    image = open_folder(synthetic).paths()[0]
    shutil.copy(image, "photo.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", (copy / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("print(", "found = ("), names)
    expected = open_run(timm_run).predict_images(image, tta=1).iloc[0]
    assert tuple(names["found"]) == CLASSES
    # Pillow and torchvision resize to values that differ by a grey level.
    assert list(names["found"].values()) == pytest.approx(expected.to_list(), abs=5e-3)


def test_the_card_and_the_configuration(
    timm_run: Path, exported: tuple[Path, ExportFormat]
) -> None:
    folder, to = exported
    card = " ".join((folder / "README.md").read_text().split())
    for text in (
        "license: other",
        "**This is not a medical device.**",
        "# resnet: a classifier of skin lesions",
        "`timm:test_resnet` with the attention `soft`, trained on synthetic data",
        "resize it to 64 x 64 pixels",
        "subtract the mean [0.4, 0.5, 0.6]",
        "| 4 | mel | melanoma |",
        "No metrics with confidence intervals were stored",
        "images are synthetic and do not resemble real skin",
    ):
        assert text in card
    stored = json.loads((folder / "config.json").read_text())
    assert stored["preprocessing"] == {
        "input_size": [3, 64, 64],
        "mean": [0.4, 0.5, 0.6],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "label_names": list(CLASSES),
        "label_descriptions": CLASS_NAMES,
    }
    if to != "hub":
        assert stored["outputs"] == ["probabilities", "maps"]


def test_the_card_has_the_metrics_of_an_evaluation(timm_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(timm_run, tmp_path / "run"))
    store_evaluation(copy)
    (copy / "split.csv").write_text(
        (copy / "split.csv").read_text().replace("ISIC_9000", "ISIC_0025")
    )
    run = open_run(copy)
    card = export._card(run, "onnx")
    assert "license: cc-by-nc-4.0" in card
    assert "HAM10000 is published under CC BY-NC 4.0" in card
    assert "| accuracy | 0.250 | 0.125 to 0.500 |" in card
    assert "Brier" not in card, "undefined metrics are left out"
    assert "Predictions are means over 2 views of an image; this model computes one." in card


def recipe_with(**parts: dict[str, object]) -> Any:
    model = {"backbone": "timm:test_resnet", **parts.pop("model", {})}
    return make_recipe({"name": "x", "data": {"size": 64}, "model": model, **parts})


@pytest.mark.parametrize(
    "attention",
    [
        {"layer": "none"},
        {"layer": "soft", "num_maps": 3, "kernel_size": 1, "gamma": None, "concat": True},
        {"layer": "soft", "gamma": "uniform", "aggregate": False, "num_maps": 2},
        {"layer": "placebo", "block": "paper", "pool": 3},
        {"layer": "keras", "num_maps": 4},
        {"layer": "cbam"},
    ],
    ids=lambda attention: attention["layer"],
)
@pytest.mark.parametrize("head", ["pool", "flatten"])
def test_models_are_built_again_from_names(attention: dict[str, object], head: str) -> None:
    recipe = recipe_with(attention=attention, model={"head": head})
    model = build_model(recipe).eval()
    again = export._from_name(recipe, model, "exporting")
    assert not again.training
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"model": {"backbone": "ham10000:tiny"}}, "found backbone ham10000:tiny. Use --to onnx"),
        ({"model": {"head": "max"}}, "with the heads pool and flatten, found max. Use --to onnx"),
        ({"model": {"activation": "relu"}}, "cannot store the activation relu"),
        ({"attention": {"layer": "keras", "block": "paper"}}, "cannot store keras in the paper's"),
    ],
)
def test_what_the_hub_cannot_build_is_refused(
    parts: dict[str, dict[str, object]], message: str
) -> None:
    recipe = recipe_with(**parts)
    with pytest.raises(ExportError, match=message):
        export._from_name(recipe, build_model(recipe), "exporting")


def test_what_cannot_be_exported_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, out = open_run(run), tmp_path / "out"
    with pytest.raises(ExportError, match="with the heads pool and flatten"):
        export_run(opened, "hub", out)
    monkeypatch.setattr(export, "TOLERANCE", -1)
    with pytest.raises(ExportError, match="of the exported model differs by"):
        export_run(opened, "torch-export", out)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'softattn\[onnx\]'"):
        export_run(opened, "onnx", out)
    opened.recipe = replace(opened.recipe, data=replace(opened.recipe.data, metadata=True))
    with pytest.raises(ExportError, match="also needs metadata of each image"):
        export_run(opened, "onnx", out)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ArgumentError, match="exists already and isn't an empty folder"):
        export_run(open_run(run), "torch-export", run)
