from dataclasses import replace
from pathlib import Path

import pytest

from ham10000.evaluation import METRICS, STRATA, evaluate
from ham10000.reporting.inputs import ReportSource, open_source
from ham10000.reporting.tables import (
    class_table,
    method_name,
    metric_table,
    strata_tables,
    summary_items,
)


@pytest.fixture
def source(run: Path) -> ReportSource:
    return open_source([run])


def test_the_summary_names_data_models_and_training(source: ReportSource) -> None:
    items = dict(summary_items(source))
    assert items["data"] == "synthetic data, 280 images"
    assert items["split"].startswith("lesion, ")
    assert items["backbone"] == "ham10000:tiny"
    assert items["epochs"] == "1"
    assert len(items["date"]) == len("2026-01-01")
    study = replace(source, study={"folds": 5, "images": 271, "seeds": [3, 4]})
    assert dict(summary_items(study))["split"] == "5-fold, 271 test images"
    assert dict(summary_items(study))["seeds"] == "2"


def test_all_metrics_of_a_run_are_in_its_tables(source: ReportSource) -> None:
    run = source.runs[0]
    metrics, classes = metric_table(run), class_table(run)
    cells = len(metrics.rows) + sum(len(row) - 2 for row in classes.rows)
    assert cells == len(METRICS)
    value = run.evaluation.per_image.metrics["accuracy"].value
    assert metrics.rows[0][1].startswith(f"{value:.3f}\n")
    assert {len(row) for row in classes.rows} == {len(classes.head)}


def test_names_of_methods_are_words() -> None:
    names = ["attention", "grad_cam", "gaussian", "random", "iou", "energy_inside"]
    assert [method_name(name) for name in names] == [
        "attention",
        "Grad-CAM",
        "centred Gaussian",
        "random map",
        "IoU",
        "energy inside",
    ]


def test_strata_are_in_columns_with_their_counts(source: ReportSource) -> None:
    run = source.runs[0]
    averages, classes = strata_tables(run)
    assert len(averages.rows) + len(classes.rows) == len(METRICS)
    assert [title.split("\n")[0] for title in averages.head] == [
        "metric",
        "all images",
        *STRATA.values(),
    ]
    several = run.evaluation.strata["several_images"]
    counts = f"{several.per_image.count:,} images, {several.per_lesion.count:,} lesions"
    assert averages.head[3].split("\n")[1] == counts
    value = several.per_image.metrics["accuracy"].value
    assert averages.rows[0][3].startswith(f"{value:.3f}\n")


def test_strata_without_a_table_are_left_out_with_the_reason(source: ReportSource) -> None:
    run = source.runs[0]
    averages, _ = strata_tables(replace(run, evaluation=evaluate(run.predictions, 5)))
    assert [title.split("\n")[0] for title in averages.head] == ["metric", "all images"]
    assert "Left out: histologically confirmed" in averages.caption
    assert averages.caption.endswith("no table of the data set was given.")
