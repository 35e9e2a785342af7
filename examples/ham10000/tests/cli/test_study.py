from pathlib import Path
from typing import Any

import pytest

from ham10000.cli import main, study
from ham10000.data import DATA_VARIABLE, find_table, read_table
from ham10000.recipe import shipped_recipes
from ham10000.study import JobOptions


def test_study_takes_names_and_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(study, "run_study", lambda *args, **kw: calls.append((args, kw)) or {})
    monkeypatch.setattr(study, "print_study", lambda result: None)
    arguments = ["lite0", "lite0_sa", "--seeds", "0", "1", "--out", str(tmp_path), "data.size=64"]
    arguments += ["--control", "lite0_sa"]
    assert main(["study", *arguments]) == 0
    (((recipes, seeds, out), options),) = calls
    shipped = shipped_recipes()
    assert recipes == [shipped["lite0"], shipped["lite0_sa"]]
    assert (list(seeds), out) == ([0, 1], tmp_path)
    assert options["overrides"] == ["data.size=64"]
    assert (options["primary"], options["control"]) == ("auc_macro", "lite0_sa")
    assert f"ham10000 report {tmp_path}" in capsys.readouterr().out


def test_study_on_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(study, "run_study", lambda *args, **options: calls.append(options) or {})
    monkeypatch.setattr(study, "print_study", lambda result: None)
    arguments = ["lite0", "lite0_sa", "--seeds", "0", "1", "--out", str(tmp_path)]
    slurm = ["--partition", "gpu", "--timeout-min", "90", "--gpus-per-node", "1"]
    slurm += ["--cpus-per-task", "8", "--mem-gb", "32", "--sbatch", "--account=vision --qos=high"]
    assert main(["study", *arguments, "--launcher", "submitit", *slurm, "seed=3"]) == 0
    assert main(["study", *arguments, "--launcher", "submitit", "--sbatch", "account=vision"]) == 0
    assert main(["study", *arguments]) == 0
    assert [call["jobs"] for call in calls] == [
        JobOptions("gpu", 90, 1, 8, 32, "--account=vision --qos=high"),
        JobOptions(sbatch="account=vision"),
        None,
    ]
    assert main(["study", *arguments, "--mem-gb", "32"]) == 1
    assert "--mem-gb needs --launcher submitit" in capsys.readouterr().err


def test_study_of_an_unknown_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study"
    assert main(["study", "lite0", "lite0_s", "--seeds", "0", "1", "--out", str(out)]) == 1
    assert ", lite0_sa," in capsys.readouterr().err
    assert not out.exists()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of the study and of the report, which are not run."""
    found: dict[str, Any] = {}

    def run_study(recipes: list[Path], **options: Any) -> dict[str, dict[str, str]]:
        found.update(options, recipes=[path.stem for path in recipes])
        return {"verdicts": {"smoke_sa": "undecided"}}

    def write_report(folders: list[Path], page: Path) -> Path:
        found.update(report=folders)
        return page

    monkeypatch.setattr(study, "run_study", run_study)
    monkeypatch.setattr(study, "write_report", write_report)
    monkeypatch.setattr(study, "_DEMO_IMAGES", 28)
    return found


def test_a_demo_without_a_data_set_generates_one_once(
    calls: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert len(read_table(find_table(tmp_path / "data"))) == 28
    assert calls["recipes"] == ["smoke", "smoke_sa"]
    assert calls["out"] == tmp_path / "study"
    assert calls["report"] == [tmp_path / "study"]
    assert f"data.root={(tmp_path / 'data').absolute()}" in calls["overrides"]
    first = capsys.readouterr().out
    assert first.startswith("Generating 28 synthetic images")
    assert f"undecided\nThe report: {tmp_path / 'report.html'}" in first
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert "Generating" not in capsys.readouterr().out


def test_a_demo_uses_an_existing_data_set(
    calls: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, "/named/by/variable")
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert "data.root=/named/by/variable" in calls["overrides"]
    assert main(["demo", "--out", str(tmp_path), "--data", "/given"]) == 0
    assert "data.root=/given" in calls["overrides"]
    assert not (tmp_path / "data").exists()
