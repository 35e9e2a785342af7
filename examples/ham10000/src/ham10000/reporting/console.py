"""The console of the commands, and the tables they print, at most 80 columns wide."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ham10000.data import VerificationReport
from ham10000.evaluation import (
    STRATA,
    Comparison,
    Difference,
    Differences,
    Evaluation,
    Interval,
    binary_metrics,
    format_change,
    format_p_value,
    metric_name,
    read_predictions,
    summarize,
)
from ham10000.reporting.inputs import Evaluated
from ham10000.reporting.tables import method_name, strata_notes
from ham10000.statistics import AucDifference
from ham10000.training import RunDir, dataset_of

__all__ = [
    "console",
    "print_comparison",
    "print_counts",
    "print_evaluation",
    "print_evaluations",
    "print_run",
    "print_saliency",
    "print_study",
    "print_verification",
]

_SIGNS = {
    "ok": "[green]ok[/]",
    "warning": "[yellow]warning[/]",
    "error": "[bold red]ERROR[/]",
}
_MAX_ITEMS = 20


def console() -> Console:
    """Return a console for standard output."""
    return Console(highlight=False)


def print_verification(report: VerificationReport) -> None:
    """Print the result of `verify`: one row per check, then the items of each problem."""
    out = console()
    table = Table(title=escape(str(report.root)), title_justify="left", show_lines=False)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in report.findings:
        table.add_row(finding.check, _SIGNS[finding.level], escape(finding.message))
    out.print(table)
    for finding in report.findings:
        if finding.level != "ok" and len(finding.items) > 1:
            out.print(f"\n{finding.check}:")
            for item in finding.items[:_MAX_ITEMS]:
                out.print(f"  {escape(item)}", soft_wrap=True)
            if len(finding.items) > _MAX_ITEMS:
                out.print(
                    f"  ... and {len(finding.items) - _MAX_ITEMS:,} more; --json has them all"
                )
    warnings = sum(finding.level == "warning" for finding in report.findings)
    verdict = "[green]usable[/]" if report.usable else "[bold red]not usable[/]"
    out.print(f"\n{verdict}, {warnings} warning{'s' * (warnings != 1)}")


def print_counts(counts: pd.DataFrame, title: str, corner: str = "") -> None:
    """Print a table of counts.

    Args:
        counts: Whole numbers, with labels as index and columns.
        title: Title of the table.
        corner: Heading of the column of labels.
    """
    table = Table(title=escape(title), title_justify="left")
    table.add_column(corner, no_wrap=True)
    for name in counts.columns:
        table.add_column(str(name), justify="right", no_wrap=True)
    for label, row in counts.iterrows():
        table.add_row(str(label), *(f"{int(value):,}" for value in row))
    console().print(table)


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
_CLASS_METRICS = ("recall", "precision", "auc")
_RUN_METRICS = ("balanced_accuracy", "auc_macro", "precision_weighted")
_STRATUM_METRICS = ("auc_macro", "balanced_accuracy")
_NAME_WIDTH = 16
"""Width of the column of names, where four intervals beside it fill 80 columns."""


def print_evaluation(evaluation: Evaluation) -> None:
    """Print averages per image and per lesion, metrics of each class, and averages by stratum."""
    out = console()
    image, lesion = evaluation.per_image, evaluation.per_lesion
    table = _table("")
    for title, level in (("images", image), ("lesions", lesion)):
        table.add_column(f"{level.count:,} {title}", no_wrap=True)
    names = binary_metrics(list(image.class_counts)) | {metric_name(n): n for n in _HEADLINES}
    for title, name in names.items():
        table.add_row(title, _interval(image.metrics[name]), _interval(lesion.metrics[name]))
    out.print(table, "")

    table = _table("")
    table.add_column("n", justify="right", no_wrap=True)
    for metric in _CLASS_METRICS:
        table.add_column(metric_name(metric), no_wrap=True)
    for name in image.class_counts:
        intervals = (image.metrics[f"{metric}/{name}"] for metric in _CLASS_METRICS)
        count = f"{image.class_counts[name]:,}"
        table.add_row(name, count, *(_interval(each) for each in intervals))
    out.print(table, "")
    if evaluation.strata:
        out.print(_strata_table(evaluation), "")
    _print_absent(evaluation.absent_classes)
    for note in strata_notes(evaluation):
        out.print(note, markup=False)
    _print_resamples(evaluation)


def print_evaluations(runs: Sequence[Evaluated]) -> None:
    """Print the most important metrics of several runs side by side, also by stratum."""
    out = console()
    table = _table("", width=_NAME_WIDTH)
    table.add_column("images", justify="right", no_wrap=True)
    for metric in _RUN_METRICS:
        table.add_column(metric_name(metric), width=14)
    for run in runs:
        image = run.evaluation.per_image
        cells = (_two_lines(image.metrics[metric]) for metric in _RUN_METRICS)
        table.add_row(escape(run.name), f"{image.count:,}", *cells)
    out.print(table, "")
    for metric in _STRATUM_METRICS if any(run.evaluation.strata for run in runs) else ():
        table = _table(metric_name(metric), width=_NAME_WIDTH)
        for title in ("all images", *STRATA.values()):
            table.add_column(title, width=14)
        for run in runs:
            strata = {"": run.evaluation, **run.evaluation.strata}
            cells = (
                f"{_two_lines(strata[name].per_image.metrics[metric])}\n"
                f"{strata[name].per_image.count:,} images"
                if name in strata
                else "left out"
                for name in ("", *STRATA)
            )
            table.add_row(escape(run.name), *cells)
        out.print(table, "")
    for run in runs:
        _print_absent(run.evaluation.absent_classes, f"{run.name}: ")
        for note in strata_notes(run.evaluation):
            out.print(f"{run.name}: {note}", markup=False)
    _print_resamples(runs[0].evaluation)


def _strata_table(evaluation: Evaluation) -> Table:
    # The names of metrics are folded, so that three columns of intervals fit into 80 columns.
    table = _table("", width=14)
    for name, stratum in evaluation.strata.items():
        count = stratum.per_image.count
        table.add_column(f"{STRATA[name]}\n{count:,} images", width=20)
    for metric in _HEADLINES:
        intervals = (stratum.per_image.metrics[metric] for stratum in evaluation.strata.values())
        table.add_row(metric_name(metric), *(_interval(each) for each in intervals))
    return table


def print_comparison(comparison: Comparison) -> None:
    """Print the differences in averages and in the recall of each class, per image."""
    out = console()
    found = comparison.per_image
    out.print(f"A: {comparison.a}\nB: {comparison.b}", markup=False, soft_wrap=True)
    out.print()
    table = _table(f"{found.count:,} images")
    for title in ("A", "B", "B - A", "p"):
        table.add_column(title, no_wrap=True)
    names = [*_HEADLINES, *(name for name in found.metrics if name.startswith("recall/"))]
    for name in names:
        each = found.metrics[name]
        if math.isnan(each.difference):
            table.add_row(metric_name(name), *(["undefined"] + [""] * 3))
            continue
        values = (f"{each.a:.3f}", f"{each.b:.3f}", _change(each, 3), format_p_value(each.p_value))
        table.add_row(metric_name(name), *values)
    out.print(table, "")
    for title, level in (("images", found), ("lesions", comparison.per_lesion)):
        out.print(_mcnemar(title, level))
    for name in ("auc_weighted", "auc_macro"):
        out.print(f"{metric_name(name)}, DeLong's test: {_auc(found.aucs[name])}", markup=False)
    _print_absent(comparison.absent_classes)
    out.print(
        f"In brackets: 95 % confidence intervals from {comparison.resamples:,} bootstrap resamples "
        f"of lesions, the same for A and B, seed {comparison.seed}. p is below 0.05 if the "
        "interval excludes 0, and is not corrected for the number of metrics. McNemar's and "
        "DeLong's tests are separate tests with their own p-values."
    )


def _table(corner: str, width: int | None = None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column(corner, width=width, overflow="fold", no_wrap=width is None)
    return table


def _print_resamples(evaluation: Evaluation) -> None:
    console().print(
        f"In brackets: 95 % confidence intervals from {evaluation.resamples:,} bootstrap resamples "
        f"of lesions, seed {evaluation.seed}."
    )


def _print_absent(names: list[str], of: str = "") -> None:
    if names:
        console().print(
            f"{of}There are no images of {', '.join(names)}; averages leave these classes out.",
            style="yellow",
            markup=False,
        )


def _mcnemar(title: str, level: Differences) -> str:
    test = level.mcnemar
    return (
        f"{level.count:,} {title}: only A is correct on {test.only_a:,}, only B on "
        f"{test.only_b:,}; McNemar's test: {_p_value(test.p_value)}"
    )


def _auc(auc: AucDifference) -> str:
    if auc.undefined is not None:
        return f"undefined: {auc.undefined}"
    return f"{_change(auc, 4)}, {_p_value(auc.p_value)}"


def _change(found: Difference | AucDifference, digits: int) -> str:
    low, high = format_change(found.low, digits), format_change(found.high, digits)
    return f"{format_change(found.difference, digits)} [{low}, {high}]"


def _p_value(value: float) -> str:
    text = format_p_value(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _interval(found: Interval) -> str:
    if math.isnan(found.value):
        return "undefined"
    return f"{found.value:.3f} \\[{found.low:.3f}, {found.high:.3f}]"


def _two_lines(found: Interval) -> str:
    return _interval(found).replace(" ", "\n", 1)


def print_study(result: Mapping[str, Any]) -> None:
    """Print the result of `summarize_study`: primary and secondary metrics, and the verdicts."""
    out = console()
    folds = f"{result['folds']} folds, " if result["folds"] else ""
    out.print(
        f"{folds}{len(result['seeds'])} seeds, {result['images']:,} test images of "
        f"{result['lesions']:,} lesions; values times 100",
        markup=False,
    )
    for arm in result["arms"]:
        out.print()
        out.print(_arm_table(result, arm))
    out.print()
    if result["undefined"]:
        out.print(f"Undefined on these images: {', '.join(result['undefined'])}", markup=False)
    for verdict in result["verdicts"].values():
        out.print(verdict, markup=False)


def _arm_table(result: Mapping[str, Any], arm: str) -> Table:
    tested = any(change["low"] is not None for change in result["comparisons"][arm].values())
    level = f", {100 * (1 - result['look']['level']):g} % intervals" if tested else ""
    title = f"{arm} (arm) instead of {result['control']} (control){level}"
    # Without edges, since a line of 80 columns has no room to spare.
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("mean")
    table.add_column("control", justify="right")
    table.add_column("arm", justify="right")
    table.add_column("change", justify="right", no_wrap=True)
    if tested:
        table.add_column("p (Holm)", justify="right", min_width=6)
    table.add_column("outcome", no_wrap=True)
    for name in (result["primary"], *result["secondaries"]):
        if name not in result["metrics"]:
            continue
        both, change = result["metrics"][name], result["comparisons"][arm][name]
        cells = [f"{100 * both[recipe]['mean']:.2f}" for recipe in (result["control"], arm)]
        cells.append(format_change(100 * change["mean"], 2))
        if tested:
            low, high = (format_change(100 * change[end], 2, "-") for end in ("low", "high"))
            cells[-1] += f" ({low} to {high})"
            cells.append(format_p_value(change["p_holm"]))
        table.add_row(metric_name(name), *cells, change["outcome"])
    return table


_COLUMNS = (
    "accuracy",
    "balanced_accuracy",
    "precision_weighted",
    "f1_macro",
    "auc_weighted",
    "log_loss",
)


def print_run(run: RunDir) -> None:
    """Print metrics for each split that a run has predicted."""
    out = console()
    if not run.done:
        out.print(f"Not finished. Resume with: ham10000 train --resume {run.path}", markup=False)
        return
    table = _table("")
    table.add_column("images", justify="right")
    for name in _COLUMNS:
        table.add_column(metric_name(name), justify="right")
    for split in ("val", "test"):
        path = run.predictions(split)
        if not path.exists():
            continue
        predictions = read_predictions(path, dataset_of(run.path).classes)
        measured = summarize(predictions.targets, predictions.probabilities, predictions.classes)
        cells = [f"{measured[name]:.4f}" for name in _COLUMNS]
        table.add_row(split, f"{len(predictions):,}", *cells)
    out.print(f"{run.path}, best weights", markup=False, soft_wrap=True)
    out.print(table)


def print_saliency(found: Mapping[str, Any]) -> None:
    """Print localization and faithfulness scores of each saliency method and baseline."""
    out = console()
    out.print(_saliency_table(found["localisation"]["methods"]))
    if maps := found.get("maps"):
        for name, each in maps["statistics"].items():
            out.print(f"{method_name(name):15}{_with_interval(each)}")
        if (gamma := maps["gamma"]) is not None:
            out.print(f"Gamma: {gamma['initial']:.4g} at first, {gamma['trained']:.4g} trained.")
    faithfulness = found["faithfulness"]
    if faithfulness["images"]:
        out.print(_saliency_table(faithfulness["methods"]))
        out.print(
            f"Deletion (lower is better) and insertion (higher is better): area under the curve on "
            f"{faithfulness['images']} images."
        )
    out.print(
        f"{found['images']:,} images. Excluded: {found['without_mask']:,} without a mask and "
        f"{found['empty_mask']:,} with an empty mask. In brackets: 95 % confidence intervals from "
        f"{found['resamples']:,} bootstrap resamples of lesions, seed {found['seed']}."
    )


def _with_interval(score: Mapping[str, float], gap: str = " ") -> str:
    return f"{score['value']:.3f}{gap}\\[{score['low']:.3f}, {score['high']:.3f}]"


def _saliency_table(methods: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("", no_wrap=True)
    for score in next(iter(methods.values())):
        table.add_column(method_name(score), no_wrap=True)
    for method, scores in methods.items():
        cells = (_with_interval(score, "\n") for score in scores.values())  # for 80 columns
        table.add_row(method_name(method), *cells)
    return table
