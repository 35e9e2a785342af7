import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ham10000.errors import ArgumentError
from ham10000.statistics import (
    CellEstimate,
    decide,
    estimate_cells,
    holm,
    seeds_needed,
    shared_variance,
)

FIVE_BY_TWO = [[0.01, 0.03], [0.0, 0.01], [0.02, 0.03], [0.01, 0.02], [0.02, 0.01]]


def test_without_lesion_variance_it_is_a_pooled_t_interval() -> None:
    rng = np.random.default_rng(0)
    cells = rng.normal(0.3, 1.0, (4, 3)) + np.arange(4)[:, None]
    found = estimate_cells(cells, 0.0, 100)
    within = sum(row.var(ddof=1) for row in cells) / 4
    half = stats.t.ppf(0.975, 8) * math.sqrt(within / 12)
    assert (found.low, found.high) == pytest.approx((cells.mean() - half, cells.mean() + half))
    assert found.training_df == 8
    one_split = rng.normal(0.3, 1.0, 6)
    found = estimate_cells(one_split[None], 0.0, 100)
    expected = stats.ttest_1samp(one_split, 0.0)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_differences_between_folds_do_not_widen_the_interval() -> None:
    cells = np.array(FIVE_BY_TWO)
    shifted = cells + np.array([-1.0, 1.0, 0.5, -0.5, 0.0])[:, None]
    one, other = (estimate_cells(each, 0.001**2, 500) for each in (cells, shifted))
    assert one.high - one.low == pytest.approx(other.high - other.low)


def test_both_parts_have_their_own_half_width_by_hand() -> None:
    cells = [[-1.0, 1.0], [1.0, -1.0]]  # variance 2 in both folds, so 0.5 for the mean
    found = estimate_cells(cells, 0.5, 11)
    assert found.standard_error == pytest.approx(1.0)
    training, lesions = 4.30265 * math.sqrt(0.5), 2.22814 * math.sqrt(0.5)  # t(2) and t(10)
    assert found.high == pytest.approx(math.hypot(training, lesions), rel=1e-5)


@given(st.floats(0, 1), st.floats(-0.1, 0.1), st.sampled_from([0.9, 0.95, 0.975]))
def test_p_agrees_with_the_interval(variance: float, shift: float, level: float) -> None:
    found = estimate_cells(np.array(FIVE_BY_TWO) + shift, variance**2, 300, level=level)
    assert found.low <= found.mean <= found.high
    if abs(found.p - (1 - level)) > 1e-9:
        assert (found.p < 1 - level) == (found.low > 0 or found.high < 0)


def test_p_is_small_where_one_source_of_variation_is_missing() -> None:
    cells = np.array(FIVE_BY_TWO) + 100
    assert 0 < estimate_cells(cells, 0.0, 100).p < 1e-15
    assert 0 < estimate_cells(np.full((5, 2), 0.1), 0.01**2, 500).p < 1e-15


@pytest.mark.parametrize("difference", [0.0, 0.1])
def test_without_any_variation_only_identical_predictions_are_certain(difference: float) -> None:
    same = estimate_cells(np.zeros((5, 2)), 0.0, 100, identical=True)
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert decide(same, 0.005).outcome == "equivalent"
    # Three values of 0.1 have a mean that differs from 0.1 in the last bit.
    found = estimate_cells(np.full((5, 3), difference), 1e-32, 100, bounds=(-1.0, 1.0))
    assert (found.standard_error, found.low, found.high, found.p) == (0, -1, 1, 1)
    verdict = decide(found, 0.005)
    assert verdict.outcome == "undecided"
    assert "standard error is unknown" in verdict.reason


def test_identical_predictions_of_few_runs_give_no_verdict() -> None:
    found = estimate_cells(np.zeros((2, 3)), 0.0, 100, identical=True)
    assert decide(found, 0.005).outcome == "too few runs"


