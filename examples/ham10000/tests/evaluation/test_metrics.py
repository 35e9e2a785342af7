import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import make
from sklearn import metrics as sk

from ham10000.data import CLASSES
from ham10000.errors import PredictionError
from ham10000.evaluation import (
    LOWER_IS_BETTER,
    METRICS,
    absent_classes,
    confusion,
    metric_name,
    reliability_bins,
    summarize,
    upper_bound,
)
from ham10000.evaluation.metrics import best_temperature, bin_of

EXACT = {"rel": 0, "abs": 1e-12}


@pytest.mark.parametrize("grid", [None, 10])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_scikit_learn_on_random_predictions(seed: int, grid: int | None) -> None:
    predictions = make(seed=seed, grid=grid)
    y, p = predictions.targets, predictions.probabilities
    hat, onehot = p.argmax(axis=1), np.eye(7)[y]
    found = summarize(y, p)
    expected = {
        "accuracy": sk.accuracy_score(y, hat),
        "balanced_accuracy": sk.balanced_accuracy_score(y, hat),
        "brier": ((p - onehot) ** 2).sum() / len(y),
        "log_loss": sk.log_loss(y, p, labels=range(7)),
        "average_precision_macro": sk.average_precision_score(onehot, p, average="macro"),
    }
    for average in ("weighted", "macro"):
        common = {"average": average, "zero_division": 0.0}
        expected[f"precision_{average}"] = sk.precision_score(y, hat, **common)
        expected[f"recall_{average}"] = sk.recall_score(y, hat, **common)
        expected[f"f1_{average}"] = sk.f1_score(y, hat, **common)
        expected[f"auc_{average}"] = sk.roc_auc_score(y, p, multi_class="ovr", average=average)
    specificities = []
    for label, name in enumerate(CLASSES):
        is_positive, said = y == label, hat == label
        specificities.append(sk.recall_score(~is_positive, ~said))
        expected[f"recall/{name}"] = sk.recall_score(is_positive, said)
        expected[f"precision/{name}"] = sk.precision_score(is_positive, said, zero_division=0.0)
        expected[f"f1/{name}"] = sk.f1_score(is_positive, said)
        expected[f"specificity/{name}"] = specificities[-1]
        expected[f"auc/{name}"] = sk.roc_auc_score(is_positive, p[:, label])
        expected[f"average_precision/{name}"] = sk.average_precision_score(is_positive, p[:, label])
        expected[f"sensitivity_at_95_specificity/{name}"] = max(
            (p[is_positive, label] >= threshold).mean()
            for threshold in [*p[:, label], 2.0]
            if (p[~is_positive, label] >= threshold).sum() <= (~is_positive).sum() // 20
        )
    expected["specificity_macro"] = np.mean(specificities)
    expected["ece"] = naive_ece(y, p)
    assert list(found) == list(METRICS)
    assert found == pytest.approx(expected, **EXACT)


def naive_ece(y: np.ndarray, p: np.ndarray) -> float:
    total = 0.0
    for k in range(15):
        inside = [i for i in range(len(y)) if k / 15 < p[i].max() <= (k + 1) / 15]
        if inside:
            right = np.mean([p[i].argmax() == y[i] for i in inside])
            total += len(inside) * abs(right - np.mean([p[i].max() for i in inside]))
    return total / len(y)


def test_a_class_without_images_is_undefined_and_left_out_of_averages() -> None:
    predictions = make({"bkl": 30, "mel": 20, "nv": 60})
    y, p = predictions.targets, predictions.probabilities
    found = summarize(y, p)
    assert absent_classes(y) == ["akiec", "bcc", "df", "vasc"]
    for name in CLASSES:
        undefined = [math.isnan(found[metric]) for metric in METRICS if metric.endswith(f"/{name}")]
        assert len(undefined) == 7
        assert all(undefined) == any(undefined) == (name in absent_classes(y))
    for metric in ("recall", "precision", "f1", "specificity", "auc", "average_precision"):
        there = [found[f"{metric}/{name}"] for name in ("bkl", "mel", "nv")]
        assert found[f"{metric}_macro"] == pytest.approx(np.mean(there), **EXACT)
    assert math.isfinite(found["auc_weighted"])


