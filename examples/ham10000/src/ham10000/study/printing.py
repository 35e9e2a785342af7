"""What the command study prints: a row a metric, at most 80 columns, and the verdict."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ham10000.printing import console
from ham10000.study.verdict import metric_name

__all__ = ["print_study"]

SHOWN = (
    "balanced_accuracy",
    "accuracy",
    "auc_weighted",
    "auc_macro",
    "f1_macro",
    "precision_weighted",
    "brier",
    "ece",
)


def print_study(result: Mapping[str, Any]) -> None:
    """Print what `summarize_study` found."""
    recipes = result["recipes"]
    seeds = len(result["seeds"])
    title = (
        f"{seeds} seeds, {result['images']:,} test images of {result['lesions']:,} lesions; "
        "times 100"
    )
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("mean (sd)", no_wrap=True)
    for name in recipes:
        table.add_column(escape(name), justify="right", overflow="fold")
    table.add_column("change, 95 % interval", justify="right", no_wrap=True)
    table.add_column("p", justify="right", no_wrap=True)
    shown = [result["primary"], *(name for name in SHOWN if name != result["primary"])]
    for name in shown:
        if name not in result["metrics"]:
            continue
        both, change = result["metrics"][name], result["comparison"][name]
        low, high = 100 * change["low"], 100 * change["high"]
        table.add_row(
            metric_name(name),
            *(f"{100 * both[r]['mean']:.1f} ({100 * both[r]['std']:.1f})" for r in recipes),
            f"{100 * change['difference']:+.1f} ({low:.1f} to {high:.1f})",
            f"{change['p_holm']:.3f}",
        )
    out = console()
    out.print(table)
    if result["undefined"]:
        out.print(f"Undefined on these images: {', '.join(result['undefined'])}", markup=False)
    out.print(result["verdict"], markup=False)
