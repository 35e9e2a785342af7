import math

import numpy as np
import pytest
from making import make

from ham10000.errors import ArgumentError
from ham10000.evaluation import METRICS, draw_lesions, summarize, summarize_weighted


@pytest.mark.parametrize("grid", [None, 10])
@pytest.mark.parametrize("sizes", [None, {"akiec": 1, "mel": 3, "nv": 9}, {"nv": 5}])
def test_equals_scikit_learn_on_the_images_written_out(
    grid: int | None, sizes: dict[str, int] | None
) -> None:
    predictions = make(sizes, seed=5, grid=grid)
    y, p = predictions.targets, predictions.probabilities
    weights = np.random.default_rng(0).integers(0, 4, (len(y), 150))
    weights[0] = np.maximum(weights[0], 1)
    found = summarize_weighted(y, p, weights)
    assert list(found) == list(METRICS)
    for column in [0, 1, 127, 128, 149]:
        written_out = np.repeat(np.arange(len(y)), weights[:, column])
        expected = summarize(y[written_out], p[written_out])
        for name in METRICS:
            value = found[name][column]
            assert value == pytest.approx(expected[name], rel=0, abs=1e-12, nan_ok=True), name


def test_weights_of_one_change_nothing() -> None:
    predictions = make(seed=2)
    y, p = predictions.targets, predictions.probabilities
    found = summarize_weighted(y, p, np.ones((len(y), 1)))
    assert {name: value[0] for name, value in found.items()} == pytest.approx(
        summarize(y, p), rel=0, abs=1e-12
    )


def test_a_class_drawn_nowhere_is_undefined_in_that_resample_alone() -> None:
    found = summarize_weighted([4, 5, 5], np.eye(7)[[4, 5, 5]], [[0, 1], [1, 1], [1, 1]])
    assert math.isnan(found["recall/mel"][0])
    assert found["recall/mel"][1] == 1
    assert found["recall_macro"].tolist() == [1, 1]


def test_each_draw_has_as_many_lesions_of_each_class_and_all_images_of_each() -> None:
    predictions = make({"df": 9, "mel": 40, "nv": 150}, seed=1)
    y, lesions = predictions.targets, predictions.lesions
    counts = draw_lesions(y, lesions, 50, seed=3)
    assert counts.shape == (199, 50)
    _, first = np.unique(lesions, return_index=True)
    assert (counts == counts[first][lesions]).all(), "images of one lesion go together"
    for label in np.unique(y):
        of_class = first[y[first] == label]
        assert (counts[of_class].sum(axis=0) == len(of_class)).all()


def test_counts_are_those_of_drawing_with_replacement() -> None:
    n = 40
    counts = draw_lesions(np.full(n, 5), np.arange(n), 4000)
    assert counts.mean() == 1
    # Binomial: n draws that each hit with 1 / n.
    assert counts.var() == pytest.approx(1 - 1 / n, rel=0.03)
    assert np.corrcoef(counts[0], counts[1])[0, 1] == pytest.approx(-1 / (n - 1), abs=0.05)


def test_the_seed_determines_the_resamples() -> None:
    predictions = make({"mel": 20, "nv": 30})
    y, lesions = predictions.targets, predictions.lesions
    assert (draw_lesions(y, lesions, 5) == draw_lesions(y, lesions, 5)).all()
    assert (draw_lesions(y, lesions, 5) != draw_lesions(y, lesions, 5, seed=1)).any()


def test_metrics_of_draws_are_scikit_learns_on_the_images_drawn() -> None:
    predictions = make(seed=4)
    y, p = predictions.targets, predictions.probabilities
    counts = draw_lesions(y, predictions.lesions, 140)
    found = summarize_weighted(y, p, counts)
    for column in (0, 70, 139):
        drawn = np.repeat(np.arange(len(y)), counts[:, column].astype(int))
        expected = summarize(y[drawn], p[drawn])
        assert {name: found[name][column] for name in METRICS} == pytest.approx(
            expected, rel=0, abs=1e-12
        )


def test_zero_resamples_are_refused() -> None:
    with pytest.raises(ArgumentError, match="0 resamples"):
        draw_lesions([0], [0], 0)
