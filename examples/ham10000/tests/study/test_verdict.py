import re

import pytest

from ham10000.study.statistics import Estimate
from ham10000.study.verdict import verdict


def change(mean: float, low: float, high: float) -> Estimate:
    return Estimate(mean, 0.01, low, high, 0.01, (mean, mean))


@pytest.mark.parametrize(
    ("metric", "difference", "expected"),
    [
        ("accuracy", change(0.02, 0.01, 0.03), r"accuracy by \+2.0 points.*: sa is better"),
        ("accuracy", change(-0.02, -0.03, -0.01), r"accuracy by -2.0 points.*: sa is worse"),
        ("accuracy", change(0.02, -0.01, 0.05), "-1.0 to 5.0: no evidence of a difference"),
        ("accuracy", change(0.0, 0.0, 0.0), "no evidence"),
        ("brier", change(0.02, 0.01, 0.03), r"Brier score by \+0.020,.*: sa is worse"),
        ("log_loss", change(-0.02, -0.03, -0.01), "log loss by -0.020.*: sa is better"),
        ("f1_macro", change(0.001, -0.001, 0.003), r"changed macro F1 by \+0.1 points"),
        ("auc_weighted", change(0.001, -0.001, 0.003), r"weighted AUC by \+0.1 points"),
    ],
)
def test_the_sentence_follows_from_the_interval(
    metric: str, difference: Estimate, expected: str
) -> None:
    assert re.search(expected, verdict(metric, "bare", "sa", difference))
