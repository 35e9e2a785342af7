"""What the command study prints: a row a metric, at most 80 columns, and the verdict."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from ham10000.printing import console

__all__ = ["print_study"]

SHOWN = (
    "balanced_accuracy",
    "accuracy",
    "auc_weighted",
    "auc_macro",
    "f1_macro",
    "precision_weighted",
    "average_precision_macro",
    "brier",
    "ece",
)


def print_study(result: Mapping[str, Any]) -> None:
    """Print what `summarize_study` found."""
    first, second = result["recipes"]
    seeds = len(result["seeds"])
    title = f"{seeds} seeds, {result['images']:,} test images of {result['lesions']:,} lesions"
    table = Table(title=escape(title), title_justify="left")
    table.add_column("mean (sd over seeds)", no_wrap=True)
    for name in (first, second):
        table.add_column(escape(name), justify="right", overflow="fold")
    table.add_column("change, 95 % interval", justify="right", no_wrap=True)
    table.add_column("p, Holm", justify="right", no_wrap=True)
    shown = [result["primary"], *(name for name in SHOWN if name != result["primary"])]
    for name in shown:
        if name not in result["metrics"]:
            continue
        both = result["metrics"][name]
        change = result["comparison"][name]
        table.add_row(
            name.replace("_", " "),
            *(f"{both[r]['mean']:.3f} ({both[r]['std']:.3f})" for r in (first, second)),
            f"{change['difference']:+.3f} {change['low']:+.3f} {change['high']:+.3f}",
            f"{change['p_holm']:.3f}",
        )
    out = console()
    out.print(table)
    if result["undefined"]:
        out.print(f"Undefined on these images: {', '.join(result['undefined'])}", markup=False)
    out.print(result["verdict"], markup=False)