def test_bounds_hold() -> None:
    wide = estimate_cells([[0.9, -0.9], [0.5, -0.5]], 1.0, 100, bounds=(-1.0, 1.0))
    assert (wide.low, wide.high) == (-1, 1)


def test_an_estimate_is_json() -> None:
    content = json.loads(json.dumps(estimate_cells(FIVE_BY_TWO, 0.0, 100).as_dict()))
    assert content["values"] == FIVE_BY_TWO
    assert content["training_df"] == 5


@pytest.mark.parametrize(
    ("values", "variance", "message"),
    [
        ([[0.1], [0.2]], 0.0, r"shape \(2, 1\).*two seeds"),
        ([0.1, 0.2], 0.0, r"shape \(2,\)"),
        ([[0.1, math.nan]], 0.0, "1 non-finite differences"),
        ([[0.1, 0.2]], -1.0, r"the variance -1\.0"),
    ],
)
def test_invalid_cells_are_refused(values: list[object], variance: float, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        estimate_cells(values, variance, 100)


def test_shared_variance_leaves_out_what_differs_between_seeds() -> None:
    rng = np.random.default_rng(1)
    shared, own = rng.normal(0, 2, (1, 50_000)), rng.normal(0, 3, (4, 50_000))
    assert shared_variance(shared + own) == pytest.approx(4, rel=0.05)
    assert shared_variance(np.repeat(shared, 2, axis=0)) == pytest.approx(4, rel=0.05)
    assert shared_variance(np.stack([own[0], -own[0]])) == 0
    with pytest.raises(ArgumentError, match=r"shape \(1, 10\)"):
        shared_variance(np.zeros((1, 10)))


def estimated(low: float, high: float, cells: tuple[int, int] = (5, 3)) -> CellEstimate:
    mean, (folds, seeds) = (low + high) / 2, cells
    error = (high - low) / 4
    values = tuple((mean,) * seeds for _ in range(folds))
    df = folds * (seeds - 1)
    return CellEstimate(mean, low, high, 0.01, 0.95, error, error, 0.0, df, 999, values)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.001, 0.020, "better"),
        (-0.020, -0.001, "worse"),
        (-0.020, 0.020, "undecided"),
        (-0.004, 0.005, "equivalent"),
        (0.001, 0.004, "equivalent"),
        (0.001, 0.006, "better"),
        (0.0, 0.006, "undecided"),
    ],
)
def test_verdicts_follow_from_interval_and_margin(low: float, high: float, outcome: str) -> None:
    assert decide(estimated(low, high), 0.005).outcome == outcome
    swap = {"better": "worse", "worse": "better"}
    lower = decide(estimated(low, high), 0.005, lower_is_better=True).outcome
    assert lower == swap.get(outcome, outcome)


def test_a_verdict_needs_enough_runs_and_says_how_many() -> None:
    found = decide(estimated(0.1, 0.2, (1, 5)), 0.005)
    assert found.outcome == "too few runs"
    assert "1 fold with 5 seeds has 4 degrees" in found.reason
    assert "6 seeds" in found.reason
    assert decide(estimated(0.1, 0.2, (1, 6)), 0.005).outcome == "better"
    assert decide(estimated(0.1, 0.2, (5, 2)), 0.005).outcome == "better"


@given(st.integers(1, 30))
def test_the_seeds_needed_are_the_fewest(folds: int) -> None:
    seeds = seeds_needed(folds)
    assert folds * (seeds - 1) >= 5
    assert seeds == 2 or folds * (seeds - 2) < 5


def test_a_verdict_respects_the_adjustment_for_many_tests() -> None:
    found = estimated(0.001, 0.020)
    assert decide(found, 0.005, adjusted_p=0.04).outcome == "better"
    refused = decide(found, 0.005, adjusted_p=0.06)
    assert refused.outcome == "undecided"
    assert "multiple testing" in refused.reason
    with pytest.raises(ArgumentError, match=r"the margin is 0"):
        decide(found, 0.0)


def test_holm_by_hand() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}
