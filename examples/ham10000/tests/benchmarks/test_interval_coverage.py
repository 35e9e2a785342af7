import pytest
from interval_coverage import simulate
from scipy.stats import binom

STUDIES = 200
MAIN = [
    "accuracy",
    "balanced_accuracy",
    "f1_macro",
    "auc_macro",
    "auc_weighted",
    "average_precision_macro",
    "ece",
    "brier",
]


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    found = simulate((0, 0, 60, 0, 60, 150, 15), studies=STUDIES, resamples=200)
    assert len(found) == 15 + 7 * 4, "classes without lesions have no metrics"
    # Smallest observed coverage that is compatible with a coverage of 95 %, at a level of 1 %
    # for all of these numbers together.
    least = binom.ppf(0.01 / (2 * len(found)), STUDIES, 0.95) / STUDIES
    # The main metrics must not have too high a coverage either, unlike shares of 15 lesions.
    few, many = binom.ppf([0.001, 0.999], STUDIES, 0.95) / STUDIES
    for held in ("value coverage", "difference coverage"):
        assert (found[held] >= least).all(), found[held].to_string()
        assert found[held][MAIN].between(few, many).all(), found[held].to_string()
        # The mean is known more precisely, although the metrics of a study are correlated.
        assert 0.935 < found[held].mean() < 0.97
    assert found["difference"]["balanced_accuracy"] < -0.01, "the second model is worse"
