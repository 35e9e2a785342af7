import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from studies import RECIPES, add_runs, look

from ham10000.errors import ArgumentError, MissingDataError
from ham10000.recipe import load_recipe
from ham10000.study.plan import PlannedRun, make_plan
from ham10000.study.preregistration import StudyRecord, recorded_values, table_hash
from ham10000.study.results import PublishedStudy, publish_study, quotations, restore_study
from ham10000.study.verification import verify_study
from ham10000.training import RunDir


def test_a_published_study_opens_with_pandas(finished: Path, published: Path) -> None:
    assert sorted(path.name for path in published.iterdir()) == [
        "README.md",
        "environments.json",
        "metrics.csv.bz2",
        "plan.json",
        *(f"predictions-seed{seed}.csv.bz2" for seed in range(4)),
        "recipes",
        "split.csv.xz",
        "study.json",
    ]
    table = pd.read_csv(published / "predictions-seed2.csv.bz2")
    assert len(table) == 2 * 168
    one = pd.read_csv(finished / "runs/sa-seed2-fold1/predictions.csv")
    same = one[["image_id"]].merge(table[table["recipe"] == "sa"], on="image_id")
    assert same["mel"].tolist() == one["mel"].tolist()
    metrics = pd.read_csv(published / "metrics.csv.bz2")
    assert len(metrics) == 16
    assert metrics["auc_macro"].between(0.5, 1).all()
    assert (published / "plan.json").read_bytes() == (finished / "plan.json").read_bytes()
    assert yaml.safe_load((published / "recipes/sa.yaml").read_text())["name"] == "sa"
    environments = json.loads((published / "environments.json").read_text())
    assert [one["environment"] for one in environments] == [{"device": "H100"}, {"device": "cpu"}]
    assert len(environments[1]["runs"]) == 12


