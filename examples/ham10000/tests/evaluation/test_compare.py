import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from making import make
from scipy.stats import binom, norm

from ham10000.errors import PredictionError
from ham10000.evaluation import (
    METRICS,
    Predictions,
    by_lesion,
    compare,
    draw_lesions,
    intervals,
    make_predictions,
    mcnemar,
    only_one_right,
    summarize,
)
from ham10000.evaluation.compare import _p_value

SIZES = {"bkl": 40, "mel": 60, "nv": 200}


def with_noise(predictions: Predictions, amount: float, seed: int = 0) -> Predictions:
    noise = np.random.default_rng(seed).normal(size=predictions.probabilities.shape)
    scores = predictions.probabilities * np.exp(amount * noise)
    return make_predictions(predictions.table, scores / scores.sum(axis=1, keepdims=True))


def test_predictions_of_different_classes_are_not_compared() -> None:
    rows = [("a", "L1", "mel", "test"), ("b", "L2", "nv", "test")]
    two = make_predictions(rows, np.eye(2), classes=["mel", "nv"])
    three = make_predictions(rows, np.eye(3)[:2], classes=["mel", "nv", "scar"])
    with pytest.raises(PredictionError, match="classes of A are mel, nv, and those of B mel, nv,"):
        compare(two, three, resamples=2)


def test_images_that_only_one_model_gets_right() -> None:
    a = make(SIZES)
    b = with_noise(a, 2.0)
    shuffled = make_predictions(b.table.iloc[::-1], b.probabilities[::-1])
    found = only_one_right(a, shuffled, ("one", "other"))
    right = [each.probabilities.argmax(axis=1) == each.targets for each in (a, b)]
    for name, first, second in (("one", *right), ("other", *right[::-1])):
        rows = found[found["right"] == name]
        assert rows["image_id"].tolist() == a.table["image_id"][first & ~second].tolist()
        assert len(rows) > 5
    test = mcnemar(*right)
    assert found["right"].value_counts().to_dict() == {"one": test.only_a, "other": test.only_b}
    for row in found.itertuples():
        correct = row.predicted_a if row.right == "one" else row.predicted_b
        assert (correct, row.predicted_a != row.predicted_b) == (row.dx, True)
    assert only_one_right(a, a).empty
    with pytest.raises(PredictionError, match="comparing B with A"):
        only_one_right(a, make({"mel": 3}), ("B", "A"))


def test_a_model_does_not_differ_from_itself() -> None:
    predictions = make(SIZES)
    found = compare(predictions, predictions, resamples=50)
    y, lesions = predictions.targets, predictions.lesions
    alone = intervals(y, predictions.probabilities, lesions, draw_lesions(y, lesions, 50))
    for level in (found.per_image, found.per_lesion):
        assert level.mcnemar.p_value == 1
        for each in level.metrics.values():
            if not math.isnan(each.difference):
                assert each.difference == 0
                assert each.p_value == 1
                assert each.low == pytest.approx(-each.high, abs=1e-12)
    for name in ("accuracy", "auc_macro", "brier"):
        # Two that agree on all of these may differ on others, by less than either may be off.
        each, one = found.per_image.metrics[name], alone[name]
        assert 0 <= each.high < (one.high - one.low) / 4


def test_a_worse_model_is_detected_and_the_order_changes_only_the_sign() -> None:
    good = make(SIZES, skill=3.0)
    bad = with_noise(good, 2.0)
    there, back = compare(good, bad, resamples=400), compare(bad, good, resamples=400)
    for level in ("per_image", "per_lesion"):
        one, other = getattr(there, level), getattr(back, level)
        for name in ("accuracy", "balanced_accuracy", "auc_macro", "f1_macro"):
            assert one.metrics[name].high < 0 < other.metrics[name].low
            assert one.metrics[name].p_value == other.metrics[name].p_value < 1e-3
            assert one.metrics[name].low == pytest.approx(-other.metrics[name].high, abs=1e-12)
        assert one.mcnemar.only_a == other.mcnemar.only_b > one.mcnemar.only_b
        assert one.mcnemar.p_value < 1e-3
        assert one.aucs["auc_macro"].high < 0


def test_values_are_those_of_each_alone_per_image_and_per_lesion() -> None:
    a = make(SIZES)
    b = with_noise(a, 0.5)
    found = compare(a, b, resamples=10)
    for level, of in ((found.per_image, lambda p: p), (found.per_lesion, by_lesion)):
        first, second = (summarize(of(p).targets, of(p).probabilities) for p in (a, b))
        assert level.count == len(of(a))
        assert list(level.metrics) == list(METRICS)
        for name, each in level.metrics.items():
            assert (each.a, each.b) == pytest.approx((first[name], second[name]), nan_ok=True)
            assert each.difference == pytest.approx(second[name] - first[name], nan_ok=True)


