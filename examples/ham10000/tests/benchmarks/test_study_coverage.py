import numpy as np
import pytest
from scipy.stats import binom
from study_coverage import MEASURED, simulate

from ham10000.statistics import decide

STUDIES = 400


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 1.0])
@pytest.mark.parametrize(("folds", "seeds"), [(5, 3), (1, 6)])
def test_intervals_of_a_study_have_their_nominal_coverage(
    folds: int, seeds: int, shared: float
) -> None:
    measured = MEASURED["balanced_accuracy"]
    found = simulate(
        measured, folds, seeds, difference=0.7, shared=shared, studies=STUDIES, resamples=100
    )
    low, high = binom.ppf([0.001, 0.999], STUDIES, 0.95)
    for look in (0, 1):
        covered = sum(looks[look].low <= 0.7 <= looks[look].high for looks in found)
        assert low <= covered <= high
    spread = np.std([looks[0].mean for looks in found])
    expected = np.sqrt(np.mean([looks[0].standard_error ** 2 for looks in found]))
    assert spread == pytest.approx(expected, rel=0.1), "the error is neither too large nor small"


def test_a_large_difference_is_found_and_a_small_one_is_equivalent() -> None:
    measured = MEASURED["auc_macro"]
    large = simulate(measured, 5, 3, difference=2.0, studies=20, resamples=50)
    none = simulate(measured, 5, 3, difference=0.0, studies=20, resamples=50)
    assert {decide(looks[0], measured.margin).outcome for looks in large} == {"better"}
    assert {decide(looks[0], measured.margin).outcome for looks in none} == {"equivalent"}
