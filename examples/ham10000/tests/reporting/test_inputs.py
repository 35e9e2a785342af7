import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from making import make

from ham10000.data import find_dataset
from ham10000.errors import ArgumentError, DataError, PredictionError
from ham10000.evaluation import STRATA, write_predictions
from ham10000.reporting.inputs import ReportSource, evaluate_sources, open_source, read_json


def source(first: int, count: int, prefix: str = "ISIC_", of: str = "ham10000") -> ReportSource:
    names = [f"{prefix}{number:07d}" for number in range(first, first + count)]
    table = pd.DataFrame({"image_id": names})
    run: Any = SimpleNamespace(run=SimpleNamespace(split_table=table, info=find_dataset(of)))
    return ReportSource("a run", (run,))


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


def test_another_data_set_has_its_own_name() -> None:
    found = source(0, 2_750, of="isic2017-melanoma")
    assert found.data_name == "ISIC 2017 (melanoma)"
    assert not found.is_ham10000
    assert source(0, 2_000, of="isic2017-melanoma").data_name == "a part of ISIC 2017 (melanoma)"
    assert source(9_000_000, 280, of="isic2019").is_synthetic


def test_runs_with_different_classes_have_no_common_page(run: Path, binary_run: Path) -> None:
    with pytest.raises(ArgumentError, match=r"tiny_sa: akiec.*; binary: other, mel\)\. Write one"):
        open_source([run, binary_run])


def test_a_run_is_opened_with_its_evaluation(run: Path) -> None:
    found = open_source([run])
    assert found.title == "tiny_sa"
    assert found.num_images == 280
    assert found.num_test_images == [found.runs[0].evaluation.per_image.count]
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
        open_source([tmp_path])


def test_names_of_sources_tell_them_apart(tmp_path: Path) -> None:
    table = make({"mel": 3, "nv": 4})
    paths = [tmp_path / name for name in ("a/one.csv", "b/one.csv", "a/two.csv")]
    for path in paths:
        write_predictions(table, path)
    assert [each.name for each in evaluate_sources(paths[1:])] == ["one", "two"]
    assert [each.name for each in evaluate_sources(paths)] == [
        "a_one",
        "b_one",
        "a_two",
    ]
    with pytest.raises(ArgumentError, match="given more than once"):
        evaluate_sources([paths[0], tmp_path / "b" / ".." / "a" / "one.csv"])


def test_the_table_comes_from_the_recipe_or_from_the_data_set(
    run: Path, synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (of_run,) = evaluate_sources([run])
    assert set(of_run.evaluation.strata) == set(STRATA)
    path = tmp_path / "theirs.csv"
    write_predictions(of_run.predictions, path)
    (without,) = evaluate_sources([path])
    assert without.evaluation.strata == {}
    assert "HAM10000_DIR" in without.evaluation.strata_left_out["several_images"]
    (given,) = evaluate_sources([path], data=synthetic)
    monkeypatch.setenv("HAM10000_DIR", str(synthetic))
    (found,) = evaluate_sources([path])
    # Undefined metrics are NaN, which differs from itself.
    assert str(given.evaluation) == str(found.evaluation) == str(of_run.evaluation)
    # Metrics do not need the table, unless it was asked for.
    write_predictions(make({"mel": 3, "nv": 4}), path)
    (others,) = evaluate_sources([path])
    assert "a row for the image" in others.evaluation.strata_left_out["several_images"]
    with pytest.raises(PredictionError, match="a row for the image"):
        evaluate_sources([path], data=synthetic)


def test_a_study_is_reported_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(ArgumentError, match="is a study, which has its own page"):
        open_source([run, tmp_path])
