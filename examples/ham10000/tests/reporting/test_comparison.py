from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ham10000.data import CLASSES, NUM_IMAGES, split_file
from ham10000.evaluation import METRICS, Predictions, evaluate
from ham10000.reporting.comparison import (
    SOURCES,
    comparison_tables,
    headline,
    look_table,
    model_table,
    published_results,
    published_table,
    report_files,
)
from ham10000.reporting.inputs import ReportSource, open_source


@pytest.fixture
def source(run: Path) -> ReportSource:
    return open_source([run])


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


def test_published_results_are_of_five_backbones_and_a_second_source() -> None:
    results = published_results()
    assert {each.source for each in results} == set(SOURCES)
    models = [(each.backbone, each.attention) for each in results if each.source == "authors"]
    backbones = ["VGG16", "ResNet34", "ResNet50", "DenseNet201", "Inception-ResNet-v2"]
    assert models == [(name, attention) for name in backbones for attention in (False, True)]
    again = {each.attention: each.values for each in results if each.source == "re-run"}
    assert again[True] == {
        "precision_weighted": 0.913,
        "accuracy": 0.918,
        "auc_weighted": 0.981,
        "balanced_accuracy": 0.713,
    }
    assert again[False]["balanced_accuracy"] == 0.720


def test_published_results_are_shown_for_the_complete_ham10000_only(
    source: ReportSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert published_table(source) is None
    monkeypatch.setattr(split_file, "_SYNTHETIC_IMAGES", range(0))
    monkeypatch.setattr(split_file, "_HAM10000_IMAGES", range(9_000_000, 9_000_280))
    monkeypatch.setattr(split_file, "_COMPLETE", 280 / NUM_IMAGES)
    table = published_table(source)
    assert table is not None
    assert len(table.rows) == 1 + 12
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
    assert first.main.head == [*head, "outcome"]
    assert first.main.rows[0] == [
        "accuracy",
        "0.5000\nsd 0.1000",
        "undefined",
        "-0.0004\n-0.2000 to +0.1000",
        "<.001",
        "0.020",
        "undecided",
    ]
    assert [row[0] for row in first.main.rows[1:]] == [
        "sensitivity for mel at 95 % specificity",
        "Brier score",
    ]
    assert "its 95 % confidence interval" in first.main.caption
    shown = [row[0] for row in [*first.main.rows, *first.others.rows]]
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
    assert first.main.rows[0][3:] == ["-0.0004", "too few runs"]
    assert first.main.head[3:] == ["difference", "outcome"]
    assert first.others.head[3:] == ["difference"]
    assert "too few runs for intervals and p-values" in first.main.caption


def test_models_are_compared_with_the_control(source: ReportSource) -> None:
    assert model_table(source) is None
    assert model_table(study_of(source)) is None
    each = {"trained": {"backbone": 9, "attention": 1, "head": 3}, "frozen": {"attention": 20_000}}
    each |= {"head_input": [8, 2, 2], "num_maps": 16, "dropout": [0.5]}
    models = {"se": {**each, "head_input_std": 0.5}, "bare": {**each, "head_input_std": 2.0}}
    table = model_table(replace(source, study={"control": "bare", "models": models}))
    assert table is not None
    assert table.caption.endswith("relative to bare. Dropout: in attention and head.")
    assert table.rows[0] == ["se", "9", "1 + 20k", "3", "8x2x2", "0.25", "16", "0.5"]
    assert table.rows[1][5] == "1"


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


def test_the_headline_of_a_study_is_over_its_seeds(source: ReportSource) -> None:
    found = headline(study_of(source))
    assert (found["metric"], found["seeds"], found["images"]) == ("accuracy", 2, "271")
    assert found["numbers"] == [{"name": "tiny_sa", "text": "0.5000\nsd 0.1000"}]
    assert found["verdicts"] == ["undecided", "worse"]


def test_runs_are_compared_side_by_side_and_with_the_first(source: ReportSource) -> None:
    first = source.runs[0]
    table = first.predictions.table
    weaker = table.assign(**{name: 0.5 * table[name] + 0.5 / 7 for name in CLASSES})
    predictions = Predictions(weaker.sample(frac=1, random_state=0))
    second = replace(
        first, name="second", predictions=predictions, evaluation=evaluate(predictions, 20)
    )
    part = replace(first, name="part", predictions=Predictions(table.iloc[1:]))
    groups = comparison_tables(replace(source, runs=(first, second, part)))
    assert [group.title for group in groups] == [
        "All images",
        "Histologically confirmed",
        "Lesions with several images",
        "Without follow-up nevi",
        "Differences to tiny_sa",
    ]
    count = first.evaluation.per_image.count
    heads = [f"{name}\n{count:,} images" for name in ("tiny_sa", "second", "part")]
    assert groups[0].main.head == ["metric", *heads]
    values = [each.evaluation.per_image.metrics["brier"].value for each in (first, second)]
    row = next(row for row in groups[0].main.rows if row[0] == "Brier score")
    assert [cell.split("\n")[0] for cell in row[1:3]] == [f"{value:.3f}" for value in values]
    # The evaluation of the second run has no strata, and the third has other test images.
    assert [cell.split("\n")[0] for cell in groups[1].main.head] == ["metric", "tiny_sa", "part"]
    assert groups[4].main.head == ["metric", heads[1]]
    row = next(row for row in groups[4].main.rows if row[0] == "Brier score")
    difference, interval, p_value = row[1].split("\n")
    assert float(difference) == pytest.approx(values[1] - values[0], abs=6e-4)
    low, high = map(float, interval.split(" to "))
    assert low <= float(difference) <= high
    assert p_value.startswith("p ")
    for group in groups:
        assert len(group.main.rows) + len(group.others.rows) == len(METRICS)


def test_runs_with_other_test_images_are_marked(source: ReportSource) -> None:
    first = source.runs[0]
    part = replace(first, name="part", predictions=Predictions(first.predictions.table.iloc[1:]))
    assert headline(source)["comparable"]
    both = replace(source, runs=(first, part))
    assert not headline(both)["comparable"]
    assert not any("Differences" in group.title for group in comparison_tables(both))


def test_files_of_a_study_have_each_arm_and_metric(source: ReportSource) -> None:
    tables, frames = report_files(study_of(source))
    assert list(tables) == [
        "other_compared_with_tiny_sa",
        "other_compared_with_tiny_sa_other_metrics",
        "third_compared_with_tiny_sa",
        "third_compared_with_tiny_sa_other_metrics",
    ]
    frame = frames["comparison"]
    assert len(frame) == 2 * (len(METRICS) - 1)
    row = frame.set_index(["arm", "metric"]).loc[("third", "accuracy")]
    assert row[["difference", "low", "high", "p_holm"]].tolist() == [-0.0004, -0.2, 0.1, 0.02]
    assert (row["control"], row["control_mean"], row["outcome"]) == ("tiny_sa", 0.5, "undecided")
    assert row["arm_mean"] is None or np.isnan(row["arm_mean"])


def test_files_of_runs_have_their_differences(source: ReportSource) -> None:
    assert list(report_files(source)[0]) == ["metrics", "classes", "strata"]
    assert list(report_files(source)[1]) == ["metrics", "classes", "strata"]
    both = replace(source, runs=(source.runs[0], replace(source.runs[0], name="again")))
    tables, frames = report_files(both)
    assert list(tables)[::2] == [
        "all_images",
        "histologically_confirmed",
        "lesions_with_several_images",
        "without_follow-up_nevi",
        "differences_to_tiny_sa",
    ]
    assert frames["metrics"]["run"].unique().tolist() == ["tiny_sa", "again"]
    assert frames["differences"]["metric"].tolist() == list(METRICS)
    assert set(frames["differences"]["difference"].dropna()) == {0.0}
    assert list(frames["only_one_right"].columns[:2]) == ["run", "image_id"]
    assert frames["only_one_right"].empty, "the runs are the same"
