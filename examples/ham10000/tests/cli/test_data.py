import json
from pathlib import Path

import pandas as pd
import pytest
from bad_files import leftovers

from ham10000.cli import main


def test_verify_prints_json(synthetic: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--data", str(synthetic), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["usable"] is True
    assert report["images"] == 280


def test_the_way_from_nothing_to_a_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    data, pairs = str(tmp_path / "set"), str(tmp_path / "pairs.csv")
    split, cache = str(tmp_path / "split.csv"), str(tmp_path / "cache")
    made = ["synthesize", "--out", data, "--images", "400", "--width", "40", "--seed", "3"]
    assert main(made) == 0
    assert main(["verify", "--data", data, "--pairs-out", pairs]) == 0
    assert main(["split", "--data", data, "--out", split, "--pairs", pairs]) == 0
    assert main(["prepare", "--data", data, "--size", "16", "--out", cache]) == 0
    assert main(["prepare", "--data", data, "--size", "16", "--out", cache]) == 0
    assert main(["augment-offline", "--data", data, "--split", split, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "Prepared" in printed
    assert "Nothing to do" in printed
    assert max(len(line) for line in printed.splitlines() if str(tmp_path) not in line) <= 80
    assert sorted(pd.read_csv(split).split.unique()) == ["test", "train", "val"]
    assert leftovers(tmp_path) == []


def test_the_data_folder_may_come_from_the_environment(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAM10000_DIR", str(synthetic))
    out = tmp_path / "kfold.csv"
    assert main(["split", "--out", str(out), "--protocol", "kfold", "--folds", "3"]) == 0
    assert sorted(pd.read_csv(out).fold.unique()) == [0, 1, 2]


def test_offline_augmentation_needs_a_place(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = str(tmp_path / "split.csv")
    paper = ["--protocol", "paper", "--data", str(synthetic)]
    assert main(["split", "--out", split, *paper]) == 0
    assert main(["augment-offline", "--data", str(synthetic), "--split", split]) == 1
    assert "--dry-run" in capsys.readouterr().err
