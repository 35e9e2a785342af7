import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from ham10000.statistics import (
    auc_interval,
    bias_corrected_interval,
    correlation_matrix,
    critical_value,
    difference_interval,
    log_interval,
    logit_interval,
    mean_interval,
    standard_error,
    wilson,
)


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilson_is_scipys(hits: int, more: int) -> None:
    trials = hits + more
    expected = binomtest(hits, trials).proportion_ci(method="wilson")
    assert wilson(hits / trials, trials) == pytest.approx(tuple(expected), abs=1e-12)


def test_without_trials_the_interval_is_0_to_1() -> None:
    assert wilson(0.0, 0) == wilson(0.5, -1e-9) == (0, 1)


def test_wilson_stays_between_0_and_1() -> None:
    for trials in range(1, 500):
        assert wilson(0.0, trials)[0] >= 0
        assert wilson(1.0, trials)[1] <= 1


def test_scales_are_symmetric_on_their_own_terms() -> None:
    low, high = logit_interval(0.9, 0.05)
    assert low / (1 - low) * high / (1 - high) == pytest.approx(81)
    assert 0.9 - low > high - 0.9
    # By the delta method, errors of p have the size p (1 - p) times that of errors of logit p.
    assert math.log(high / (1 - high)) - math.log(9) == pytest.approx(0.05 / (0.9 * 0.1))
    low, high = log_interval(0.5, 0.1)
    assert low * high == pytest.approx(0.25)
    assert math.log(high / 0.5) == pytest.approx(0.2)
    assert log_interval(0.0, 0.1) == (0, 0)


def test_an_area_without_an_error_has_that_of_normal_scores() -> None:
    # Scores of 30 images from N(2, 1) and of 200 from N(0, 1): the areas of 4,000 such samples
    # spread as the interval says, which knows nothing but one area and the sizes.
    rng = np.random.default_rng(0)
    own, others = rng.normal(2, 1, (4000, 30, 1)), rng.normal(0, 1, (4000, 1, 200))
    areas = np.array([(one > other).mean() for one, other in zip(own, others, strict=True)])
    area = norm.cdf(2 / math.sqrt(2))
    assert areas.mean() == pytest.approx(area, abs=0.002)
    low, high = auc_interval(area, 0.0, 30, 200)
    slope = norm.pdf(norm.ppf(area))
    error = (norm.ppf(high) - norm.ppf(low)) / 2 / 1.959964 * slope
    assert error == pytest.approx(areas.std(), rel=0.05)


def test_the_interval_of_an_area_follows_the_resamples_only_with_many_lesions() -> None:
    def width(error: float, own: int) -> float:
        low, high = auc_interval(0.95, error, own, 10_000)
        return high - low

    assert width(0.02, 5000) / width(0.01, 5000) == pytest.approx(2, rel=0.03)
    assert width(0.02, 10) / width(0.01, 10) < 1.2
    assert auc_interval(1.0, 0.0, 10, 1000)[0] < auc_interval(1.0, 0.0, 100, 1000)[0] < 1
    assert auc_interval(1.0, 0.0, 10, 1000)[1] == 1
    assert auc_interval(0.0, 0.0, 10, 1000)[0] == 0
    assert auc_interval(0.7, 0.0, 1, 1)[0] < 0.1, "one pair says next to nothing"


@pytest.mark.parametrize(("own", "others"), [(50, 200), (200, 50)])
def test_the_variance_of_an_area_is_a_geometric_mean(own: int, others: int) -> None:
    def variance(error: float) -> float:
        low, high = auc_interval(0.9, error, own, others)
        far = (norm.ppf(high) - norm.ppf(low)) / 2 * norm.pdf(norm.ppf(0.9))
        return float(far / 1.959964) ** 2

    # The smaller group weighs 50 lesions, and the model 40.
    expected = (0.02**2 * 50 / 49) ** (50 / 90) * variance(0.0) ** (40 / 90)
    assert variance(0.02) == pytest.approx(expected, rel=1e-5)


def test_the_error_of_an_area_needs_two_lesions_of_each_group() -> None:
    assert auc_interval(0.9, 0.2, 1, 100) == auc_interval(0.9, 0.0, 1, 100)
    assert auc_interval(0.9, 0.2, 100, 1) == auc_interval(0.9, 0.0, 100, 1)
    assert auc_interval(0.9, 0.2, 2, 100) != auc_interval(0.9, 0.0, 2, 100)


def test_the_groups_of_an_area_can_be_exchanged() -> None:
    assert auc_interval(0.9, 0.0, 30, 70) == pytest.approx(auc_interval(0.9, 0.0, 70, 30))


def test_an_area_of_1_counts_as_half_a_pair_less() -> None:
    assert auc_interval(1.0, 0.0, 2, 3)[0] == pytest.approx(auc_interval(1 - 0.5 / 6, 0.0, 2, 3)[0])
    assert auc_interval(0.0, 0.0, 2, 3)[1] == pytest.approx(auc_interval(0.5 / 6, 0.0, 2, 3)[1])


