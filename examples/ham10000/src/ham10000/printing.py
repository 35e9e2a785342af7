"""What the commands print: tables that a person reads."""

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ham10000.data.report import Report

__all__ = ["console", "print_counts", "print_report"]

_SIGNS = {
    "ok": "[green]ok[/]",
    "warning": "[yellow]warning[/]",
    "error": "[bold red]ERROR[/]",
}
_SHOWN = 20


def console() -> Console:
    """Return a console for standard output."""
    return Console(highlight=False)


def print_report(report: Report) -> None:
    """Print what `verify` found: a row a check, then the near-duplicates."""
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
            for item in finding.items[:_SHOWN]:
                out.print(f"  {escape(item)}", soft_wrap=True)
            if len(finding.items) > _SHOWN:
                out.print(f"  ... and {len(finding.items) - _SHOWN:,} more; --json has them all")
    warnings = sum(finding.level == "warning" for finding in report.findings)
    verdict = "[green]usable[/]" if report.usable else "[bold red]not usable[/]"
    out.print(f"\n{verdict}, {warnings} warning{'s' * (warnings != 1)}")


def print_counts(counts: pd.DataFrame, title: str, corner: str = "") -> None:
    """Print a table of whole numbers, with the sum of each row."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column(corner, no_wrap=True)
    for name in counts.columns:
        table.add_column(str(name), justify="right", no_wrap=True)
    for label, row in counts.iterrows():
        table.add_row(str(label), *(f"{int(value):,}" for value in row))
    console().print(table)
