import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from making import make
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    recall_score,
    roc_auc_score,
)

from ham10000.data import CLASSES, load_table, split_by_protocol
from ham10000.errors import PredictionError
from ham10000.evaluation import (
    METRICS,
    STRATA,
    Predictions,
    binary_metrics,
    by_lesion,
    confusion,
    evaluate,
    make_predictions,
    metrics_of,
    read_predictions,
    summarize,
    to_json,
    write_evaluation,
)
from ham10000.evaluation.evaluate import strata_of


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
    found = evaluate(Predictions(table.sort_values("lesion_id")), resamples=40)
    assert str(found.per_image) == str(found.per_lesion)


def test_intervals_do_not_depend_on_the_order_of_images() -> None:
    predictions = make(seed=1)
    shuffled = Predictions(predictions.table.sample(frac=1, random_state=3))
    found, again = (evaluate(each, resamples=30) for each in (predictions, shuffled))
    for one, other in ((found.per_image, again.per_image), (found.per_lesion, again.per_lesion)):
        for name, metric in one.metrics.items():
            expected = [metric.value, metric.low, metric.high]
            limits = [other.metrics[name].value, other.metrics[name].low, other.metrics[name].high]
            assert limits == pytest.approx(expected, rel=1e-9, nan_ok=True)


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


@pytest.mark.parametrize(("seed", "count"), [(42, 557), (7, 554), (1, 559)])
def test_most_images_of_the_papers_test_set_are_follow_up_nevi(
    real: Path, seed: int, count: int
) -> None:
    table = load_table(real)
    split = split_by_protocol(table, "paper", seed=seed)
    test = table[(split["split"] == "test").to_numpy()]
    assert len(test) == 828
    assert ((test["dx"] == "nv") & (test["dx_type"] == "follow_up")).sum() == count


def test_the_strata_of_ham10000_have_the_known_sizes(real: Path) -> None:
    table = load_table(real)
    members = strata_of(table).set_index(table.index)
    several, without = members["several_images"], members["without_follow_up_nevi"]
    assert (len(table), several.sum(), (~several).sum()) == (10015, 4501, 5514)
    assert (~several & without).sum() == 1810
    nevi = table["dx"] == "nv"
    follow_up = table["dx_type"] == "follow_up"
    assert round(100 * follow_up[nevi & ~several].mean()) == 84
    assert not follow_up[nevi & several].any()
    assert members["histologically_confirmed"].equals(table["dx_type"] == "histo")
    # A lesion is in a stratum with all of its images.
    assert (members.groupby(table["lesion_id"]).nunique() == 1).all(axis=None)


def test_strata_of_a_test_set_equal_a_plain_computation(real: Path) -> None:
    table = load_table(real)
    tested = table.sample(400, random_state=0).assign(split="test")
    predictions = predict_from(tested)
    found = evaluate(predictions, resamples=20, seed=3, table=table)
    assert found.strata_left_out == {}
    images = table["lesion_id"].value_counts()
    populations = {
        "histologically_confirmed": tested["dx_type"] == "histo",
        "several_images": tested["lesion_id"].map(images) > 1,
        "without_follow_up_nevi": (tested["dx"] != "nv") | (tested["dx_type"] != "follow_up"),
    }
    # Most of these lesions have only one image in the test set.
    assert populations["several_images"].sum() > 4 * tested["lesion_id"].duplicated().sum()
    for name, inside in populations.items():
        stratum = found.strata[name]
        only = replace(predictions, table=predictions.table[inside.to_numpy()])
        assert stratum.per_image.count == inside.sum()
        assert stratum.per_lesion.count == tested["lesion_id"][inside].nunique()
        values = {metric: each.value for metric, each in stratum.per_image.metrics.items()}
        expected = summarize(only.targets, only.probabilities)
        assert values == pytest.approx(expected, nan_ok=True)
        as_test_set = evaluate(only, resamples=20, seed=3)
        assert str(stratum.per_image) == str(as_test_set.per_image)
        assert str(stratum.per_lesion) == str(as_test_set.per_lesion)


def test_without_a_table_strata_are_left_out() -> None:
    found = evaluate(make({"mel": 4, "nv": 6}), resamples=5)
    assert found.strata == {}
    assert set(found.strata_left_out) == set(STRATA)
    assert set(found.strata_left_out.values()) == {"no table of the data set was given."}


