from dataclasses import replace
from pathlib import Path

import pytest

from ham10000.errors import MissingDataError
from ham10000.evaluation import METRICS
from ham10000.reporting import sections
from ham10000.reporting.inputs import EvaluatedRun, ReportSource, open_source
from ham10000.reporting.sections import (
    gallery_section,
    results_section,
    saliency_section,
    setup_section,
)


@pytest.fixture
def evaluated(run: Path) -> EvaluatedRun:
    return open_source(run).runs[0]


def test_results_have_all_metrics_and_five_figures(evaluated: EvaluatedRun) -> None:
    section = results_section(evaluated)
    averages = [name for name in METRICS if "/" not in name]
    assert len(section["metrics"].rows) == len(averages)
    assert len(section["classes"].rows) == 7
    assert [title.split()[0] for title, _ in section["figures"]] == [
        "Recall",
        "Confusion",
        "ROC",
        "Calibration",
        "Training",
    ]


def test_a_failure_to_measure_saliency_is_shown_instead(
    evaluated: EvaluatedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise MissingDataError("there are no masks.")

    monkeypatch.setattr(sections, "evaluate_saliency", fail)
    monkeypatch.setattr(sections, "read_json", lambda path, optional: {})
    section = saliency_section(evaluated, None)
    assert section["missing"] == "there are no masks."
    assert section["tables"] == section["figures"] == []


def test_the_gallery_prefers_a_run_with_attention(evaluated: EvaluatedRun) -> None:
    source = ReportSource("two", Path(), (evaluated, replace(evaluated, name="second")))
    assert gallery_section(source, None, each=0)["missing"] == "no images were requested."
    section = gallery_section(source, None, each=1)
    assert section["name"] == "second"
    assert section["attention"]
    assert all(len(each["pictures"]) == 2 for each in section["cases"])


def test_the_setup_counts_images_by_split_and_class(evaluated: EvaluatedRun) -> None:
    section = setup_section(evaluated)
    assert [row[0] for row in section["split"].rows] == ["train", "val", "test"]
    assert sum(int(row[-1]) for row in section["split"].rows) == 280
    assert "backbone: ham10000:tiny" in section["recipe"]
    assert dict(section["environment"])["processes"] == "1"