def test_a_class_without_images_is_listed_and_undefined() -> None:
    found = compare(make(SIZES), with_noise(make(SIZES), 1.0), resamples=10)
    assert found.absent_classes == ["akiec", "bcc", "df", "vasc"]
    lost = found.per_image.metrics["recall/df"]
    assert math.isnan(lost.difference)
    assert math.isnan(lost.p_value)
    assert math.isfinite(found.per_image.metrics["recall_macro"].low)


def test_pairing_makes_the_interval_narrow() -> None:
    a = make(SIZES)
    b = with_noise(a, 0.3)
    other = make(SIZES, seed=9)
    # The same truths, unrelated mistakes.
    scores = other.table.sort_values("dx").to_numpy()[:, 4:]
    unrelated = make_predictions(a.table.sort_values("dx"), scores.astype(float))
    near = compare(a, b, resamples=400).per_image.metrics["accuracy"]
    far = compare(a, unrelated, resamples=400).per_image.metrics["accuracy"]
    assert near.high - near.low < 0.6 * (far.high - far.low)


def test_rows_may_be_in_another_order() -> None:
    a = make(SIZES)
    b = with_noise(a, 0.5)
    shuffled = replace(b, table=b.table.sample(frac=1, random_state=1))
    assert str(compare(a, shuffled, resamples=20)) == str(compare(a, b, resamples=20))


def test_mcnemar_is_the_binomial_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 300)) < [[0.8], [0.7]]
    found = mcnemar(a, b)
    fewer, unequal = min(found.only_a, found.only_b), found.only_a + found.only_b
    assert unequal == (a != b).sum()
    assert found.p_value == pytest.approx(min(1, 2 * binom.cdf(fewer, unequal, 0.5)), abs=1e-12)


def test_refuses_other_images_and_other_truths() -> None:
    a = make(SIZES)
    fewer = replace(a, table=a.table.iloc[3:])
    with pytest.raises(PredictionError, match=r"comparing x with y: no row .*_\d+ \(3 such: ISIC"):
        compare(a, fewer, ("x", "y"))
    with pytest.raises(PredictionError, match=r"\), which x doesn't have. These are 300 images, x"):
        compare(fewer, a, ("x", "y"))
    table: pd.DataFrame = a.table.copy()
    lesion = table["lesion_id"].iloc[0]
    table.loc[table["lesion_id"] == lesion, "dx"] = "vasc"
    with pytest.raises(PredictionError, match=r"row 2 has the dx vasc for .*, but x has"):
        compare(a, replace(a, table=table), ("x", "y"))


@pytest.mark.parametrize("sizes", [SIZES, {"bkl": 3, "mel": 4, "nv": 6, "vasc": 1}, {"nv": 3}])
@pytest.mark.parametrize("noise", [0.3, 1.5])
def test_intervals_stay_where_differences_are_and_p_values_agree_with_them(
    sizes: dict[str, int], noise: float
) -> None:
    a = make(sizes, seed=3)
    found = compare(a, with_noise(a, noise), resamples=200)
    for level in (found.per_image, found.per_lesion):
        for name, each in level.metrics.items():
            if math.isnan(each.difference):
                continue
            largest = {"brier": 2, "log_loss": math.inf}.get(name, 1)
            assert -largest <= each.low <= each.difference <= each.high <= largest, name
            assert (each.p_value < 0.05) == (not each.low <= 0 <= each.high), name
        for name, auc in level.aucs.items():
            if auc.undefined is None:
                assert -1 <= auc.low <= auc.difference <= auc.high <= 1
                assert (auc.p_value < 0.05) == (not auc.low <= 0 <= auc.high), name


def test_a_p_value_is_a_twentieth_where_the_interval_touches_zero() -> None:
    assert _p_value(0.3, 0.0, 0.4) == pytest.approx(0.05)
    assert _p_value(-0.3, -0.4, 0.0) == pytest.approx(0.05)
    assert _p_value(0.3, 0.15, 0.4) == pytest.approx(2 * norm.sf(2 * 1.959964), rel=1e-5)
    assert _p_value(0.0, 0.0, 0.0) == 1
    assert _p_value(0.1, -math.inf, math.inf) == 1
