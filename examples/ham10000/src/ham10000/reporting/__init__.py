"""Figures, tables and pages that a person reads."""

from ham10000.reporting.cases import choose, make_cases, write_case
from ham10000.reporting.console import (
    print_comparison,
    print_counts,
    print_evaluation,
    print_report,
    print_run,
    print_saliency,
    print_study,
)
from ham10000.reporting.demo import run_demo
from ham10000.reporting.explore import explore_dataset
from ham10000.reporting.figures import write_figures
from ham10000.reporting.report import write_report
from ham10000.reporting.style import data_uri

__all__ = [
    "choose",
    "data_uri",
    "explore_dataset",
    "make_cases",
    "print_comparison",
    "print_counts",
    "print_evaluation",
    "print_report",
    "print_run",
    "print_saliency",
    "print_study",
    "run_demo",
    "write_case",
    "write_figures",
    "write_report",
]
