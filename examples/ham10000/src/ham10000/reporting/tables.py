"""Tables of a run: summary, metrics, classes, strata; tables as CSV and LaTeX files."""

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from ham10000.evaluation import (
    AVERAGES,
    CLASS_METRICS,
    STRATA,
    Evaluation,
    Interval,
    Stratum,
    binary_metrics,
    metric_name,
)
from ham10000.reporting.inputs import Evaluated, ReportSource
from ham10000.utils import write_text

__all__ = [
    "Table",
    "TableFormat",
    "class_table",
    "columns_of_strata",
    "format_tables",
    "frames_of_runs",
    "interval_cell",
    "method_name",
    "metric_table",
    "metrics_of_classes",
    "sizes_of_test_sets",
    "strata_notes",
    "strata_tables",
    "summary_items",
    "tables_of_run",
    "to_latex",
    "to_markdown",
    "write_tables",
]

TableFormat = Literal["csv", "latex", "md"]
"""Format of the files of tables."""

_INTERVAL = ("value", "low", "high", "method")
_INTERVAL_NOTE = "Below each value: its 95 % confidence interval over lesions."
_HEAD_WIDTH = 16
_MAX_ROWS = 20
_ESCAPES = str.maketrans(
    {
        **{symbol: f"\\{symbol}" for symbol in "&%$#_{}"},
        "\\": "\\textbackslash{}",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
    }
)
_NAMES = {
    "iou": "IoU",
    "grad_cam": "Grad-CAM",
    "gaussian": "centred Gaussian",
    "random": "random map",
}


@dataclass(frozen=True)
class Table:
    """A table of a page."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Cells. The lines after the first are set in small type, as intervals are."""
    strong: frozenset[int] = frozenset()
    """Indices of the rows in bold type."""


def summary_items(source: ReportSource) -> list[tuple[str, str]]:
    """Return the data, split, models and training of a report, as pairs of name and value."""
    recipes = [run.run.recipe for run in source.runs]
    folds = None if source.study is None else source.study.get("folds")
    sizes = _unique(f"{recipe.data.size} x {recipe.data.size} pixels" for recipe in recipes)
    epochs = _unique(
        str(max((row["epoch"] for row in run.epochs), default=run.run.recipe.training.epochs))
        for run in source.runs
    )
    protocol = f"{folds}-fold" if folds else _unique(recipe.data.protocol for recipe in recipes)
    times = [str(run.environment["time"])[:10] for run in source.runs if "time" in run.environment]
    return [
        ("data", f"{source.data_name}, {source.num_images:,} images"),
        ("split", f"{protocol}, {sizes_of_test_sets(source)} test images"),
        ("backbone", _unique(recipe.model.backbone for recipe in recipes)),
        ("input", sizes),
        ("epochs", epochs),
        *([("seeds", str(len(source.study["seeds"])))] if source.study is not None else []),
        *([("date", max(times))] if times else []),
    ]


def metric_table(run: Evaluated) -> Table:
    """Return all averages of a run, per image and per lesion.

    With two classes, the metrics of the positive one come first.
    """
    image, lesion = run.evaluation.per_image, run.evaluation.per_lesion
    names = binary_metrics(list(image.class_counts))
    names |= {metric_name(name): name for name in AVERAGES}
    rows = [
        [title, interval_cell(image.metrics[name]), interval_cell(lesion.metrics[name])]
        for title, name in names.items()
    ]
    head = ["metric", f"{image.count:,} images", f"{lesion.count:,} lesions"]
    caption = (
        f"{_INTERVAL_NOTE} For lesions, probabilities are averaged over the images of a lesion."
    )
    return Table(caption, head, rows)


def class_table(run: Evaluated) -> Table:
    """Return all metrics of each class of a run, per image."""
    image = run.evaluation.per_image
    rows = [
        [
            name,
            f"{image.class_counts[name]:,}",
            *(interval_cell(image.metrics[f"{metric}/{name}"]) for metric in CLASS_METRICS),
        ]
        for name in image.class_counts
    ]
    head = ["class", "images", *(metric_name(metric) for metric in CLASS_METRICS)]
    return Table(f"Each class against all others, per image. {_INTERVAL_NOTE}", head, rows)


