import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from making import make, store_evaluation

from ham10000.cli import main
from ham10000.data import CLASSES
from ham10000.errors import ArgumentError, MissingDataError
from ham10000.evaluation import read_predictions, summarize
from ham10000.reporting.runs import (
    RunSummary,
    calibration_bins,
    describe_test,
    example_images,
    images_of_test,
    list_runs,
    stored_metrics,
    stored_predictions,
)
from ham10000.training import LAUNCHER_LOCK, TRAINER_LOCK, lock_run, open_run


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """Four runs: finished, interrupted, not started, and one whose recipe cannot be read."""
    folder = tmp_path / "runs"
    shutil.copytree(run, folder / "a", ignore=shutil.ignore_patterns("evaluation"))
    shutil.copytree(folder / "a", folder / "study" / "b")
    (folder / "study" / "b" / "predictions.csv").unlink()
    for name in ("c", "d", ".hidden"):
        (folder / name).mkdir()
        shutil.copy(run / "recipe.yaml", folder / name)
    (folder / "d" / "recipe.yaml").write_text("name: [")
    return folder


def test_runs_are_summarized(folder: Path) -> None:
    written = read_predictions(folder / "a" / "predictions.csv")
    accuracy = summarize(written.targets, written.probabilities)["accuracy"]
    common = {"recipe": "tiny_sa", "epochs": 1}
    assert list_runs(folder, "accuracy") == [
        RunSummary("a", **common, state="finished", epoch=1, data="synthetic data", value=accuracy),
        RunSummary("c", **common, state="not started"),
        RunSummary("d"),
        RunSummary("study/b", **common, state="interrupted", epoch=1, data="synthetic data"),
    ]
    store_evaluation(folder / "a")
    (found,) = list_runs(folder / "a", "accuracy")
    assert (found.name, found.value, found.interval) == ("a", 0.25, (0.125, 0.5))
    (found,) = list_runs(folder / "a", "brier")
    assert found.interval is None
    assert found.value is not None


def test_an_evaluation_of_other_predictions_does_not_count(folder: Path) -> None:
    store_evaluation(folder / "a")
    assert stored_metrics(open_run(folder / "a"))["accuracy"]["value"] == 0.25
    with (folder / "a" / "evaluation" / "predictions.csv").open("a") as file:
        file.write("\n")
    assert stored_metrics(open_run(folder / "a")) == {}
    assert list_runs(folder / "a", "accuracy")[0].interval is None


def test_a_run_is_running_while_its_trainer_holds_the_lock(folder: Path) -> None:
    run = folder / "study" / "b"
    with lock_run(run, TRAINER_LOCK):
        assert list_runs(run, "accuracy")[0].state == "running"
    assert list_runs(run, "accuracy")[0].state == "interrupted"
    with lock_run(run, LAUNCHER_LOCK):
        assert list_runs(run, "accuracy")[0].state == "interrupted"


def test_what_cannot_be_listed_is_refused(folder: Path) -> None:
    with pytest.raises(ArgumentError, match="no metric 'acuracy'"):
        list_runs(folder, "acuracy")
    with pytest.raises(MissingDataError, match="there is no such folder"):
        list_runs(folder / "nowhere", "accuracy")
    with pytest.raises(MissingDataError, match="there is no run in it"):
        list_runs(folder / "a" / "checkpoints", "accuracy")


def test_runs_are_printed_in_80_columns(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    store_evaluation(folder / "a")
    (folder / "a").rename(folder / "[red] with a long name of several words")
    assert main(["runs", str(folder), "--metric", "accuracy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["run", "recipe", "state", "epoch", "data", "accuracy"]
    (row,) = (line for line in lines if line.startswith("[red] with"))
    assert "finished" in row
    assert "1/1" in row
    assert "0.250 [0.125," in row
    assert "\n".join(lines).count("synthetic") == 2


def test_calibration_bins_count_images_and_those_that_are_right() -> None:
    predictions = make({"nv": 200, "mel": 100})
    bins = calibration_bins(predictions)
    highest, right = (
        predictions.probabilities.max(1),
        predictions.probabilities.argmax(1) == predictions.targets,
    )
    for each in bins:
        inside = (highest > each["low"]) & (highest <= each["high"])
        assert each["count"] == inside.sum()
        assert each["right"] == (inside & right).sum()
    assert [each["high"] for each in bins] == [(k + 1) / 10 for k in range(10)]


def test_the_description_has_accuracy_and_temperature(run: Path, folder: Path) -> None:
    opened = open_run(run)
    predictions = make({"nv": 200, "mel": 100})
    sure = replace(predictions, table=_sharpened(predictions.table, 3))
    shares = (predictions.probabilities.argmax(1) == predictions.targets).mean()
    accuracy, calibration = describe_test(opened, predictions)
    assert accuracy.startswith("Of 300 test images of ")
    assert f"classified {100 * shares:.1f} % correctly" in accuracy
    assert "means over" not in accuracy
    assert describe_test(opened, sure)[1].endswith("the model is overconfident.")
    assert "expected calibration error" in calibration
    views = replace(opened.recipe.training, tta=2, crops=4)
    opened.recipe = replace(opened.recipe, training=views)
    assert "means over 8 views" in describe_test(opened, predictions)[0]
    assert "has no test predictions" in describe_test(opened, None)[0]
    assert stored_predictions(open_run(folder / "study" / "b")) is None
    assert stored_predictions(open_run(folder / "a")) is not None


def _sharpened(table: pd.DataFrame, power: int) -> pd.DataFrame:
    names = list(CLASSES)
    values = table[names].to_numpy() ** power
    sharp = pd.DataFrame(values / values.sum(1, keepdims=True), columns=names, index=table.index)
    return table.assign(**{name: sharp[name] for name in names})


def test_examples_are_of_all_classes_in_turn(run: Path) -> None:
    opened = open_run(run)
    known = images_of_test(opened)
    table = opened.split_table
    assert set(known) == set(table["image_id"][table["split"] == "test"])
    assert list(known) != sorted(known)
    assert list(known) == list(images_of_test(opened))
    chosen = example_images(opened, len(set(known.values())))
    assert list(chosen.values()) == sorted(set(known.values()))
    assert all(known[name] == dx for name, dx in chosen.items())
    assert len(example_images(opened, 9)) == 9
    assert example_images(opened, 0) == {}
