import numpy as np
import pytest

from ham10000.errors import ArgumentError
from ham10000.statistics import estimate, holm, reach, spread


def simulated_study(
    rng: np.random.Generator, seeds: int, lesions: int, between: float, truth: float
) -> tuple[np.ndarray, tuple[float, float]]:
    """Differences by seed and lesion with effects of both, and of the two together."""
    table = (
        truth
        + between * rng.standard_normal((seeds, 1))
        + rng.standard_normal((1, lesions))
        + rng.standard_normal((seeds, lesions))
    )
    draws = rng.multinomial(lesions, np.full(lesions, 1 / lesions), size=300) / lesions
    half = reach(lesions) * spread(draws @ table.mean(axis=0))
    return table.mean(axis=1), (table.mean() - half, table.mean() + half)


@pytest.mark.parametrize(("seeds", "between"), [(2, 1.0), (2, 0.3), (3, 0.3), (5, 0.1), (10, 0.1)])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds: int, between: float) -> None:
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(1000):
        found = estimate(*simulated_study(rng, seeds, 100, between, truth=0.5))
        held += found.low <= 0.5 <= found.high
    assert 0.94 <= held / 1000 <= 0.985


def test_seeds_alone_underestimate_the_variation() -> None:
    """The spread over seeds excludes variation of lesions, so Student's interval is too narrow."""
    rng = np.random.default_rng(8)
    held = 0
    for _ in range(500):
        values, _ = simulated_study(rng, 5, 100, 0.0, truth=0.0)
        held += abs(values.mean()) <= 2.776 * values.std(ddof=1) / np.sqrt(5)
    assert held / 500 < 0.9


def test_p_agrees_with_the_interval() -> None:
    rng = np.random.default_rng(9)
    for _ in range(200):
        found = estimate(*simulated_study(rng, 4, 50, 0.2, truth=0.3))
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_no_difference_has_a_p_value_of_one() -> None:
    found = estimate(np.zeros(3), (0.0, 0.0))
    assert (found.mean, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_one_seed_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"found 1, expected.*ham10000 compare"):
        estimate(np.array([0.5]), (0.4, 0.6))


def test_the_distances_to_both_limits_differ() -> None:
    """By hand: t(1) is 12.706, and the two values spread by 0.01 around their mean."""
    found = estimate(np.array([0.89, 0.91]), (0.7, 0.95), possible=(0.0, 1.0))
    seeds = 12.7062047 * 0.01
    assert found.low == pytest.approx(0.9 - np.hypot(seeds, 0.2), abs=1e-7)
    assert found.high == 1.0 < 0.9 + np.hypot(seeds, 0.05)


def test_without_variation_the_interval_is_a_point() -> None:
    found = estimate(np.full(3, 0.2), (0.2, 0.2))
    assert (found.low, found.high) == pytest.approx((0.2, 0.2), abs=1e-12)
    assert found.p < 1e-9


def test_holm_by_hand() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}
