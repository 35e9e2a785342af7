import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import make
from scipy.special import logit
from scipy.stats import binomtest

from ham10000.evaluation.intervals import intervals, reach, spread, wilson
from ham10000.evaluation.metrics import METRICS, summarize
from ham10000.evaluation.predictions import Predictions
from ham10000.evaluation.resampling import draw_lesions
from ham10000.evaluation.weighted import summarize_weighted


def estimate(predictions: Predictions, resamples: int = 400, seed: int = 0):
    y, p, lesions = predictions.targets, predictions.probabilities, predictions.lesions
    return intervals(y, p, lesions, draw_lesions(y, lesions, resamples, seed))


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilson_is_scipys(hits: int, more: int) -> None:
    trials = hits + more
    expected = binomtest(hits, trials).proportion_ci(method="wilson")
    assert wilson(hits / trials, trials) == pytest.approx(tuple(expected), abs=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_value_is_that_of_summarize_and_inside_its_interval(seed: int) -> None:
    predictions = make(seed=seed)
    found = estimate(predictions)
    assert list(found) == list(METRICS)
    values = summarize(predictions.targets, predictions.probabilities)
    for name, each in found.items():
        assert each.value == pytest.approx(values[name], abs=1e-12)
        assert each.low < each.high
        if name != "ece":
            assert each.low < each.value < each.high
        if name != "log_loss":
            assert 0 <= each.low < each.high <= 2


def test_a_recall_of_images_that_are_their_own_lesions_is_plainly_wilsons() -> None:
    predictions = make(seed=2)
    y, p = predictions.targets, predictions.probabilities
    lesions = np.arange(len(y))
    found = intervals(y, p, lesions, draw_lesions(y, lesions, 4000))["recall/mel"]
    hits = int((p[y == 4].argmax(axis=1) == 4).sum())
    low, high = binomtest(hits, 171).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)
    assert found.method == "wilson"


def test_images_of_one_lesion_are_no_more_than_one_image() -> None:
    single = make({"mel": 60, "nv": 90}, seed=3)
    y, p = single.targets, single.probabilities
    own = np.arange(len(y))
    once = intervals(y, p, own, draw_lesions(y, own, 2000))
    thrice = intervals(
        np.tile(y, 3),
        np.tile(p, (3, 1)),
        np.tile(own, 3),
        np.tile(draw_lesions(y, own, 2000), (3, 1)),
    )
    for name in ("accuracy", "recall/mel", "auc/mel", "balanced_accuracy"):
        assert thrice[name].low == pytest.approx(once[name].low, abs=0.004), name
        assert thrice[name].high == pytest.approx(once[name].high, abs=0.004), name


def test_what_never_fails_is_not_thereby_certain() -> None:
    y = np.repeat([4, 5], [10, 40])
    found = intervals(y, np.eye(7)[y], np.arange(50), draw_lesions(y, np.arange(50), 100))
    assert found["recall/mel"].value == found["auc/mel"].value == 1
    for name in ("recall/mel", "auc/mel", "average_precision/mel", "precision/mel"):
        assert found[name].low == pytest.approx(
            binomtest(10, 10).proportion_ci(method="wilson").low
        )
    assert found["accuracy"].low == pytest.approx(wilson(1.0, 50)[0])
    assert found["balanced_accuracy"].low < found["accuracy"].low
    assert found["brier"].value == found["brier"].low == found["brier"].high == 0


def test_balanced_accuracy_has_the_interval_of_a_mean_of_recalls() -> None:
    found = estimate(make(seed=4))
    recalls = [each for name, each in found.items() if name.startswith("recall/")]
    below = math.sqrt(sum((each.value - each.low) ** 2 for each in recalls)) / 7
    above = math.sqrt(sum((each.high - each.value) ** 2 for each in recalls)) / 7
    mean = found["balanced_accuracy"]
    assert mean.value - mean.low == pytest.approx(below, abs=1e-12)
    assert mean.high - mean.value == pytest.approx(above, abs=1e-12)
    assert found["recall_macro"] == mean


def test_reaches_are_those_of_the_draws_standard_errors() -> None:
    predictions = make(seed=5)
    y, p, lesions = predictions.targets, predictions.probabilities, predictions.lesions
    counts = draw_lesions(y, lesions, 300)
    drawn, found = summarize_weighted(y, p, counts), intervals(y, p, lesions, counts)
    f1, loss, far = found["f1_macro"], found["log_loss"], reach(lesions.max() + 1)
    error = np.std(drawn["f1_macro"], ddof=1) / (f1.value * (1 - f1.value))
    low, value, high = (logit(each) for each in (f1.low, f1.value, f1.high))
    assert [low, high] == pytest.approx(value + far * error * np.array([-1, 1]), rel=1e-6)
    error = np.std(drawn["log_loss"], ddof=1) / loss.value
    assert math.log(loss.high / loss.value) == pytest.approx(far * error, rel=1e-6)
    ece = found["ece"]
    q = np.quantile(drawn["ece"], [0.025, 0.975])
    assert (ece.low, ece.high) == pytest.approx((2 * ece.value - q[1], 2 * ece.value - q[0]))


def test_a_class_without_images_is_undefined_and_left_out_of_the_mean() -> None:
    found = estimate(make({"bkl": 30, "mel": 30, "nv": 60}))
    assert found["recall/df"].method == "undefined"
    assert math.isnan(found["recall/df"].low)
    there = [found[f"recall/{name}"].value for name in ("bkl", "mel", "nv")]
    assert found["balanced_accuracy"].value == pytest.approx(np.mean(there))
    assert math.isfinite(found["balanced_accuracy"].low)


def test_few_images_of_one_class_alone_have_intervals_too() -> None:
    found = estimate(make({"nv": 3}))
    assert 0 <= found["accuracy"].low <= found["accuracy"].value <= found["accuracy"].high <= 1
    assert found["auc_macro"].method == "undefined"


def test_few_lesions_reach_further() -> None:
    assert reach(10**6) == pytest.approx(1.959964, rel=1e-4)
    assert reach(6) == pytest.approx(2.570582 * math.sqrt(6 / 5), rel=1e-6)
    assert reach(1) == pytest.approx(1.959964, rel=1e-6)


def test_rounding_is_no_spread() -> None:
    assert spread(np.array([0.3, 0.3 + 1e-16, 0.3])) == 0
    assert spread(np.array([0.3])) == 0
    assert spread(np.array([0.0, 1.0])) == pytest.approx(math.sqrt(0.5))


def test_two_thousand_draws_of_the_official_test_set_take_seconds() -> None:
    predictions = make()
    start = time.process_time()
    estimate(predictions, resamples=2000)
    assert time.process_time() - start < 5
