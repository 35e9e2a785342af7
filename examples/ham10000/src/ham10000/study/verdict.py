"""One sentence that follows from the numbers by a rule that was there before them."""

from ham10000.study.statistics import Estimate

__all__ = ["describe_change", "metric_name", "verdict"]

_LOSSES = ("ece", "brier", "log_loss")
"""Metrics of which less is better, and which aren't shares."""

_NAMES = {
    "auc": "AUC",
    "ece": "calibration error",
    "brier": "Brier score",
    "f1": "F1",
}


def verdict(metric: str, first: str, second: str, difference: Estimate) -> str:
    """Say what changing one recipe for the other did.

    Example:
        >>> from ham10000.study.statistics import Estimate
        >>> from ham10000.study.verdict import verdict
        >>> found = Estimate(0.008, 0.01, low=-0.006, high=0.021, p=0.2, values=(0.0, 0.016))
        >>> print(verdict("balanced_accuracy", "lite0", "lite0_sa", found))
        lite0_sa instead of lite0 changed balanced accuracy by +0.8 points, 95 % interval -0.6 to
        2.1: no evidence of a difference.

    Args:
        metric: its name in `ham10000.evaluation.metrics.summarize`.
        first: the name of the recipe that is compared with.
        second: the name of the other.
        difference: of the second to the first.
    """
    if difference.low <= 0 <= difference.high:
        found = "no evidence of a difference"
    else:
        better = (difference.mean > 0) != (metric in _LOSSES)
        found = f"{second} is {'better' if better else 'worse'}"
    return f"{second} instead of {first} changed {describe_change(metric, difference)}: {found}."


def describe_change(metric: str, difference: Estimate) -> str:
    """Name a metric, and give its change with its interval, shares in points.

    Example:
        >>> from ham10000.study.statistics import Estimate
        >>> from ham10000.study.verdict import describe_change
        >>> found = Estimate(-0.021, 0.01, low=-0.06, high=0.018, p=0.2, values=(0.0, 0.016))
        >>> describe_change("log_loss", found)
        'log loss by -0.021, 95 % interval -0.060 to 0.018'
    """
    name = metric_name(metric)
    if metric in _LOSSES:
        mean, low, high = (
            f"{value:{sign}.3f}"
            for value, sign in ((difference.mean, "+"), (difference.low, ""), (difference.high, ""))
        )
        return f"{name} by {mean}, 95 % interval {low} to {high}"
    mean, low, high = (
        f"{100 * value:{sign}.1f}"
        for value, sign in ((difference.mean, "+"), (difference.low, ""), (difference.high, ""))
    )
    return f"{name} by {mean} points, 95 % interval {low} to {high}"


def metric_name(metric: str) -> str:
    """Say a metric's name in words.

    Example:
        >>> from ham10000.study.verdict import metric_name
        >>> metric_name("auc_weighted"), metric_name("recall/mel")
        ('weighted AUC', 'recall of mel')
    """
    metric, _, label = metric.partition("/")
    kind, _, average = metric.rpartition("_")
    if average not in ("weighted", "macro"):
        kind, average = metric, ""
    name = f"{average} {_NAMES.get(kind, kind.replace('_', ' '))}".strip()
    return f"{name} of {label}" if label else name
