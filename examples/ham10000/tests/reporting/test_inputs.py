import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from ham10000.errors import DataError
from ham10000.reporting.inputs import ReportSource, open_source, read_json


def source(first: int, count: int, prefix: str = "ISIC_") -> ReportSource:
    names = [f"{prefix}{number:07d}" for number in range(first, first + count)]
    run: Any = SimpleNamespace(run=SimpleNamespace(split_table=pd.DataFrame({"image_id": names})))
    return ReportSource("a run", Path(), (run,))


@pytest.mark.parametrize(
    ("first", "count", "prefix", "name"),
    [
        (24_306, 10_015, "ISIC_", "HAM10000"),
        (24_320, 9_950, "ISIC_", "HAM10000"),
        (24_306, 2_000, "ISIC_", "a part of HAM10000"),
        (24_306, 10_016, "ISIC_", "other data"),
        (9_000_000, 280, "ISIC_", "synthetic data"),
        (24_306, 10_015, "IMG_", "other data"),
    ],
)
def test_the_data_set_is_recognized_by_its_images(
    first: int, count: int, prefix: str, name: str
) -> None:
    found = source(first, count, prefix)
    assert found.data_name == name
    assert found.is_ham10000 == (name == "HAM10000")
    assert found.is_synthetic == (name == "synthetic data")


def test_a_run_is_opened_with_its_evaluation(run: Path) -> None:
    found = open_source(run)
    assert found.title == "tiny_sa"
    assert found.num_images == 280
    assert found.num_test_images == found.runs[0].evaluation.per_image.count
    assert len(found.runs[0].split_hash) == 64
    assert found.runs[0].split_counts.to_numpy().sum() == 280


@pytest.mark.parametrize(
    ("text", "message"), [("{", "cannot be read as JSON"), ("[]", "expected a JSON object")]
)
def test_a_damaged_json_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_json(path)
    assert read_json(tmp_path / "missing.json", optional=True) == {}


def test_a_study_without_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps({"recipes": ["a", "b"]}))
    with pytest.raises(DataError, match="it has no runs"):
        open_source(tmp_path)
