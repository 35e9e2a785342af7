import pytest

from ham10000.evaluation.coverage import simulate


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    found = simulate((0, 0, 60, 0, 60, 150, 0), studies=200, resamples=200)
    assert len(found) == 15 + 7 * 3, "classes without lesions have no metrics"
    for held in ("value held", "difference held"):
        # 200 studies know a single share of 95 % to 1.5 points.
        assert found[held].between(0.9, 0.995).all()
        assert 0.93 < found[held].mean() < 0.97
    headlines = found.loc[["accuracy", "balanced_accuracy", "f1_macro", "auc_weighted"]]
    assert ((headlines > 0.92) | (headlines.columns == "difference")).all(axis=None)
    assert found["difference"]["balanced_accuracy"] < -0.01, "the second model is worse"