def test_a_correction_subtracts_the_bias_of_the_resamples() -> None:
    drawn = np.random.default_rng(0).normal(0.06, 0.005, 4000)
    low, high = bias_corrected_interval(0.05, drawn, 10**6)
    assert (low + high) / 2 == pytest.approx(0.04, abs=2e-4)
    assert (high - low) / 2 == pytest.approx(1.1 * 1.959964 * 0.005, rel=0.05)
    assert bias_corrected_interval(0.001, drawn, 10**6)[0] == 0
    assert bias_corrected_interval(1.0, np.array([0.0, 0.01]), 100) == (1, 1)
    assert bias_corrected_interval(0.0, np.array([0.99, 1.0]), 100) == (0, 0)


def test_the_interval_of_a_mean_depends_on_the_correlations() -> None:
    values, limits = np.array([0.5, 0.7]), np.array([[0.4, 0.6], [0.6, 0.8]])
    equal = np.array([0.5, 0.5])
    for related, half in ((0.0, 0.1 / math.sqrt(2)), (1.0, 0.1), (-1.0, 0.0)):
        matrix = np.array([[1, related], [related, 1]])
        assert mean_interval(values, limits, equal, matrix) == pytest.approx(
            (0.6 - half, 0.6 + half)
        )
    alone = mean_interval(values, limits, np.array([1.0, 0.0]), np.eye(2))
    assert alone == pytest.approx((0.4, 0.6))
    # Lower limits are below by 0.2 and 0.3, upper ones above by 0.1 and 0.2.
    limits = np.array([[0.3, 0.6], [0.4, 0.9]])
    below = math.sqrt((0.25 * 0.2) ** 2 + (0.75 * 0.3) ** 2)
    above = math.sqrt((0.25 * 0.1) ** 2 + (0.75 * 0.2) ** 2)
    low, high = mean_interval(values, limits, np.array([0.25, 0.75]), np.eye(2))
    assert (low, high) == pytest.approx((0.65 - below, 0.65 + above))


def test_rounding_of_correlations_does_not_make_a_limit_undefined() -> None:
    values, limits = np.array([0.5, 0.7]), np.array([[0.4, 0.6], [0.6, 0.8]])
    rounded = np.array([[1, -1 - 1e-9], [-1 - 1e-9, 1]])
    assert mean_interval(values, limits, np.array([0.5, 0.5]), rounded) == pytest.approx((0.6, 0.6))
    one, other = (0.5, 0.4, 0.6), (0.7, 0.6, 0.8)
    assert difference_interval(one, other, 1 + 1e-9) == pytest.approx((0.2, 0.2))


shares = st.lists(st.floats(0, 1), min_size=3, max_size=3).map(sorted)


@given(shares, shares, st.floats(-1, 1))
def test_a_difference_stays_within_its_bounds(
    a: list[float], b: list[float], related: float
) -> None:
    first, second = ((each[1], each[0], each[2]) for each in (a, b))
    low, high = difference_interval(first, second, related)
    change = b[1] - a[1]
    assert -1 - 1e-9 <= low <= change + 1e-12
    assert change - 1e-12 <= high <= 1 + 1e-9
    back = difference_interval(second, first, related)
    assert back == pytest.approx((-high, -low), abs=1e-12)


def test_a_difference_from_an_infinite_limit_is_unbounded() -> None:
    assert difference_interval((0.5, 0.0, math.inf), (0.4, 0.3, 0.5), 0.9) == (-math.inf, math.inf)


def test_correlations_are_numpys_where_there_is_spread() -> None:
    drawn = np.random.default_rng(0).normal(size=(3, 50))
    drawn[2] += drawn[0]
    assert correlation_matrix(drawn) == pytest.approx(np.corrcoef(drawn), abs=1e-12)
    drawn[1] = 0.3
    assert correlation_matrix(drawn)[1] == pytest.approx([0, 1, 0])


def test_correlations_do_not_exceed_1() -> None:
    drawn = np.random.default_rng(0).normal(size=(40, 7))
    related = correlation_matrix(np.concatenate([drawn, 3 * drawn, -drawn]))
    assert abs(related).max() == 1
    assert correlation_matrix(np.array([[0.1], [0.2]])).tolist() == [[1, 0], [0, 1]]


def test_few_lesions_widen_the_interval() -> None:
    assert critical_value(10**6) == pytest.approx(1.959964, rel=1e-4)
    assert critical_value(6) == pytest.approx(2.570582 * math.sqrt(6 / 5), rel=1e-6)
    assert critical_value(2) == pytest.approx(12.706205 * math.sqrt(2), rel=1e-6)
    assert critical_value(1) == critical_value(0) == pytest.approx(1.959964, rel=1e-6)


def test_rounding_is_no_spread() -> None:
    assert standard_error(np.array([0.3, 0.3 + 1e-16, 0.3])) == 0
    assert standard_error(np.array([0.3])) == 0
    assert standard_error(np.array([0.0, 1.0])) == pytest.approx(math.sqrt(0.5))
    assert standard_error(np.array([0.0, 1.3e-12])) == 0
    assert standard_error(np.array([0.0, 1.5e-12])) == pytest.approx(1.5e-12 * math.sqrt(0.5))
