import math
import time

import numpy as np
import pytest
from making import make
from scipy.special import logit
from scipy.stats import binomtest

from ham10000.data import CLASSES
from ham10000.evaluation import (
    METRICS,
    Predictions,
    draw_lesions,
    intervals,
    summarize,
    summarize_weighted,
)
from ham10000.statistics import bias_corrected_interval, critical_value, wilson


def estimate(predictions: Predictions, resamples: int = 400, seed: int = 0):
    y, p, lesions = predictions.targets, predictions.probabilities, predictions.lesions
    return intervals(y, p, lesions, draw_lesions(y, lesions, resamples, seed))


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


def test_the_recall_of_single_image_lesions_has_wilsons_interval() -> None:
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


def test_two_thousand_draws_of_the_official_test_set_take_seconds() -> None:
    predictions = make()
    start = time.process_time()
    estimate(predictions, resamples=2000)
    assert time.process_time() - start < 5


def test_perfect_metrics_have_intervals_too() -> None:
    y = np.repeat([4, 5], [10, 40])
    found = intervals(y, np.eye(7)[y], np.arange(50), draw_lesions(y, np.arange(50), 100))
    assert found["recall/mel"].value == found["auc/mel"].value == 1
    for name, trials in (("recall/mel", 10), ("precision/mel", 10), ("specificity/mel", 40)):
        assert (found[name].low, found[name].high) == wilson(1.0, trials)
    assert 0.7 < found["auc/mel"].low < 0.99
    assert found["average_precision/mel"].low == wilson(1.0, 10)[0]
    assert found["accuracy"].low == pytest.approx(wilson(1.0, 50)[0])
    assert found["balanced_accuracy"].low < found["accuracy"].low
    assert found["brier"].value == found["brier"].low == found["brier"].high == 0


def test_a_class_that_is_never_found_has_a_precision_of_which_nothing_is_known() -> None:
    y = np.repeat([4, 5], [10, 40])
    none = np.eye(7)[np.full(50, 5)]
    found = intervals(y, none, np.arange(50), draw_lesions(y, np.arange(50), 100))
    each = found["precision/mel"]
    assert (each.value, each.low, each.high) == (0, 0, 1)
    assert found["f1/mel"].high == wilson(0.0, 5)[1]


def test_a_single_lesion_says_nothing_about_losses() -> None:
    y = np.full(3, 5)
    found = intervals(y, np.eye(7)[y] * 0.4 + 0.6 / 7, [0, 0, 0], draw_lesions(y, [0, 0, 0], 50))
    for name, largest in (("ece", 1), ("brier", 2), ("log_loss", math.inf)):
        assert (found[name].low, found[name].high) == (0, largest)


def test_means_over_classes_come_from_the_classes() -> None:
    predictions = make(seed=4)
    y, p, lesions = predictions.targets, predictions.probabilities, predictions.lesions
    counts = draw_lesions(y, lesions, 300)
    drawn, found = summarize_weighted(y, p, counts), intervals(y, p, lesions, counts)
    for mean, metric, weights in (
        ("balanced_accuracy", "recall", np.ones(7)),
        ("f1_macro", "f1", np.ones(7)),
        ("auc_weighted", "auc", np.bincount(y)),
    ):
        parts = [found[f"{metric}/{name}"] for name in CLASSES]
        related = np.corrcoef([drawn[f"{metric}/{name}"] for name in CLASSES])
        weights = weights / weights.sum()
        below = weights * [each.value - each.low for each in parts]
        above = weights * [each.high - each.value for each in parts]
        each = found[mean]
        assert each.value - each.low == pytest.approx(math.sqrt(below @ related @ below))
        assert each.high - each.value == pytest.approx(math.sqrt(above @ related @ above))
        assert each.method == "mover"
    assert found["recall_macro"] == found["balanced_accuracy"]


def test_reaches_are_those_of_the_draws_standard_errors() -> None:
    predictions = make(seed=5)
    y, p, lesions = predictions.targets, predictions.probabilities, predictions.lesions
    counts = draw_lesions(y, lesions, 300)
    drawn, found = summarize_weighted(y, p, counts), intervals(y, p, lesions, counts)
    f1, loss, far = found["f1_weighted"], found["log_loss"], critical_value(lesions.max() + 1)
    error = np.std(drawn["f1_weighted"], ddof=1) / (f1.value * (1 - f1.value))
    low, value, high = (logit(each) for each in (f1.low, f1.value, f1.high))
    assert [low, high] == pytest.approx(value + far * error * np.array([-1, 1]), rel=1e-6)
    error = np.std(drawn["log_loss"], ddof=1) / loss.value
    assert math.log(loss.high / loss.value) == pytest.approx(far * error, rel=1e-6)
    ece = found["ece"]
    assert (ece.low, ece.high) == bias_corrected_interval(
        ece.value, drawn["ece"], lesions.max() + 1
    )
