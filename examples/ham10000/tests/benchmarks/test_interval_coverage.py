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
    # What intervals that hold 95 % still hold in so many studies, but for one chance in a hundred
    # that any of these numbers is lower.
    least = binom.ppf(0.01 / (2 * len(found)), STUDIES, 0.95) / STUDIES
    # And the main ones are not held too often either, as shares of 15 lesions are.
    few, many = binom.ppf([0.001, 0.999], STUDIES, 0.95) / STUDIES
    for held in ("value coverage", "difference coverage"):
        assert (found[held] >= least).all(), found[held].to_string()
        assert found[held][MAIN].between(few, many).all(), found[held].to_string()
        # Their mean is known better, though the metrics of a study go together.
        assert 0.935 < found[held].mean() < 0.97
    assert found["difference"]["balanced_accuracy"] < -0.01, "the second model is worse"
