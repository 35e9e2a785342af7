from dataclasses import replace
from pathlib import Path

import pytest

from ham10000.evaluation import METRICS
from ham10000.reporting import inputs
from ham10000.reporting.inputs import ReportSource, open_source
from ham10000.reporting.tables import (
    PUBLISHED,
    class_table,
    comparison_tables,
    headline,
    look_table,
    method_name,
    metric_table,
    published_table,
    summary_items,
)


@pytest.fixture
def source(run: Path) -> ReportSource:
    return open_source(run)


def study_of(source: ReportSource) -> ReportSource:
    estimate = {"mean": 0.5, "std": 0.1}
    change = {"mean": -0.0004, "low": -0.2, "high": 0.1, "p": 0.0001, "p_holm": 0.02}
    change["outcome"] = "undecided"
    names = [name for name in METRICS if name != "recall/df"]
    study = {
        "control": "tiny_sa",
        "arms": ["other", "third"],
        "recipes": ["tiny_sa", "other", "third"],
        "look": {"number": 1, "level": 0.05, "exploratory": False},
        "seeds": [3, 4],
        "folds": 5,
        "images": 271,
        "primary": "accuracy",
        "secondaries": ["sensitivity_at_95_specificity/mel", "brier"],
        "verdicts": {"other": "undecided", "third": "worse"},
        "metrics": {name: {"tiny_sa": estimate} for name in METRICS},
        "comparisons": {arm: dict.fromkeys(names, change) for arm in ("other", "third")},
    }
    return replace(source, study=study)


def test_the_summary_names_data_models_and_training(source: ReportSource) -> None:
    items = dict(summary_items(source))
    assert items["data"] == "synthetic data, 280 images"
    assert items["split"].startswith("lesion, ")
    assert items["backbone"] == "ham10000:tiny"
    assert items["epochs"] == "1"
    assert len(items["date"]) == len("2026-01-01")
    assert dict(summary_items(study_of(source)))["split"] == "5-fold, 271 test images"
    assert dict(summary_items(study_of(source)))["seeds"] == "2"


def test_published_results_are_shown_for_the_complete_ham10000_only(
    source: ReportSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert published_table(source) is None
    monkeypatch.setattr(inputs, "_SYNTHETIC_IMAGES", range(0))
    monkeypatch.setattr(inputs, "_HAM10000_IMAGES", range(9_000_000, 9_000_280))
    monkeypatch.setattr(inputs, "NUM_IMAGES", 280)
    table = published_table(source)
    assert table is not None
    assert len(table.rows) == 1 + len(PUBLISHED)
    assert table.strong == {0}
    assert table.rows[1] == [
        "VGG16\nauthors, without attention",
        "0.567",
        "0.870",
        "0.951",
        "0.862",
    ]


def test_the_comparison_of_an_arm_begins_with_the_primary_metric(source: ReportSource) -> None:
    first, second = comparison_tables(study_of(source))
    assert (first.title, second.title) == (
        "other compared with tiny_sa",
        "third compared with tiny_sa",
    )
    head = ["metric", "tiny_sa", "other", "difference", "p", "p (Holm)"]
    assert first.planned.head == [*head, "outcome"]
    assert first.planned.rows[0] == [
        "accuracy",
        "0.5000\nsd 0.1000",
        "undefined",
        "-0.0004\n-0.2000 to +0.1000",
        "< 0.001",
        "0.020",
        "undecided",
    ]
    assert [row[0] for row in first.planned.rows[1:]] == [
        "sensitivity at 95 % specificity of mel",
        "Brier score",
    ]
    assert "its 95 % confidence interval" in first.planned.caption
    shown = [row[0] for row in [*first.planned.rows, *first.others.rows]]
    assert len(shown) == len(set(shown)) == len(METRICS) - 1
    assert "recall of df" not in shown
    assert comparison_tables(source) == []


def test_a_comparison_of_too_few_runs_has_no_intervals(source: ReportSource) -> None:
    found = study_of(source)
    assert found.study is not None
    for changes in found.study["comparisons"].values():
        for name, change in changes.items():
            missing = dict.fromkeys(("low", "high", "p", "p_holm"))
            changes[name] = {**change, **missing, "outcome": "too few runs"}
    first, _ = comparison_tables(found)
    assert first.planned.rows[0][3:] == ["-0.0004", "too few runs"]
    assert first.planned.head[3:] == ["difference", "outcome"]
    assert first.others.head[3:] == ["difference"]
    assert "too few runs for intervals and p-values" in first.planned.caption


def test_looks_are_listed_with_their_level(source: ReportSource) -> None:
    look = {"number": 1, "time": "T1", "seeds": [3, 4], "level": 0.025, "exploratory": False}
    looks = [
        {**look, "verdicts": {"se": "se is undecided.", "sa": "sa is better."}},
        {**look, "number": 2, "exploratory": True, "verdicts": {"sa": "Exploratory: better"}},
    ]
    assert look_table(source) is None
    assert look_table(study_of(source)) is None
    table = look_table(replace(source, study={"looks_taken": looks}))
    assert table is not None
    assert table.rows == [
        ["1", "T1", "3, 4", "0.025", "se is undecided. sa is better."],
        ["2", "T1", "3, 4", "exploratory", "Exploratory: better"],
    ]


def test_all_metrics_of_a_run_are_in_its_tables(source: ReportSource) -> None:
    run = source.runs[0]
    metrics, classes = metric_table(run), class_table(run)
    cells = len(metrics.rows) + sum(len(row) - 2 for row in classes.rows)
    assert cells == len(METRICS)
    value = run.evaluation.per_image.metrics["accuracy"].value
    assert metrics.rows[0][1].startswith(f"{value:.3f}\n")
    assert {len(row) for row in classes.rows} == {len(classes.head)}


def test_the_headline_of_a_study_is_over_its_seeds(source: ReportSource) -> None:
    found = headline(study_of(source))
    assert (found["metric"], found["seeds"], found["images"]) == ("accuracy", 2, 271)
    assert found["numbers"] == [{"name": "tiny_sa", "text": "0.5000\nsd 0.1000"}]
    assert found["verdicts"] == ["undecided", "worse"]


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
