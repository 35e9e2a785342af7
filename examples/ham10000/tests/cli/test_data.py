import json
from pathlib import Path

import pandas as pd
import pytest
from bad_files import leftovers

from ham10000.cli import main
from ham10000.data import open_cache


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--validation"], "--validation is for kfold, found --protocol lesion"),
        (["--test-share", "0.2"], "--test-share is for paper and paper_val, found"),
        (["--protocol", "paper", "--pairs", "pairs.csv"], "paper ignores duplicates"),
    ],
)
def test_options_of_other_protocols_are_refused(
    synthetic: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    out = tmp_path / "split.csv"
    assert main(["split", "--data", str(synthetic), "--out", str(out), *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_the_former_name_of_a_protocol_warns(
    synthetic: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "pairs.csv").write_text("lesion_id,other_lesion_id\n")
    for name in ("honest", "paper_val"):
        split = ["split", "--protocol", name, "--pairs", str(tmp_path / "pairs.csv")]
        split += ["--test-share", "0.2", "--data", str(synthetic)]
        assert main([*split, "--out", str(tmp_path / f"{name}.csv")]) == 0
        assert ("now called paper_val" in caplog.text) == (name == "honest")
        caplog.clear()
    assert (tmp_path / "honest.csv").read_bytes() == (tmp_path / "paper_val.csv").read_bytes()


def test_offline_augmentation_needs_a_place(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = str(tmp_path / "split.csv")
    paper = ["--protocol", "paper", "--data", str(synthetic)]
    assert main(["split", "--out", split, *paper]) == 0
    assert main(["augment-offline", "--data", str(synthetic), "--split", split]) == 1
    assert "--dry-run" in capsys.readouterr().err


def test_another_data_set_goes_the_same_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, split, cache = (str(tmp_path / name) for name in ("set", "split.csv", "cache"))
    made = ["--out", data, "--images", "48", "--width", "40", "--like", "isic2017"]
    assert main(["synthesize", *made]) == 0
    of = ["--data", data, "--set", "isic2017-keratosis"]
    assert main(["verify", *of]) == 0
    assert main(["split", *of, "--protocol", "published", "--out", split]) == 0
    assert main(["prepare", *of, "--size", "16", "--masks", "--out", cache]) == 0
    assert main(["explore", *of, "--out", str(tmp_path / "explored")]) == 0
    page = (tmp_path / "explored" / "explore.html").read_text()
    assert "seborrheic keratosis; " in page
    assert "CC0" in page
    assert open_cache(tmp_path / "cache").info.classes == ("other", "sk")
    rows = pd.read_csv(split)
    assert rows.split.value_counts().to_dict() == {"train": 31, "test": 11, "val": 6}
    capsys.readouterr()
    published = ["--protocol", "published", "--out", str(tmp_path / "no.csv")]
    assert main(["split", *of, *published, "--pairs", "pairs.csv"]) == 1
    assert "the protocol published ignores duplicates" in capsys.readouterr().err
    assert main(["verify", "--data", data, "--set", "isic2017"]) == 1
    assert "Closest: isic2019, isic2017-" in capsys.readouterr().err