def strata_tables(run: Evaluated) -> list[Table]:
    """Return the averages of a run within each stratum, and the metrics of classes, per image."""
    columns = columns_of_strata(run.evaluation)
    head = [
        f"{title}\n{each.per_image.count:,} images, {each.per_lesion.count:,} lesions"
        for title, each in columns.items()
    ]
    tables = []
    for names, notes in (
        (
            AVERAGES,
            ["Averages within strata, per image.", _INTERVAL_NOTE, *strata_notes(run.evaluation)],
        ),
        (
            metrics_of_classes(run.evaluation),
            ["Each class against all others, per image.", _INTERVAL_NOTE],
        ),
    ):
        rows = [
            [
                metric_name(name),
                *(interval_cell(each.per_image.metrics[name]) for each in columns.values()),
            ]
            for name in names
        ]
        tables.append(Table(" ".join(notes), ["metric", *head], rows))
    return tables


def metrics_of_classes(stratum: Stratum) -> list[str]:
    """Return the names of the metrics of one class."""
    return [name for name in stratum.per_image.metrics if "/" in name]


def columns_of_strata(evaluation: Evaluation) -> dict[str, Stratum]:
    """Return all images and each stratum that was evaluated, by display name."""
    found = {STRATA[name]: each for name, each in evaluation.strata.items()}
    return {"all images": evaluation, **found}


