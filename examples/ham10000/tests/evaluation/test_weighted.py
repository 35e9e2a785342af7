import math

import numpy as np
import pytest
from making import make

from ham10000.evaluation.metrics import METRICS, summarize
from ham10000.evaluation.weighted import summarize_weighted


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