def test_publishing_again_gives_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    publish_study(finished, tmp_path / "ours")
    before = {path.name: path.read_bytes() for path in (tmp_path / "ours").glob("*.*")}
    known: dict[PlannedRun, dict[str, Any]] = {}
    for _ in range(2):
        publish_study(finished, tmp_path / "ours", known=known)
        assert {path.name: path.read_bytes() for path in (tmp_path / "ours").glob("*.*")} == before
    assert len(known) == 16
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_a_restored_study_has_the_same_predictions(
    finished: Path, published: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    restore_study(published, out)
    record = StudyRecord(out)
    for run in record.plan.runs:
        files = RunDir(out / run.folder)
        before = RunDir(finished / run.folder)
        assert files.done
        rows, expected = (
            sorted(each.predictions().read_text().splitlines()) for each in (files, before)
        )
        assert rows == expected
        assert set(pd.read_csv(files.split, dtype=str)["split"]) == {"train", "test"}
        assert (files.path / "environment.json").exists()
    assert (out / "plan.json").read_bytes() == (finished / "plan.json").read_bytes()
    (out / "runs/sa-seed2-fold1/predictions.csv").unlink()
    restore_study(published, out)  # does nothing to a study that is there
    assert not RunDir(out / "runs/sa-seed2-fold1").done


def test_a_restored_study_can_be_extended_and_published(published: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    restore_study(published, out)
    record = StudyRecord(out)
    for run in record.plan.runs:
        recipe = RunDir(out / run.folder).recipe
        record.check_run(run, load_recipe(recipe))
        assert recorded_values(load_recipe(recipe))["model.backbone"]
    plan = make_plan(RECIPES, range(5), 2, looks=2)
    split = pd.read_csv(out / "split.csv", dtype=str)
    record.register(plan, RECIPES, table_hash(split), extend=True)
    added = [run for run in plan.runs if run.seed == 4]
    add_runs(out, replace(plan, seeds=(4,)))
    publish_study(out, tmp_path / "results")  # before the look
    assert (tmp_path / "results/predictions-seed4.csv.bz2").exists()
    assert "5 of 5 planned seeds" in (tmp_path / "results/README.md").read_text()
    look(out, plan)
    publish_study(out, tmp_path / "results")
    result = PublishedStudy(tmp_path / "results").result
    assert result is not None
    assert [one["number"] for one in result["looks_taken"]] == [1, 2]
    assert len(added) == 4


def test_finished_runs_are_published_and_restored(finished: Path, tmp_path: Path) -> None:
    study = Path(shutil.copytree(finished, tmp_path / "study"))
    (study / "study.json").unlink()
    (study / "runs/sa-seed1-fold0/predictions.csv").unlink()
    for path in study.glob("runs/*-seed2-*/predictions.csv"):
        path.unlink()
    publish_study(study, tmp_path / "results")
    names = {path.name for path in (tmp_path / "results").glob("predictions*")}
    assert names == {f"predictions-seed{seed}.csv.bz2" for seed in (0, 1, 3)}
    text = (tmp_path / "results/README.md").read_text()
    assert "11 of 16 planned runs" in text
    assert "The study has not ended" in text
    problems = verify_study(tmp_path / "results").problems
    assert problems == ["study.json is missing, though plan.json has a look at the result"]
    restore_study(tmp_path / "results", tmp_path / "restored")
    before, after = (
        {path.parent.name: sorted(path.read_text().splitlines()) for path in paths}
        for paths in (
            folder.glob("runs/*/predictions.csv") for folder in (study, tmp_path / "restored")
        )
    )
    assert after == before
    assert len(after) == 11
    shutil.rmtree(study / "runs")
    with pytest.raises(MissingDataError, match="no run has predictions yet"):
        publish_study(study, tmp_path / "results")
    assert (tmp_path / "results/README.md").read_text() == text
    with pytest.raises(MissingDataError, match=r"there is no plan\.json"):
        publish_study(tmp_path, tmp_path / "results")


def test_some_seeds_can_be_published_without_predictions(finished: Path, tmp_path: Path) -> None:
    publish_study(finished, tmp_path / "ours", seeds=1)
    assert len(list((tmp_path / "ours").glob("predictions*"))) == 1
    study = PublishedStudy(tmp_path / "ours")
    assert (len(study.metrics), len(study.tables)) == (16, 4)
    assert "Predictions of seed 0 are published" in study.page
    restore_study(tmp_path / "ours", tmp_path / "again")
    assert len(list((tmp_path / "again/runs").iterdir())) == 4


def test_another_study_is_not_overwritten(published: Path, tmp_path: Path) -> None:
    plan = make_plan(RECIPES, range(2), None)
    StudyRecord(tmp_path).register(plan, RECIPES, "split")
    with pytest.raises(ArgumentError, match="has another study"):
        restore_study(published, tmp_path)
    with pytest.raises(MissingDataError, match=r"there is no plan\.json"):
        restore_study(tmp_path / "nowhere", tmp_path / "new")


def test_the_page_shows_what_can_be_quoted(published: Path) -> None:
    result = PublishedStudy(published).result
    assert result is not None
    quoted = quotations(result)
    page = (published / "README.md").read_text()
    assert quoted["verdicts"] in page
    assert quoted["differences"] in page
    assert quoted["verdicts"].startswith("- Look 1 of 2: sa instead of bare changed macro AUC by +")
    assert quoted["sa brier"].startswith("Brier score by -0.")
    change = result["comparisons"]["sa"]["balanced_accuracy"]
    row = next(line for line in page.splitlines() if line.startswith("| balanced accuracy | sa"))
    assert f"{change['mean']:+.4f} ({change['low']:.4f} to {change['high']:.4f})" in row
    assert change["outcome"] in row


def test_a_change_that_rounds_to_zero_has_no_sign(published: Path) -> None:
    result = PublishedStudy(published).result
    assert result is not None
    change = result["comparisons"]["sa"]["auc_macro"]
    change |= {"mean": -0.00003, "low": -0.00004, "high": 0.00002}
    quoted = quotations(result)
    assert "| 0.0000 (0.0000 to 0.0000) |" in quoted["differences"]
    assert quoted["sa auc_macro"].startswith("macro AUC by 0.00 points, 97.5 % interval 0.00 to")