def test_one_class_alone_has_recall_but_no_auc() -> None:
    found = summarize([5, 5], [[0.0] * 5 + [0.6, 0.4], [0.0] * 5 + [0.4, 0.6]])
    assert found["recall/nv"] == found["balanced_accuracy"] == 0.5
    assert found["precision/nv"] == found["average_precision/nv"] == 1
    for name in ("auc/nv", "auc_macro", "auc_weighted", "specificity/nv", "specificity_macro"):
        assert math.isnan(found[name]), name


def test_a_class_that_is_never_predicted_has_precision_zero() -> None:
    found = summarize([4, 5], np.eye(7)[[5, 5]])
    assert found["precision/mel"] == found["f1/mel"] == 0
    assert found["precision_macro"] == 0.25


def test_of_equal_probabilities_the_first_class_is_predicted() -> None:
    tied = [[0, 0.5, 0, 0, 0.5, 0, 0]] * 2
    counts = confusion([1, 4], tied)
    assert counts[1, 1] == counts[4, 1] == 1
    assert counts.sum() == 2


def test_confusion_is_scikit_learns() -> None:
    predictions = make()
    y, p = predictions.targets, predictions.probabilities
    assert (confusion(y, p) == sk.confusion_matrix(y, p.argmax(axis=1))).all()


@given(st.integers(1, 40), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_what_always_holds(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, 7, count), rng.dirichlet(np.ones(7), count)
    found = summarize(y, p)
    assert found["accuracy"] == pytest.approx(found["recall_weighted"], **EXACT)
    assert found["balanced_accuracy"] == found["recall_macro"]
    assert 0 <= found["brier"] <= 2
    for name, value in found.items():
        if name not in ("brier", "log_loss"):
            assert math.isnan(value) or -1e-12 <= value <= 1 + 1e-12, name
    order = rng.permutation(count)
    assert summarize(y[order], p[order]) == pytest.approx(found, nan_ok=True, abs=1e-12)


def test_bins_are_open_below_and_closed_above() -> None:
    assert bin_of(np.array([1 / 15, np.nextafter(1 / 15, 1), 14 / 15, 1.0])).tolist() == [
        0,
        1,
        13,
        14,
    ]
    mean, correct, size = reliability_bins([5, 4], np.eye(7)[[5, 5]])
    assert size.tolist() == [0] * 14 + [2]
    assert mean[-1] == 1
    assert correct[-1] == 0.5
    assert np.isnan(mean[:-1]).all()


@pytest.mark.parametrize(
    ("targets", "probabilities", "message"),
    [
        ([0], np.eye(6)[[0]], r"shapes \(1,\) and \(1, 6\)"),
        ([0, 1], np.eye(7)[[0]], r"Expected \(N,\) and \(N, 7\)"),
        ([], np.zeros((0, 7)), "at least one image"),
        ([7], np.eye(7)[[0]], "from 7 to 7"),
        ([-1], np.eye(7)[[0]], "from -1"),
        ([0.0], np.eye(7)[[0]], "targets are float64"),
        ([0], np.full((1, 7), np.nan), "image 0 has the probabilities"),
        ([0], np.full((1, 7), 1.0), "softmax of finite logits"),
    ],
)
def test_refuses_what_cannot_be_measured(
    targets: list, probabilities: object, message: str
) -> None:
    with pytest.raises(PredictionError, match=message):
        summarize(targets, probabilities)


def test_every_metric_has_a_bound_and_a_name_of_its_own() -> None:
    names = [metric_name(name) for name in METRICS]
    assert len(set(names)) == len(METRICS)
    assert not any("_" in name or "/" in name for name in names)
    assert metric_name("sensitivity_at_95_specificity/mel") == (
        "sensitivity for mel at 95 % specificity"
    )
    assert {name for name in METRICS if upper_bound(name) != 1} == {"brier", "log_loss"}
    assert set(LOWER_IS_BETTER) <= set(METRICS)


def test_the_temperature_undoes_a_scaling_of_the_scores() -> None:
    predictions = make()
    once = best_temperature(predictions.targets, predictions.probabilities)
    values = predictions.probabilities**2  # half of the temperature
    twice = best_temperature(predictions.targets, values / values.sum(1, keepdims=True))
    assert twice == pytest.approx(2 * once, abs=0.02)
