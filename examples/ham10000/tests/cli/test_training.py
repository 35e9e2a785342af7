import sys
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
import yaml
from PIL import Image

from ham10000.cli import main
from ham10000.data import CLASSES
from ham10000.recipe import load_recipe, shipped_recipes
from ham10000.training import open_run


def test_recipes_are_listed_with_their_descriptions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["recipes"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for name, path in shipped_recipes().items():
        about = path.read_text().splitlines()[0]
        assert about.startswith("# ")
        (line,) = (line for line in text.splitlines() if line.split()[:1] == [name])
        assert about[2:] in line


def test_models_of_recipes_are_compared_in_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    arms = ["smoke", "smoke_sa", "smoke_placebo"]
    assert main(["recipes", *arms, "data.size=32", "attention.gamma=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("smoke")}
    assert list(rows) == arms
    assert " ".join(rows["smoke"]) == "7,264 0 231 32x4x4 1 0 0"
    assert rows["smoke_placebo"][:4] == ["7,264", "1", "+", "4,624"]


@pytest.mark.parametrize("option", ["--print_config", "--print-config"])
def test_a_recipe_is_printed_with_overrides(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["lite0_sa", "data.size=64", "--seed", "3", "--max-minutes", "2", "--profile", "4"]
    assert main(["train", *arguments, option]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["name"], printed["seed"], printed["data"]["size"]) == ("lite0_sa", 3, 64)
    assert printed["training"]["max_minutes"] == 2
    assert printed["logging"]["profile"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a recipe and --out, or --resume alone"),
        (["smoke"], "expected a recipe and --out, or --resume alone"),
        (["smoke", "--resume", "run"], "expected a recipe and --out, or --resume alone"),
        (["--resume", "run", "--out", "run"], "expected a recipe and --out, or --resume alone"),
        (["smoke", "--out", "run", "--processes", "0"], "--processes must be at least 1, found 0"),
        (["--resume", "run", "--replace"], "--replace is for a recipe and --out"),
        (["--print-config"], "its name or file is missing"),
        (["smok", "--out", "run"], "there is no recipe or file of this name. Closest: smoke"),
        (["--resume", "nowhere"], "nowhere"),
    ],
)
def test_contradicting_arguments_are_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_train_passes_its_arguments_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["ham10000.cli.training"]
    calls: list[tuple[str, object]] = []
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(module, "train_run", lambda recipe, out: calls.append((recipe, out)) or 75)
    monkeypatch.setattr(module, "find_run", lambda path: path)
    monkeypatch.setattr(module, "print_run", lambda run: calls.append(("printed", run)))
    assert main(["train", "smoke", "--out", str(tmp_path), "training.epochs=3"]) == 75
    assert calls == [(load_recipe("smoke", ["training.epochs=3"]), tmp_path), ("printed", tmp_path)]
    monkeypatch.setattr(module, "launch", lambda *arguments: calls.append(arguments) or 0)
    monkeypatch.setenv("HAM10000_DIR", str(tmp_path))
    out = tmp_path / "two"
    assert main(["train", "smoke", "--out", str(out), "--processes", "2", "--elastic"]) == 0
    (run, processes, restarts), printed = calls[2:]
    assert (run.path, processes, restarts) == (out, 2, 3)
    assert printed == ("printed", out)
    assert (out / "recipe.yaml").exists()


def test_a_frozen_recipe_needs_no_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "frozen_sa", "--out", str(tmp_path / "run"), "--processes", "2"]
    assert main(arguments) == 1
    assert "trained in this process. Leave out --processes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_features(synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "tiny.pth")
    arguments = ["features", "frozen", "--out", str(tmp_path / "features"), "data.size=64"]
    arguments += [f"data.root={synthetic}", "model.backbone=timm:test_resnet"]
    assert main([*arguments, f"model.weights={tmp_path / 'tiny.pth'}"]) == 0
    assert "280 x 96 x 2 x 2 float16" in " ".join(capsys.readouterr().out.split())
    assert main([*arguments, "model.weights=null"]) == 1
    assert "has no pretrained weights" in capsys.readouterr().err


def test_predict(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    trained = open_run(run).split_table.query("split == 'train'")["image_id"].iloc[0]
    for name in (f"{'long_name_' * 6}.png", "[bold].jpg", f"{trained}.jpg"):
        Image.effect_noise((40, 30), 60).convert("RGB").save(tmp_path / "photos" / name)
    arguments = ["predict", str(run), "photos", "photos/*.jpg", "--csv", "table.csv"]
    assert main([*arguments, "--out", "figures"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    table = pd.read_csv("table.csv", keep_default_na=False)
    assert table.columns.tolist() == ["file", "prediction", "split", *CLASSES]
    assert table["split"].tolist() == ["train", "", ""]
    found = open_run(run).predict_images(table["file"].tolist())
    assert table[list(CLASSES)].to_numpy() == pytest.approx(found.to_numpy(), abs=2e-5)
    assert table["prediction"].tolist() == found.idxmax(axis=1).tolist()
    (row,) = (line for line in lines if line.startswith("[bold].jpg"))
    ranked = found.iloc[1].sort_values(ascending=False)
    second = f"{ranked.index[1]} ({ranked.iloc[1]:.3f})"
    assert row.split() == ["[bold].jpg", ranked.index[0], f"{ranked.iloc[0]:.3f}", *second.split()]
    text = " ".join(lines)
    assert f"Training image of the run: photos/{trained}.jpg." in text
    assert "trained on synthetic images" in text
    assert "not a medical device" in text
    assert len(list((tmp_path / "figures").glob("*.png"))) == 3


@pytest.mark.filterwarnings("error::FutureWarning")
def test_predict_writes_empty_splits_of_other_images_without_a_warning(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.jpg")
    assert main(["predict", str(run), "a.jpg", "--csv", "table.csv"]) == 0
    assert pd.read_csv("table.csv", keep_default_na=False)["split"].tolist() == [""]
    # The folder is the title of the table, unless it is the working directory.
    assert not any(line.strip() == "." for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (["nowhere.jpg"], "predicting nowhere.jpg: there is no such file"),
        (["empty"], "opening empty: there are no JPEG or PNG files"),
        (["a.jpg", "--out", "."], "the images are there too"),
    ],
)
def test_predict_refuses(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    places: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (8, 8)).save("a.jpg")
    assert main(["predict", str(run), *places]) == 1
    assert message in capsys.readouterr().err