def strata_notes(evaluation: Evaluation) -> list[str]:
    """Return which strata were left out and why, and which classes a stratum lacks.

    Example:
        >>> import numpy as np
        >>> from ham10000.evaluation import evaluate, make_predictions
        >>> from ham10000.reporting.tables import strata_notes
        >>> sure = make_predictions([("I1", "L1", "nv", "test")], np.eye(7)[[5]])
        >>> [note] = strata_notes(evaluate(sure, resamples=2))
        >>> note.split(": ")[0], note.split(": ")[-1]
        ('Left out', 'no table of the data set was given.')
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in evaluation.strata_left_out.items():
        by_reason.setdefault(reason, []).append(STRATA[name])
    notes = [f"Left out: {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    for name, stratum in evaluation.strata.items():
        lacking = [dx for dx in stratum.absent_classes if dx not in evaluation.absent_classes]
        if lacking:
            notes.append(
                f"There are no images of {', '.join(lacking)} in the stratum {STRATA[name]}; its "
                "averages leave these classes out."
            )
    return notes


def tables_of_run(run: Evaluated) -> dict[str, Table]:
    """Return the tables of a run that are written as LaTeX, by name of the file."""
    strata, _ = strata_tables(run)
    return {"metrics": metric_table(run), "classes": class_table(run), "strata": strata}


def frames_of_runs(runs: Sequence[Evaluated]) -> dict[str, pd.DataFrame]:
    """Return the tables of runs that are written as CSV, by name of the file.

    Each row is one metric, with its interval. `metrics` has the averages, `classes` the metrics of
    each class per image, and `strata` all metrics of all images and of each stratum.
    """
    rows = []
    for run in runs:
        for stratum, found in {"all_images": run.evaluation, **run.evaluation.strata}.items():
            for unit, level in (("image", found.per_image), ("lesion", found.per_lesion)):
                for name, interval in level.metrics.items():
                    metric, _, dx = name.partition("/")
                    count = level.class_counts[dx] if dx else level.count
                    rows.append([run.name, stratum, unit, dx, metric, count, *astuple(interval)])
    columns = ["run", "stratum", "unit", "class", "metric", "count", *_INTERVAL]
    whole = pd.DataFrame(rows, columns=columns)
    averages, all_images = whole["class"] == "", whole["stratum"] == "all_images"
    of_classes = ~averages & all_images & (whole["unit"] == "image")
    return {
        "metrics": whole[averages & all_images].drop(columns=["stratum", "class"]),
        "classes": whole[of_classes].drop(columns=["stratum", "unit"]),
        "strata": whole,
    }


def write_tables(
    out: Path,
    kinds: Iterable[TableFormat],
    tables: Mapping[str, Table],
    frames: Mapping[str, pd.DataFrame],
) -> list[Path]:
    """Write tables to a folder, each atomically.

    Args:
        out: The folder.
        kinds: "csv" for one row per metric with full precision, "latex" for tables to print, "md"
            for the same in Markdown.
        tables: Tables for LaTeX and Markdown, by name of the file without its extension.
        frames: Tables for CSV, likewise.

    Returns:
        Paths of the files.

    Raises:
        WriteError: A file cannot be written.
    """
    texts = {
        out / name: text
        for kind in set(kinds)
        for name, text in format_tables(kind, tables, frames).items()
    }
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def format_tables(
    kind: TableFormat, tables: Mapping[str, Table], frames: Mapping[str, pd.DataFrame]
) -> dict[str, str]:
    """Return the text of each file of `write_tables`, by name of the file, for one format."""
    if kind == "csv":
        written = {
            name: each.to_csv(index=False, lineterminator="\n") for name, each in frames.items()
        }
        return {f"{name}.csv": text for name, text in written.items()}
    if kind == "latex":
        return {f"{name}.tex": to_latex(each, f"tab:{name}") for name, each in tables.items()}
    return {f"{name}.md": to_markdown(each) for name, each in tables.items()}


def to_markdown(table: Table) -> str:
    r"""Return a table as Markdown, with its caption above it.

    Example:
        >>> from ham10000.reporting.tables import Table, to_markdown
        >>> table = Table("Recall in %.", ["metric", "a|b"], [["recall", "81\n79 to 83"]])
        >>> print(to_markdown(table), end="")
        Recall in %.
        <BLANKLINE>
        | metric | a\|b |
        | --- | --- |
        | recall | 81<br>79 to 83 |
    """
    cells = [table.head, ["---"] * len(table.head), *table.rows]
    rows = [[cell.replace("|", "\\|").replace("\n", "<br>") for cell in row] for row in cells]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table.caption}\n\n{text}\n" if table.caption else f"{text}\n"


def to_latex(table: Table, label: str) -> str:
    r"""Return a table as LaTeX with the rules of booktabs.

    Example:
        >>> from ham10000.reporting.tables import Table, to_latex
        >>> table = Table("Recall in %.", ["metric", "lite0"], [["recall", "81\n79 to 83"]])
        >>> print("\n".join(to_latex(table, "tab:recall").splitlines()[8:11]))
        metric & lite0 \\
        \midrule
        recall & \begin{tabular}[t]{@{}l@{}}81\\{\scriptsize 79 to 83}\end{tabular} \\

    Args:
        table: The table. One of more than 20 rows becomes a longtable, which can be longer than a
            page.
        label: Label for references.
    """
    head = [
        "\n".join(
            part
            for line in cell.split("\n")
            for part in textwrap.wrap(line, _HEAD_WIDTH, break_on_hyphens=False)
        )
        for cell in table.head
    ]
    frame = pd.DataFrame(
        [[_latex_cell(cell) for cell in row] for row in table.rows],
        columns=[_latex_cell(cell, small="") for cell in head],
    )
    is_long = len(table.rows) > _MAX_ROWS
    text = frame.style.hide(axis="index").to_latex(
        hrules=True,
        caption=_latex(table.caption),
        label=label,
        column_format="l" * len(head),
        environment="longtable" if is_long else "table",
        position_float=None if is_long else "centering",
    )
    text = text.replace("\\centering\n", "\\centering\n\\footnotesize\n", 1)
    packages = "booktabs,longtable" if is_long else "booktabs"
    return f"% Needs \\usepackage{{{packages}}}\n{text}"


def method_name(name: str) -> str:
    """Return the display name of a saliency method or of a score of its maps.

    Example:
        >>> from ham10000.reporting.tables import method_name
        >>> method_name("grad_cam"), method_name("pointing_game")
        ('Grad-CAM', 'pointing game')
    """
    return _NAMES.get(name, name.replace("_", " "))


def sizes_of_test_sets(source: ReportSource) -> str:
    """Return the number of test images as text, or the different numbers of the runs."""
    return " or ".join(f"{count:,}" for count in source.num_test_images)


def interval_cell(found: Interval) -> str:
    """Return a value with its interval on the next line, as a cell of a `Table`."""
    if math.isnan(found.value):
        return "undefined"
    return f"{found.value:.3f}\n{found.low:.3f} to {found.high:.3f}"


def _latex_cell(cell: str, small: str = "\\scriptsize ") -> str:
    first, *others = (_latex(line) for line in cell.split("\n"))
    if not others:
        return first
    lines = "".join(f"\\\\{{{small}{line}}}" for line in others)
    return f"\\begin{{tabular}}[t]{{@{{}}l@{{}}}}{first}{lines}\\end{{tabular}}"


def _latex(text: str) -> str:
    # A hyphen before a digit is a minus sign, except within a word.
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", text.translate(_ESCAPES))


def _unique(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
