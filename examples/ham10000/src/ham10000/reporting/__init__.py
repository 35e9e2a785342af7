"""Presentation of results: console tables, figures and HTML pages."""

from ham10000.reporting.app import AppWeights, find_runtime, serve_app, write_app
from ham10000.reporting.cases import (
    check_apart,
    choose,
    file_cases,
    make_cases,
    split_notes,
    write_case,
)
from ham10000.reporting.console import (
    console,
    print_comparison,
    print_counts,
    print_evaluation,
    print_evaluations,
    print_run,
    print_saliency,
    print_study,
    print_verification,
)
from ham10000.reporting.explore import explore_dataset
from ham10000.reporting.export import ExportFormat, export_run
from ham10000.reporting.figures import write_figures
from ham10000.reporting.inputs import Evaluated, evaluate_sources, open_source
from ham10000.reporting.report import table_texts, write_report
from ham10000.reporting.reproduction import Scale, list_items, reproduce_item
from ham10000.reporting.runs import RunSummary, list_runs
from ham10000.reporting.style import FigureFormat, data_uri
from ham10000.reporting.tables import TableFormat, frames_of_runs, tables_of_run, write_tables

__all__ = [
    "AppWeights",
    "Evaluated",
    "ExportFormat",
    "FigureFormat",
    "RunSummary",
    "Scale",
    "TableFormat",
    "check_apart",
    "choose",
    "console",
    "data_uri",
    "evaluate_sources",
    "explore_dataset",
    "export_run",
    "file_cases",
    "find_runtime",
    "frames_of_runs",
    "list_items",
    "list_runs",
    "make_cases",
    "open_source",
    "print_comparison",
    "print_counts",
    "print_evaluation",
    "print_evaluations",
    "print_run",
    "print_saliency",
    "print_study",
    "print_verification",
    "reproduce_item",
    "serve_app",
    "split_notes",
    "table_texts",
    "tables_of_run",
    "write_app",
    "write_case",
    "write_figures",
    "write_report",
    "write_tables",
]
