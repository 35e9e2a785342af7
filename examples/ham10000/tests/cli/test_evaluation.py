import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from making import make

from ham10000.cli import main
from ham10000.data import open_folder
from ham10000.evaluation import (
    make_predictions,
    submission_table,
    write_predictions,
)
from ham10000.training import find_predictions


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_predictions(make(skill=3.0), tmp_path / "a.csv")
    return tmp_path / "a.csv"


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().out
    # Paths stand in one piece.
    assert max(len(line) for line in text.splitlines() if "/" not in line) <= 80
    assert "…" not in text
    return text


def test_evaluate_prints_and_writes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = path.parent / "out"
    assert main(["evaluate", str(path), "--out", str(out)]) == 0
    text = printed(capsys)
    found = json.loads((out / "metrics.json").read_text())["per_image"]["metrics"]
    for name, words in (("balanced_accuracy", "balanced accuracy"), ("auc_macro", "macro AUC")):
        each = found[name]
        row = f"{each['value']:.3f} [{each['low']:.3f}, {each['high']:.3f}]"
        assert row in next(line for line in text.splitlines() if words in line)
    figures = ("confusion", "roc", "reliability", "recall")
    written = {"predictions.csv", "metrics.json", *(f"{name}.png" for name in figures)}
    assert {file.name for file in out.iterdir()} == written


def test_evaluate_writes_tables_and_figures_in_other_formats(path: Path) -> None:
    out = path.parent / "out"
    options = ["--tables", "csv", "latex", "--figures", "pdf"]
    assert main(["evaluate", str(path), "--out", str(out), *options]) == 0
    tables = {
        f"{name}.{kind}" for name in ("metrics", "classes", "strata") for kind in ("csv", "tex")
    }
    figures = {f"{name}.pdf" for name in ("confusion", "roc", "reliability", "recall")}
    assert {file.name for file in out.iterdir()} == {
        "predictions.csv",
        "metrics.json",
        *tables,
        *figures,
    }
    found = json.loads((out / "metrics.json").read_text())["per_lesion"]["metrics"]["auc_macro"]
    rows = pd.read_csv(out / "metrics.csv").set_index(["metric", "unit"])
    assert rows.loc[("auc_macro", "lesion"), ["value", "low", "high"]].tolist() == pytest.approx(
        [found[name] for name in ("value", "low", "high")], rel=1e-12
    )


def test_an_absent_class_is_reported_as_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_predictions(make({"bkl": 20, "mel": 20, "nv": 20}), tmp_path / "p.csv")
    out = tmp_path / "out"
    assert main(["evaluate", str(tmp_path / "p.csv"), "--out", str(out)]) == 0
    text = printed(capsys)
    assert "There are no images of akiec, bcc, df, vasc" in text
    assert text.count("undefined") == 4 * 3


