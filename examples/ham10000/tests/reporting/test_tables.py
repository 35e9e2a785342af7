import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ham10000.evaluation import METRICS, STRATA, evaluate
from ham10000.reporting.inputs import ReportSource, open_source
from ham10000.reporting.tables import (
    Table,
    class_table,
    frames_of_runs,
    method_name,
    metric_table,
    strata_tables,
    summary_items,
    tables_of_run,
    to_latex,
    write_tables,
)


@pytest.fixture
def source(run: Path) -> ReportSource:
    return open_source([run])


def test_the_summary_names_data_models_and_training(source: ReportSource) -> None:
    items = dict(summary_items(source))
    assert items["data"] == "synthetic data, 280 images"
    assert items["split"].startswith("lesion, ")
    assert items["backbone"] == "ham10000:tiny"
    assert items["epochs"] == "1"
    assert len(items["date"]) == len("2026-01-01")
    study = replace(source, study={"folds": 5, "images": 271, "seeds": [3, 4]})
    assert dict(summary_items(study))["split"] == "5-fold, 271 test images"
    assert dict(summary_items(study))["seeds"] == "2"


def test_all_metrics_of_a_run_are_in_its_tables(source: ReportSource) -> None:
    run = source.runs[0]
    metrics, classes = metric_table(run), class_table(run)
    cells = len(metrics.rows) + sum(len(row) - 2 for row in classes.rows)
    assert cells == len(METRICS)
    value = run.evaluation.per_image.metrics["accuracy"].value
    assert metrics.rows[0][1].startswith(f"{value:.3f}\n")
    assert {len(row) for row in classes.rows} == {len(classes.head)}


def test_names_of_methods_are_words() -> None:
    names = ["attention", "grad_cam", "gaussian", "random", "iou", "energy_inside"]
    assert [method_name(name) for name in names] == [
        "attention",
        "Grad-CAM",
        "centred Gaussian",
        "random map",
        "IoU",
        "energy inside",
    ]


def test_strata_are_in_columns_with_their_counts(source: ReportSource) -> None:
    run = source.runs[0]
    averages, classes = strata_tables(run)
    assert len(averages.rows) + len(classes.rows) == len(METRICS)
    assert [title.split("\n")[0] for title in averages.head] == [
        "metric",
        "all images",
        *STRATA.values(),
    ]
    several = run.evaluation.strata["several_images"]
    counts = f"{several.per_image.count:,} images, {several.per_lesion.count:,} lesions"
    assert averages.head[3].split("\n")[1] == counts
    value = several.per_image.metrics["accuracy"].value
    assert averages.rows[0][3].startswith(f"{value:.3f}\n")


def test_strata_without_a_table_are_left_out_with_the_reason(source: ReportSource) -> None:
    run = source.runs[0]
    averages, _ = strata_tables(replace(run, evaluation=evaluate(run.predictions, 5)))
    assert [title.split("\n")[0] for title in averages.head] == ["metric", "all images"]
    assert "Left out: histologically confirmed" in averages.caption
    assert averages.caption.endswith("no table of the data set was given.")


def test_csv_tables_have_every_metric_in_full_precision(
    source: ReportSource, tmp_path: Path
) -> None:
    run = source.runs[0]
    paths = write_tables(tmp_path, ["csv"], tables_of_run(run), frames_of_runs([run, run]))
    assert {path.name for path in paths} == {"metrics.csv", "classes.csv", "strata.csv"}
    metrics, classes, strata = (
        pd.read_csv(tmp_path / f"{name}.csv") for name in ("metrics", "classes", "strata")
    )
    averages = [name for name in METRICS if "/" not in name]
    assert len(metrics) == 2 * 2 * len(averages)
    assert len(classes) == 2 * (len(METRICS) - len(averages))
    assert len(strata) == 2 * 2 * (1 + len(STRATA)) * len(METRICS)
    every = run.evaluation.strata["several_images"].per_lesion
    rows = strata[(strata["stratum"] == "several_images") & (strata["unit"] == "lesion")]
    rows = rows.iloc[: len(METRICS)]
    assert rows["value"].tolist() == pytest.approx(
        [every.metrics[name].value for name in METRICS], rel=1e-12, abs=0, nan_ok=True
    )
    row = rows[rows["class"].isna() & (rows["metric"] == "accuracy")].iloc[0]
    assert (row["count"], row["method"]) == (every.count, every.metrics["accuracy"].method)


def test_latex_tables_have_the_rows_of_the_page(source: ReportSource, tmp_path: Path) -> None:
    tables = tables_of_run(source.runs[0])
    write_tables(tmp_path, ["latex"], tables, {})
    for name, table in tables.items():
        head, *rows = latex_rows((tmp_path / f"{name}.tex").read_text())
        assert len(head) == len(table.head)
        # Column heads may be broken into lines.
        assert [plain(cell).split() for cell in head] == [cell.split() for cell in table.head]
        assert [[plain(cell) for cell in row] for row in rows] == [
            [cell.replace("\n", " ") for cell in row] for row in table.rows
        ]


def test_markdown_tables_have_the_rows_of_the_page(source: ReportSource, tmp_path: Path) -> None:
    tables = tables_of_run(source.runs[0])
    assert len(write_tables(tmp_path, ["md"], tables, {})) == len(tables)
    for name, table in tables.items():
        caption, _, text = (tmp_path / f"{name}.md").read_text().partition("\n\n")
        assert caption == table.caption
        head, rule, *rows = (
            [cell.strip().replace("<br>", "\n") for cell in line.split("|")[1:-1]]
            for line in text.splitlines()
        )
        assert [head, *rows] == [table.head, *table.rows]
        assert rule == ["---"] * len(head)


def test_latex_is_escaped_and_long_tables_can_be_broken() -> None:
    table = Table("50 % of a_b", ["x & y"], [["-0.5\n-1.0 to < 2"], ["follow-up-3"]])
    text = to_latex(table, "tab:a")
    assert text.startswith("% Needs \\usepackage{booktabs}\n\\begin{table}\n")
    assert r"\caption{50 \% of a\_b}" in text
    assert latex_rows(text)[1:] == [
        [r"\begin{tabular}[t]{@{}l@{}}$-$0.5\\{\scriptsize $-$1.0 to $<$ 2}\end{tabular}"],
        ["follow-up-3"],
    ]
    text = to_latex(Table("", ["x"], [["1"]] * 21), "tab:b")
    assert text.startswith("% Needs \\usepackage{booktabs,longtable}\n\\begin{longtable}{l}\n")
    assert "\\endfirsthead" in text


def latex_rows(text: str) -> list[list[str]]:
    """Return the cells of a table in a LaTeX file, the head first."""
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [line.removesuffix(r" \\") for line in body.splitlines() if line.endswith(r" \\")]
    return [re.split(r" (?<!\\)& ", line) for line in lines]


def plain(cell: str) -> str:
    """Return a cell of a LaTeX table as text."""
    text = re.sub(r"\\(begin|end)\{tabular\}(\[t\])?(\{@\{\}l@\{\}\})?", "", cell)
    text = re.sub(r"\\\\\{(\\scriptsize )?(.*?)\}", r" \2", text)
    return re.sub(r"\$(.)\$", r"\1", text).replace(r"\%", "%")