def test_empty_and_unknown_strata_are_left_out_with_the_reason(table: pd.DataFrame) -> None:
    single = table.drop_duplicates("lesion_id", keep=False)
    found = evaluate(predict_from(single), resamples=5, table=table)
    assert found.strata_left_out == {"several_images": "there are no such images."}
    unknown = table.assign(dx_type="unknown")
    found = evaluate(predict_from(table), resamples=5, table=unknown)
    assert list(found.strata) == ["several_images"]
    assert set(found.strata_left_out) == {"histologically_confirmed", "without_follow_up_nevi"}
    assert "does not say how" in found.strata_left_out["without_follow_up_nevi"]


def test_metrics_that_a_stratum_lacks_are_undefined(table: pd.DataFrame) -> None:
    table = table[table["dx"].isin(["mel", "nv"])].assign(dx_type="histo")
    table.loc[table["dx"] == "nv", "dx_type"] = "follow_up"
    found = evaluate(predict_from(table), resamples=5, table=table)
    stratum = found.strata["histologically_confirmed"]
    assert "nv" in stratum.absent_classes
    assert "nv" not in found.absent_classes
    for name in ("recall/nv", "auc/mel", "auc_macro"):
        assert stratum.per_image.metrics[name].method == "undefined"
    assert stratum.per_image.metrics["balanced_accuracy"].method != "undefined"


def test_a_table_of_other_images_is_refused(table: pd.DataFrame) -> None:
    predictions = predict_from(table)
    with pytest.raises(PredictionError, match="a row for the image"):
        evaluate(predictions, resamples=5, table=table.iloc[1:])
    with pytest.raises(PredictionError, match="has the lesion_id"):
        evaluate(predictions, resamples=5, table=table.assign(lesion_id=table["image_id"]))


def predict_from(table: pd.DataFrame) -> Predictions:
    """Make predictions with some skill for the images of a table."""
    rng = np.random.default_rng(0)
    own = table["dx"].to_numpy()[:, None] == np.array(CLASSES)
    scores = np.exp(rng.normal(size=own.shape) + 2 * own)
    scores /= scores.sum(axis=1, keepdims=True)
    return make_predictions(table.assign(split="test"), scores)


def make_binary(seed: int = 0, images: int = 240) -> Predictions:
    """Make predictions of a binary task with a quarter of positives."""
    rng = np.random.default_rng(seed)
    truth = np.arange(images) % 4 == 0
    score = 1 / (1 + np.exp(-rng.normal(size=images) - 1.5 * truth + 1))
    rows = [
        (f"I{n:03d}", f"L{n:03d}", "mel" if is_positive else "other", "test")
        for n, is_positive in enumerate(truth)
    ]
    return make_predictions(rows, np.stack([1 - score, score], axis=1), classes=["other", "mel"])


def test_a_binary_task_has_the_metrics_of_its_positive_class(tmp_path: Path) -> None:
    predictions = make_binary()
    found = evaluate(predictions, resamples=200)
    write_evaluation(found, predictions, tmp_path)
    stored = json.loads((tmp_path / "metrics.json").read_text())["per_image"]
    truth, score = predictions.targets, predictions.probabilities[:, 1]
    expected = {
        "recall/mel": recall_score(truth, score > 0.5),
        "specificity/mel": recall_score(1 - truth, score <= 0.5),
        "auc/mel": roc_auc_score(truth, score),
        "average_precision/mel": average_precision_score(truth, score),
        "balanced_accuracy": balanced_accuracy_score(truth, score > 0.5),
    }
    assert list(stored["metrics"]) == list(metrics_of(["other", "mel"]))
    assert stored["class_counts"] == {"other": 180, "mel": 60}
    for name, value in expected.items():
        metric = stored["metrics"][name]
        assert metric["value"] == pytest.approx(value, abs=1e-12)
        assert metric["low"] < value < metric["high"]
        assert metric["high"] - metric["low"] < 0.35
    shown = binary_metrics(predictions.classes)
    assert set(shown.values()) == set(expected) - {"balanced_accuracy"}


def test_both_classes_of_a_binary_task_have_the_same_ranking() -> None:
    # Their resamples are perfectly correlated, so a mean over both is no better known than one.
    metrics = evaluate(make_binary(seed=1), resamples=200).per_image.metrics
    mel, macro = metrics["auc/mel"], metrics["auc_macro"]
    assert macro.value == pytest.approx(mel.value)
    assert (macro.low, macro.high) == pytest.approx((mel.low, mel.high), abs=1e-6)
