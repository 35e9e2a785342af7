import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from bad_files import leftovers

from ham10000 import cli


def test_a_refusal_is_one_line_without_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify", "--data", str(tmp_path / "nowhere")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ham10000: error: opening ")
    assert "ham10000 download" in captured.err
    assert captured.err.count("\n") == 1


def test_the_module_runs_as_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ham10000", "verify", "--data", str(tmp_path / "nowhere")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("ham10000: error:")


def test_arguments_that_do_not_parse_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["split", "--protocol", "papper"])
    assert stopped.value.code == 2
    assert "papper" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([name, "--help"])
    assert stopped.value.code == 0
    assert "class '" not in capsys.readouterr().out


def test_an_interruption_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "verify", interrupted)
    assert cli.main(["verify"]) == 130
    assert capsys.readouterr().err == "ham10000: interrupted\n"


def test_verify_prints_json(synthetic: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "--data", str(synthetic), "--json"]) == 0
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
    assert cli.main(made) == 0
    assert cli.main(["verify", "--data", data, "--pairs-out", pairs]) == 0
    assert cli.main(["split", "--data", data, "--out", split, "--pairs", pairs]) == 0
    assert cli.main(["prepare", "--data", data, "--size", "16", "--out", cache]) == 0
    assert cli.main(["prepare", "--data", data, "--size", "16", "--out", cache]) == 0
    assert cli.main(["augment-offline", "--data", data, "--split", split, "--dry-run"]) == 0
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
    assert cli.main(["split", "--out", str(out), "--protocol", "kfold", "--folds", "3"]) == 0
    assert sorted(pd.read_csv(out).fold.unique()) == [0, 1, 2]


def test_offline_augmentation_needs_a_place(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = str(tmp_path / "split.csv")
    paper = ["--protocol", "paper", "--data", str(synthetic)]
    assert cli.main(["split", "--out", split, *paper]) == 0
    assert cli.main(["augment-offline", "--data", str(synthetic), "--split", split]) == 1
    assert "--dry-run" in capsys.readouterr().err
