"""What evaluations and comparisons print: tables of at most 80 columns."""

import math

from rich import box
from rich.table import Table

from ham10000.data.facts import CLASSES
from ham10000.evaluation.comparison import Comparison, Differences
from ham10000.evaluation.delong import AreaDifference
from ham10000.evaluation.evaluate import Evaluation
from ham10000.evaluation.intervals import Interval
from ham10000.printing import console

__all__ = ["print_comparison", "print_evaluation"]

_HEADLINES = (
    "balanced_accuracy",
    "accuracy",
    "auc_weighted",
    "auc_macro",
    "average_precision_macro",
    "f1_weighted",
    "f1_macro",
    "precision_weighted",
    "precision_macro",
    "specificity_macro",
    "ece",
    "brier",
    "log_loss",
)
_OF_CLASSES = ("recall", "precision", "auc")


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the averages per image and per lesion, and three metrics of each class."""
    out = console()
    image, lesion = evaluation.per_image, evaluation.per_lesion
    table = _table("")
    for title, level in (("images", image), ("lesions", lesion)):
        table.add_column(f"{level.count:,} {title}", no_wrap=True)
    for name in _HEADLINES:
        table.add_row(_words(name), _interval(image.metrics[name]), _interval(lesion.metrics[name]))
    out.print(table, "")

    table = _table("")
    table.add_column("n", justify="right", no_wrap=True)
    for metric in _OF_CLASSES:
        table.add_column(_words(metric), no_wrap=True)
    for name in CLASSES:
        intervals = (image.metrics[f"{metric}/{name}"] for metric in _OF_CLASSES)
        count = f"{image.class_counts[name]:,}"
        table.add_row(name, count, *(_interval(each) for each in intervals))
    out.print(table, "")
    _print_absent(evaluation.absent_classes)
    out.print(
        f"In brackets: intervals of 95 %, from {evaluation.resamples:,} draws of lesions, seed "
        f"{evaluation.seed}."
    )


def print_comparison(comparison: Comparison) -> None:
    """Print the differences of the averages and of each class's recall, per image."""
    out = console()
    found = comparison.per_image
    out.print(f"A: {comparison.a}\nB: {comparison.b}", markup=False, soft_wrap=True)
    out.print()
    table = _table(f"{found.count:,} images")
    for title in ("A", "B", "B - A", "p"):
        table.add_column(title, no_wrap=True)
    names = [*_HEADLINES, *(f"recall/{name}" for name in CLASSES)]
    for name in names:
        each = found.metrics[name]
        if math.isnan(each.difference):
            table.add_row(_words(name), *(["undefined"] + [""] * 3))
            continue
        difference = f"{each.difference:+.3f} [{each.low:+.3f}, {each.high:+.3f}]"
        table.add_row(_words(name), f"{each.a:.3f}", f"{each.b:.3f}", difference, _p(each.p_value))
    out.print(table, "")
    for title, level in (("images", found), ("lesions", comparison.per_lesion)):
        out.print(_mcnemar(title, level))
    for name in ("auc_weighted", "auc_macro"):
        out.print(f"{_words(name)}, DeLong's test: {_area(found.areas[name])}", markup=False)
    _print_absent(comparison.absent_classes)
    out.print(
        f"In brackets: intervals of 95 % from {comparison.resamples:,} draws of lesions, the same "
        f"for both, seed {comparison.seed}. A row's p is below 0.05 where its interval excludes "
        "0; it is of one metric, not corrected for their number. McNemar's and DeLong's are other "
        "tests, with p-values of their own."
    )


def _table(corner: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column(corner, no_wrap=True)
    return table


def _print_absent(names: list[str]) -> None:
    if names:
        console().print(
            f"No image of {', '.join(names)}: undefined, and left out of the averages.",
            style="yellow",
        )


def _mcnemar(title: str, level: Differences) -> str:
    test = level.mcnemar
    return (
        f"{level.count:,} {title}: only A is right about {test.only_a:,}, only B about "
        f"{test.only_b:,}; McNemar's p {_is(test.p_value)}"
    )


def _area(area: AreaDifference) -> str:
    if area.undefined is not None:
        return f"undefined, as {area.undefined}"
    interval = f"{area.difference:+.4f} [{area.low:+.4f}, {area.high:+.4f}]"
    return f"{interval}, p {_is(area.p_value)}"


def _interval(found: Interval) -> str:
    if math.isnan(found.value):
        return "undefined"
    return f"{found.value:.3f} \\[{found.low:.3f}, {found.high:.3f}]"


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}"


def _is(p_value: float) -> str:
    return "< .001" if p_value < 0.001 else f"= {p_value:.3f}"


def _words(name: str) -> str:
    metric, _, of = name.partition("/")
    words = metric.replace("_", " ").replace("auc", "AUC").replace("f1", "F1")
    words = words.replace("ece", "calibration error")
    return f"{words} {of}".strip()
