import pytest

from ham10000.evaluation.coverage import simulate


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    found = simulate((0, 0, 60, 0, 60, 150, 0), studies=200, resamples=200)
    assert len(found) == 15 + 7 * 3, "classes without lesions have no metrics"
    for held in ("value held", "difference held"):
        # 200 studies know a single share of 95 % to 1.5 points, and areas near 1 are held less.
        assert found[held].between(0.85, 1).all()
        assert 0.925 < found[held].mean() < 0.97
        assert (found[held][["accuracy", "balanced_accuracy", "f1_macro"]] > 0.9).all()
    assert found["difference"]["balanced_accuracy"] < -0.01, "the second model is worse"
