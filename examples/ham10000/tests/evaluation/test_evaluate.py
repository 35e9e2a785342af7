import json
from dataclasses import asdict
from pathlib import Path

import pytest
from making import make

from ham10000.data import CLASSES
from ham10000.evaluation import (
    METRICS,
    by_lesion,
    confusion,
    evaluate,
    read_predictions,
    summarize,
    to_json,
    write_evaluation,
)


def test_measures_per_image_and_per_lesion() -> None:
    predictions = make(seed=1)
    found = evaluate(predictions, resamples=30)
    for level, of in ((found.per_image, predictions), (found.per_lesion, by_lesion(predictions))):
        values = summarize(of.targets, of.probabilities)
        assert level.count == len(of)
        assert level.class_counts == of.table["dx"].value_counts().loc[list(CLASSES)].to_dict()
        assert level.confusion == confusion(of.targets, of.probabilities).tolist()
        assert {name: each.value for name, each in level.metrics.items()} == pytest.approx(values)
    assert found.per_lesion.count < found.per_image.count


def test_lesions_are_drawn_alike_for_both_levels() -> None:
    # With one image a lesion the two levels are the same, draws and all.
    predictions = make({"mel": 30, "nv": 60})
    table = predictions.table.assign(lesion_id=predictions.table["image_id"])
    found = evaluate(type(predictions)(table), resamples=40)
    assert str(found.per_image) == str(found.per_lesion)


def test_json_has_the_settings_and_no_nan(tmp_path: Path) -> None:
    predictions = make({"bkl": 10, "mel": 20, "nv": 30})
    found = evaluate(predictions, resamples=25, seed=7)
    write_evaluation(found, predictions, tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert content["absent_classes"] == ["akiec", "bcc", "df", "vasc"]
    assert (content["resamples"], content["seed"], content["level"]) == (25, 7, 0.95)
    assert "resamples of lesions" in content["method"]
    assert list(content["per_image"]["metrics"]) == list(METRICS)
    assert content["per_image"]["metrics"]["recall/df"]["value"] is None
    mel = found.per_image.metrics["recall/mel"]
    assert content["per_image"]["metrics"]["recall/mel"] == asdict(mel)
    assert read_predictions(tmp_path / "predictions.csv").table.equals(predictions.table)


def test_json_has_null_for_non_finite_values() -> None:
    assert to_json({"a": [float("inf"), (1.5, None)]}) == (
        '{\n  "a": [\n    null,\n    [\n      1.5,\n      null\n    ]\n  ]\n}\n'
    )
