import math

import numpy as np
import pytest
from making import make
from sklearn.metrics import roc_auc_score

from ham10000.evaluation import summarize
from ham10000.statistics import auc_covariance, compare_aucs
from ham10000.statistics.delong import auc_influence


def pairwise(is_positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute DeLong's placements by their definition, pair by pair."""
    wins = [
        [float(x > y) + 0.5 * float(x == y) for y in scores[~is_positive]]
        for x in scores[is_positive]
    ]
    return np.mean(wins, axis=1), np.mean(wins, axis=0)


@pytest.mark.parametrize("grid", [None, 8])
def test_covariance_is_delongs_where_each_lesion_has_one_image(grid: int | None) -> None:
    a, b = make({"mel": 23, "nv": 41}, seed=1, grid=grid), make({"mel": 23, "nv": 41}, seed=1)
    is_positive = a.targets == 4
    scores = [a.probabilities[:, 4], (b.probabilities**0.5)[:, 1]]
    own, others = zip(*(pairwise(is_positive, score) for score in scores), strict=True)
    expected = np.cov(own) / 23 + np.cov(others) / 41
    found = [auc_influence(is_positive, score, np.arange(64)) for score in scores]
    influence = np.stack([each for _, each in found])
    assert influence @ influence.T == pytest.approx(expected, abs=1e-14)
    for (area, _), score in zip(found, scores, strict=True):
        assert area == pytest.approx(roc_auc_score(is_positive, score), abs=1e-14)


def test_images_written_twice_change_no_variance_when_the_lesion_is_known() -> None:
    predictions = make({"mel": 20, "nv": 30}, seed=2)
    is_positive, score = predictions.targets == 4, predictions.probabilities[:, 4]
    _, once = auc_influence(is_positive, score, np.arange(50))
    _, twice = auc_influence(np.tile(is_positive, 2), np.tile(score, 2), np.tile(np.arange(50), 2))
    assert twice == pytest.approx(once, abs=1e-14)


def test_variance_is_that_of_resampling_lesions() -> None:
    predictions = make({"bcc": 40, "mel": 150, "nv": 400}, seed=3, skill=1.0)
    y, p, lesions = predictions.targets, predictions.probabilities, predictions.lesions
    rng = np.random.default_rng(0)
    of_lesion = [np.flatnonzero(lesions == number) for number in range(lesions.max() + 1)]
    melanoma = np.array([y[images[0]] == 4 for images in of_lesion])
    areas = []
    for _ in range(1500):
        drawn = np.concatenate(
            [rng.choice(np.flatnonzero(group), group.sum()) for group in (melanoma, ~melanoma)]
        )
        images = np.concatenate([of_lesion[number] for number in drawn])
        areas.append(roc_auc_score(y[images] == 4, p[images, 4]))
    _, influence = auc_influence(y == 4, p[:, 4], lesions)
    # A standard deviation from 1,500 draws is known to 1.8 %.
    assert np.sqrt(influence @ influence) == pytest.approx(np.std(areas), rel=0.07)


@pytest.mark.slow
def test_the_difference_of_two_models_is_that_of_exchanging_them() -> None:
    # Under no difference the two scores of an image can change places: a permutation says how
    # far the difference then strays.
    rng = np.random.default_rng(4)
    is_positive = np.arange(400) < 120
    shared = rng.normal(size=400) + 1.0 * is_positive
    a, b = shared + rng.normal(size=(2, 400)) * 0.7
    differences = []
    for _ in range(1500):
        change = rng.random(400) < 0.5
        left, right = np.where(change, b, a), np.where(change, a, b)
        differences.append(roc_auc_score(is_positive, right) - roc_auc_score(is_positive, left))
    lesions = np.arange(400)
    _, of_a = auc_influence(is_positive, a, lesions)
    _, of_b = auc_influence(is_positive, b, lesions)
    error = np.linalg.norm(of_a - of_b)
    assert error == pytest.approx(np.std(differences), rel=0.1)
    independent = np.hypot(np.linalg.norm(of_a), np.linalg.norm(of_b))
    assert error < 0.8 * independent, "it is the paired error"


def test_averages_and_classes_are_those_of_summarize() -> None:
    predictions = make(seed=5)
    y, p = predictions.targets, predictions.probabilities
    areas, covariances = auc_covariance(y, [p, p[:, [1, 2, 3, 4, 5, 6, 0]]], predictions.lesions)
    expected = [summarize(y, p), summarize(y, p[:, [1, 2, 3, 4, 5, 6, 0]])]
    assert len(areas) == 9
    for name, values in areas.items():
        assert values == pytest.approx([each[name] for each in expected], abs=1e-12)
        assert np.linalg.eigvalsh(covariances[name]).min() > 0


def test_a_class_that_is_not_there_is_undefined_and_left_out() -> None:
    predictions = make({"bkl": 20, "mel": 30, "nv": 40})
    y, p = predictions.targets, predictions.probabilities
    found = compare_aucs(y, p, p, predictions.lesions)
    assert math.isnan(found["auc/df"].difference)
    assert math.isnan(found["auc/df"].p_value)
    assert found["auc_macro"].a == pytest.approx(summarize(y, p)["auc_macro"], abs=1e-12)


def test_a_model_differs_from_itself_by_nothing() -> None:
    predictions = make(seed=6)
    p = predictions.probabilities
    for each in compare_aucs(predictions.targets, p, p, predictions.lesions).values():
        assert each.difference == each.standard_error == each.low == each.high == 0
        assert each.p_value == 1


def test_a_better_model_is_detected() -> None:
    good, bad = make(seed=7, skill=3.0), make(seed=7, skill=1.0)
    found = compare_aucs(good.targets, bad.probabilities, good.probabilities, good.lesions)
    macro = found["auc_macro"]
    assert macro.difference > 0.05
    assert macro.low > 0
    assert macro.p_value < 1e-6
    assert macro.high - macro.difference == pytest.approx(1.959964 * macro.standard_error, rel=1e-6)


def test_a_single_lesion_has_no_spread() -> None:
    area, influence = auc_influence([1, 0, 0], [0.9, 0.1, 0.2], [0, 1, 2])
    assert area == 1
    assert math.isnan(influence[0])


def test_what_has_no_error_says_why() -> None:
    y, p = np.array([4, 5, 5, 5]), np.eye(7)[[4, 5, 5, 4]] * 0.3 + 0.1
    found = compare_aucs(y, p, p[::-1], [0, 1, 2, 2])
    assert found["auc/mel"].undefined == "mel has one lesion"
    assert found["auc_macro"].undefined == "mel has one lesion"
    assert found["auc/df"].undefined == "no image is df"
    assert math.isnan(found["auc_weighted"].p_value)
    same = compare_aucs(y[1:], p[1:], p[1:], [0, 1, 1])
    assert same["auc/nv"].undefined == "all images are nv"
    assert same["auc_macro"].undefined == "all images are of one class"
    assert math.isnan(same["auc_macro"].difference)


def test_no_difference_is_beyond_one() -> None:
    y = np.repeat([4, 5], 3)
    up, down = np.zeros((6, 7)), np.zeros((6, 7))
    up[:, 4], down[:, 4] = [0.9, 0.8, 0.3, 0.4, 0.2, 0.1], [0.1, 0.2, 0.6, 0.3, 0.8, 0.9]
    up[:, 5], down[:, 5] = 1 - up[:, 4], 1 - down[:, 4]
    found = compare_aucs(y, up, down, np.arange(6))["auc/mel"]
    assert found.difference - 1.96 * found.standard_error < -1
    assert found.low == -1
    assert found.undefined is None