def test_several_runs_are_one_row_each(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, out = path.parent / "a_long_name_of_a_second_run.csv", path.parent / "out"
    write_predictions(make({"bkl": 20, "mel": 20, "nv": 20}), other)
    assert main(["evaluate", str(path), str(other), "--out", str(out)]) == 0
    text = printed(capsys)
    values = [
        json.loads((out / name / "metrics.json").read_text())["per_image"]["metrics"]
        for name in ("a", "a_long_name_of_a_second_run")
    ]
    for metrics, start in zip(values, ("a ", "a_long_name_of_a"), strict=True):
        row = next(line for line in text.splitlines() if line.startswith(start))
        for name in ("balanced_accuracy", "auc_macro", "precision_weighted"):
            assert f"{metrics[name]['value']:.3f}" in row
    assert "a_long_name_of_a_second_run: There are no images of akiec, bcc" in text
    assert "a: Left out: histologically confirmed" in text


def test_strata_are_printed_with_intervals_and_counts(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    assert main(["evaluate", str(copy), str(run), "--out", str(tmp_path / "out")]) == 0
    several = printed(capsys)
    assert main(["evaluate", str(copy)]) == 0
    text = printed(capsys)
    strata = json.loads((copy / "evaluation" / "metrics.json").read_text())["strata"]
    assert list(strata) == ["histologically_confirmed", "several_images", "without_follow_up_nevi"]
    for stratum in strata.values():
        count, each = stratum["per_image"]["count"], stratum["per_image"]["metrics"]["accuracy"]
        assert f"{count:,} images" in text
        assert f"{each['value']:.3f} [{each['low']:.3f}, {each['high']:.3f}]" in text
        each = stratum["per_image"]["metrics"]["auc_macro"]
        assert several.count(f"[{each['low']:.3f}, {each['high']:.3f}]") >= 2


def test_compare_prints_and_writes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, out = path.parent / "b.csv", path.parent / "differences.json"
    write_predictions(make(skill=2.5), other)
    assert main(["compare", str(path), str(other), "--out", str(out)]) == 0
    text = printed(capsys)
    assert "McNemar's test: p" in text
    assert "DeLong" in text
    found = json.loads(out.read_text())
    each = found["per_image"]["metrics"]["balanced_accuracy"]
    assert f"{each['difference']:+.3f} [{each['low']:+.3f}, {each['high']:+.3f}]" in text
    assert main(["compare", str(path), str(other), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_compare_writes_the_images_that_one_model_gets_right(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, images = path.parent / "b.csv", path.parent / "images.csv"
    own = make(skill=3.0)
    noise = np.exp(2 * np.random.default_rng(0).normal(size=own.probabilities.shape))
    scores = own.probabilities * noise
    write_predictions(make_predictions(own.table, scores / scores.sum(1, keepdims=True)), other)
    assert main(["compare", str(path), str(other), "--images", str(images)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    found = pd.read_csv(images)
    counts = [int((found["right"] == str(name)).sum()) for name in (path, other)]
    assert counts[0] > 0
    assert f"only A is correct on {counts[0]}, only B on {counts[1]};" in text
    assert f"Written to {images}" in text


def test_tables_are_printed_and_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tables", str(run)]) == 0
    text = capsys.readouterr().out
    assert text.count("\n| --- | ") == 3, "averages, classes and strata"
    assert "| balanced accuracy |" in text
    assert main(["tables", str(run), "--format", "latex"]) == 0
    text = capsys.readouterr().out
    assert text.count("\\toprule") == 3
    assert main(["tables", str(run), "--format", "csv"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert set(table["stratum"]) >= {"all_images", "several_images"}
    assert {"metric", "value", "low", "high"} <= set(table.columns)
    for kind in ("csv", "md", "latex"):
        out = tmp_path / kind
        assert main(["tables", str(run), "--format", kind, "--out", str(out)]) == 0
        suffix = {"latex": "tex"}.get(kind, kind)
        names = {f"{name}.{suffix}" for name in ("metrics", "classes", "strata")}
        assert {file.name for file in out.iterdir()} == names
        assert f"Written to {out}: classes.{suffix}, metrics" in capsys.readouterr().out
    assert main(["tables", str(tmp_path)]) == 1
    assert "neither the study.json of a study nor the recipe.yaml" in capsys.readouterr().err


def test_compare_refuses_other_images(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = path.parent / "b.csv"
    write_predictions(make({"mel": 3, "nv": 4}), other)
    assert main(["compare", str(path), str(other)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"ham10000: error: comparing {path} with {other}: no row for")
    assert error.count("\n") == 1


def test_submission_without_a_truth_is_of_the_test_split(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = path.parent / "s.csv"
    assert main(["submission", str(path), "--out", str(out)]) == 0
    assert "1,512 images of the test split" in capsys.readouterr().out.replace("\n", " ")
    assert len(pd.read_csv(out)) == 1512


def test_submission_is_scored_against_the_truth(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = submission_table(make(skill=3.0))
    dx = make().table.set_index("image_id")["dx"].loc[table["image"]].str.upper().to_numpy()
    for name in table.columns[1:]:
        table[name] = (dx == name).astype(float)
    truth = path.parent / "truth.csv"
    table.to_csv(truth, index=False)
    arguments = ["submission", str(path), "--out", str(path.parent / "s.csv")]
    assert main([*arguments, "--groundtruth", str(truth)]) == 0
    assert "Balanced accuracy on the official test set: 0." in capsys.readouterr().out
    table.iloc[1:].to_csv(truth, index=False)
    assert main([*arguments, "--groundtruth", str(truth)]) == 1
    assert "a row for the image" in capsys.readouterr().err


def test_bad_predictions_are_one_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(path, path.parent / "b.csv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    assert main(["evaluate", str(path), "--out", str(path.parent / "o")]) == 1
    error = capsys.readouterr().err
    assert f"reading {path}: row 1514 (image " in error
    assert error.count("\n") == 1
    assert not (path.parent / "o").exists()
    assert main(["evaluate", str(path)]) == 1
    assert "a file of predictions needs --out" in capsys.readouterr().err


def test_a_run_is_evaluated_into_its_own_folder(
    run: Path, tmp_path: Path, synthetic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    assert main(["evaluate", str(copy), "--data", str(synthetic)]) == 0
    printed(capsys)
    written = (copy / "evaluation" / "metrics.json").read_text()
    assert main(["evaluate", str(copy), "--tta", "2"]) == 0
    again = (copy / "evaluation" / "metrics.json").read_text()
    assert json.loads(written)["per_image"]["count"] == json.loads(again)["per_image"]["count"]
    assert written != again
    assert main(["compare", str(run), str(copy / "evaluation" / "predictions.csv")]) == 0
    assert f"A: {run}" in capsys.readouterr().out


def test_a_run_predicts_the_official_test_set(
    run: Path, tmp_path: Path, synthetic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ISIC2018_Task3_Test_Input").mkdir()
    folder = open_folder(synthetic)
    chosen = folder.table.iloc[::20]
    for name in chosen["image_id"]:
        shutil.copy(folder.images[name], tmp_path / "ISIC2018_Task3_Test_Input")
    chosen.to_csv(tmp_path / "truth.csv", index=False)
    arguments = ["submission", str(run), "--groundtruth", str(tmp_path / "truth.csv")]
    out = tmp_path / "s.csv"
    assert main([*arguments, "--data", str(tmp_path), "--out", str(out)]) == 0
    assert "14 images of the official test set" in capsys.readouterr().out.replace("\n", " ")
    assert pd.read_csv(out)["image"].tolist() == sorted(chosen["image_id"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["localise", "run", "--faithful", "-1"], "--faithful must be 0 or more, found -1"),
        (["report", "run", "--out", "page.html", "--each", "-1"], "--each must be 0 or more"),
        (["explain", "run", "--out", "figures"], "no images are selected. Pass --image"),
        (["explain", "run", "--out", "figures", "--worst", "3"], "ham10000 train RECIPE --out run"),
    ],
)
def test_refusals_of_what_shows_images(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert message in capsys.readouterr().err


def test_ensemble_writes_what_can_be_evaluated(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = path.with_name("b.csv")
    write_predictions(make(skill=1.0), other)
    out = path.parent / "out"
    assert main(["ensemble", str(path), str(other), "--out", str(out)]) == 0
    assert "mean of 2 models" in printed(capsys)
    tables = [pd.read_csv(file).set_index("image_id") for file in (path, other)]
    mean = pd.read_csv(out / "predictions.csv").set_index("image_id")
    expected = (tables[0]["mel"] + tables[1]["mel"].loc[tables[0].index]) / 2
    assert mean["mel"].to_numpy() == pytest.approx(expected.loc[mean.index].to_numpy(), rel=1e-9)
    assert (out / "metrics.json").exists()
    assert main(["submission", str(out / "predictions.csv"), "--out", str(out / "s.csv")]) == 0


def test_a_binary_task_has_its_sensitivity_first(
    binary_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "out", tmp_path / "report.html"
    written = ["--out", str(out), "--tables", "md"]
    assert main(["evaluate", str(binary_run), *written]) == 0
    lines = printed(capsys).splitlines()
    found = json.loads((out / "metrics.json").read_text())["per_image"]["metrics"]
    shown = {
        "sensitivity (mel)": "recall/mel",
        "specificity (mel)": "specificity/mel",
        "AUC (mel)": "auc/mel",
        "average precision (mel)": "average_precision/mel",
        "balanced accuracy": "balanced_accuracy",
    }
    for title, name in shown.items():
        each = found[name]
        row = f"{each['value']:.3f} [{each['low']:.3f}, {each['high']:.3f}]"
        assert row in next(line for line in lines if line.startswith(title))
    assert any(line.startswith("sensitivity (mel)") for line in lines[:4])
    table = (out / "metrics.md").read_text()
    assert "| sensitivity (mel) |" in table
    assert main(["report", str(binary_run), "--out", str(page), "--each", "1"]) == 0
    text = page.read_text()
    assert "nevus or seborrheic keratosis" in text
    assert "Published" not in text
    assert "Inception-ResNet-v2" not in text
    assert main(["explain", str(binary_run), "--class", "nv", "--out", str(tmp_path / "x")]) == 1
    assert "unknown class 'nv'" in capsys.readouterr().err
    assert main(["submission", str(binary_run), "--out", str(tmp_path / "s.csv")]) == 1
    message = capsys.readouterr().err
    assert "a submission has the classes akiec" in message
    assert "pass a run of each of the two tasks" in message


def test_a_submission_of_both_tasks_of_isic_2017_is_scored(
    binary_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    melanoma = find_predictions(binary_run)
    rows = melanoma.table.assign(dx=["sk" if n % 2 else "other" for n in range(len(melanoma))])
    keratosis = make_predictions(rows, [[0.5, 0.5]] * len(rows), classes=["other", "sk"])
    file, out = tmp_path / "keratosis.csv", tmp_path / "s.csv"
    write_predictions(keratosis, file)
    assert main(["submission", str(file), str(binary_run), "--out", str(out)]) == 0
    shown = printed(capsys)
    auc = next(line for line in shown.splitlines() if line.startswith("AUC")).split()
    assert auc[2] == "0.500"
    assert f"{len(melanoma)} images of the test split" in shown
    assert "not the challenge's 600 test images" in shown
    lines = out.read_text().splitlines()
    assert len(lines) == len(melanoma)
    assert all(line.startswith("ISIC_") and line.endswith(",0.5") for line in lines)
    truth = ["--groundtruth", str(file)]
    assert main(["submission", str(file), str(binary_run), "--out", str(out), *truth]) == 1
    assert "--groundtruth is for the challenge of 2018" in capsys.readouterr().err
