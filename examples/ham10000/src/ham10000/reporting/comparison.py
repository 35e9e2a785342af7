"""Tables that compare models: arms of a study, several runs, and published results."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ham10000.evaluation import (
    AVERAGES,
    STRATA,
    Difference,
    Differences,
    Stratum,
    compare,
    format_change,
    format_p_value,
    metric_name,
    only_one_right,
)
from ham10000.models import SUMMARY_CAPTION, SUMMARY_COLUMNS, ModelSummary, summary_rows
from ham10000.reporting.inputs import Evaluated, ReportSource
from ham10000.reporting.tables import (
    Table,
    frames_of_runs,
    interval_cell,
    sizes_of_test_sets,
    tables_of_run,
)

__all__ = [
    "SOURCES",
    "Published",
    "TableGroup",
    "comparison_tables",
    "differing_images",
    "headline",
    "look_table",
    "model_table",
    "published_results",
    "published_table",
    "report_files",
]

HEADLINE_METRIC = "balanced_accuracy"
_LAYERS = {
    "none": "without attention",
    "soft": "with soft attention",
    "placebo": "with uniform maps",
    "keras": "with the authors' layer",
}
_PUBLISHED_METRICS = ("balanced_accuracy", "accuracy", "auc_weighted", "precision_weighted")


@dataclass(frozen=True)
class Published:
    """Published results of one model."""

    source: str
    """Key of `SOURCES`."""
    backbone: str
    attention: bool
    values: Mapping[str, float]
    """Values by metric."""


SOURCES = {
    "authors": (
        "Datta, Shaikh, Srihari and Gao, Soft-Attention Improves Skin Cancer Classification "
        "Performance, iMIMIC 2021, doi:10.1007/978-3-030-87444-5_2. From the notebooks of their "
        "repository, skrantidatta/Attention-based-Skin-Cancer-Classification. One run each; "
        "weights were selected on the test set."
    ),
    "re-run": (
        "An independent reproduction in Keras 3 with the same split and augmentation and one seed, "
        "kanhaiyak23/skin-lesion-soft-attention-reproduction. Its intervals for the weighted "
        "precision are 0.887 to 0.932 without and 0.891 to 0.935 with soft attention."
    ),
}
"""Description of each source, shown below the table."""

_FILE = Path(__file__).with_name("reproduction.yaml")
_VALUES = {"authors": "published", "re-run": "rerun"}
"""Key of the values of each source in the file."""


@dataclass(frozen=True)
class TableGroup:
    """Tables of one comparison, such as an arm of a study and the control."""

    title: str
    main: Table
    """The most important metrics; for a study, those of the plan, with their outcomes."""
    others: Table
    """All other metrics."""


@cache
def published_results() -> tuple[Published, ...]:
    """Return the published results of the models in reproduction.yaml, by source.

    Example:
        >>> from ham10000.reporting.comparison import published_results
        >>> published_results()[0]
        Published(source='authors', backbone='VGG16', attention=False, values={...})
    """
    models = yaml.safe_load(_FILE.read_text(encoding="utf-8"))["items"]["models"]
    metrics = models["metrics"]
    return tuple(
        Published(source, name, bool(attention), dict(zip(metrics, each[key], strict=True)))
        for source, key in _VALUES.items()
        for each in models["variants"]
        if key in each
        for name, attention, _ in [each["label"].partition(" with attention")]
    )


def headline(source: ReportSource) -> dict[str, Any]:
    """Return the verdicts, and the primary metric of each model."""
    study = source.study
    primary = HEADLINE_METRIC if study is None else str(study["primary"])
    return {
        "verdicts": [] if study is None else list(study["verdicts"].values()),
        "rule": None if study is None else study.get("rule"),
        "metric": metric_name(primary),
        "numbers": [
            {"name": run.name, "text": _value(source, run, primary)} for run in source.runs
        ],
        "images": sizes_of_test_sets(source),
        "comparable": study is not None or source.same_test_images,
        "seeds": None if study is None else len(study["seeds"]),
        "absent": source.runs[0].evaluation.absent_classes,
    }


def published_table(source: ReportSource) -> Table | None:
    """Return a table of our results and published ones; `None` if the data are not HAM10000."""
    if not source.is_ham10000:
        return None
    rows = [
        [
            f"{run.name}\nthis report, {_with_layer(run.run.recipe.attention.layer)}",
            *(_value(source, run, name) for name in _PUBLISHED_METRICS),
        ]
        for run in source.runs
    ]
    ours = frozenset(range(len(rows)))
    for each in published_results():
        numbers = [each.values[name] for name in _PUBLISHED_METRICS]
        attention = _with_layer("soft" if each.attention else "none")
        model = f"{each.backbone}\n{each.source}, {attention}"
        rows.append([model, *(f"{number:.3f}" for number in numbers)])
    notes = " ".join(f"{name.capitalize()}: {text}" for name, text in SOURCES.items())
    head = ["model", *(metric_name(name) for name in _PUBLISHED_METRICS)]
    return Table(notes, head, rows, ours)


def comparison_tables(source: ReportSource) -> list[TableGroup]:
    """Return the comparison of each arm of a study with the control, or of several runs.

    Runs that were tested on the images of the first one are also compared with it image by image.
    """
    study = source.study
    if study is not None:
        return [_compare_arm(study, arm) for arm in study["arms"] if study["comparisons"][arm]]
    return _compare_runs(source.runs) if len(source.runs) > 1 else []


def model_table(source: ReportSource) -> Table | None:
    """Return a table of the models of a study before training; `None` if it has none."""
    study = source.study
    if study is None or not study.get("models"):
        return None
    models = {name: ModelSummary(**each) for name, each in study["models"].items()}
    control = str(study["control"])
    return Table(
        SUMMARY_CAPTION.format(control=control), SUMMARY_COLUMNS, summary_rows(models, control)
    )


def differing_images(runs: Sequence[Evaluated]) -> dict[str, pd.DataFrame]:
    """Return the images that only the first run or only another one classifies correctly.

    Returns:
        By name of each other run that was tested on the images of the first one, a table as of
        `only_one_right`.
    """
    first, *others = runs
    return {
        run.name: only_one_right(first.predictions, run.predictions, (first.name, run.name))
        for run in others
        if _same_images(first, run)
    }


def report_files(source: ReportSource) -> tuple[dict[str, Table], dict[str, pd.DataFrame]]:
    """Return the tables of a report that are written as LaTeX and as CSV, by name of the file.

    For a study, `comparison` has one row for each arm and metric. For several runs, `differences`
    has one row for each metric of each run that was tested on the images of the first one, and
    `only_one_right` one for each image that only one of the two classifies correctly.
    """
    groups = comparison_tables(source)
    tables = {} if groups else tables_of_run(source.runs[0])
    for group in groups:
        name = _file_name(group.title)
        tables |= {name: group.main, f"{name}_other_metrics": group.others}
    if source.study is not None:
        return tables, {"comparison": _comparison_frame(source.study)}
    frames = frames_of_runs(source.runs)
    changes = _differences(source.runs)
    rows = [
        {"run": run, "metric": name, **asdict(change)}
        for run, found in changes.items()
        for name, change in found.metrics.items()
    ]
    if rows:
        renamed = {"a": "value_of_first", "b": "value"}
        frames["differences"] = pd.DataFrame(rows).rename(columns=renamed)
        images = pd.concat(differing_images(source.runs), names=["run"])
        frames["only_one_right"] = images.reset_index("run")
    return tables, frames


def look_table(source: ReportSource) -> Table | None:
    """Return the recorded looks at the result of a study; `None` if there are none."""
    if source.study is None or not source.study.get("looks_taken"):
        return None
    rows = [
        [
            str(look["number"]),
            look["time"],
            ", ".join(map(str, look["seeds"])),
            "exploratory" if look["exploratory"] else f"{look['level']:g}",
            " ".join(look["verdicts"].values()),
        ]
        for look in source.study["looks_taken"]
    ]
    caption = "Looks at the result, as recorded in plan.json."
    return Table(caption, ["look", "time", "seeds", "level", "verdict"], rows)


def _compare_arm(study: Mapping[str, Any], arm: str) -> TableGroup:
    control, primary = study["control"], study["primary"]
    changes = study["comparisons"][arm]
    tested = all(change["low"] is not None for change in changes.values())
    head = ["metric", control, arm, "difference", *(["p", "p (Holm)"] if tested else [])]
    planned = [name for name in (primary, *study["secondaries"]) if name in changes]
    others = [name for name in changes if name not in planned]
    level = f"{100 * (1 - study['look']['level']):g} %"
    intervals = (
        f"Below each difference: its {level} confidence interval over training runs and test "
        "lesions, conditional on the data set and its folds. p (Holm) is adjusted for the number "
        f"of arms and, except for {metric_name(primary)}, which was chosen in advance, for the "
        "number of metrics."
    )
    caption = (
        f"The difference is {arm} minus {control}, averaged over folds and seeds. Below each mean: "
        "the standard deviation over seeds. "
    )
    if not tested:
        intervals = "There are too few runs for intervals and p-values."
    rows = [[*_change(study, arm, name), changes[name]["outcome"]] for name in planned]
    more = [_change(study, arm, name) for name in others]
    strong = frozenset({0} if primary in changes else ())
    note = "These metrics are exploratory and have no verdict."
    return TableGroup(
        f"{arm} compared with {control}",
        Table(caption + intervals, [*head, "outcome"], rows, strong),
        Table(note, head, more),
    )


def _change(study: Mapping[str, Any], arm: str, name: str) -> list[str]:
    change, both = study["comparisons"][arm][name], study["metrics"][name]
    tested = change["low"] is not None
    difference = format_change(change["mean"], 4)
    if tested:
        difference += f"\n{format_change(change['low'], 4)} to {format_change(change['high'], 4)}"
    return [
        metric_name(name),
        *(_mean(both.get(recipe)) for recipe in (study["control"], arm)),
        difference,
        *(format_p_value(change[key]) for key in ("p", "p_holm") if tested),
    ]


def _compare_runs(runs: Sequence[Evaluated]) -> list[TableGroup]:
    groups = [_side_by_side("All images", {run.name: run.evaluation for run in runs})]
    for name, title in STRATA.items():
        columns = {
            run.name: run.evaluation.strata[name] for run in runs if name in run.evaluation.strata
        }
        if columns:
            groups.append(_side_by_side(title.capitalize(), columns))
    first = runs[0]
    changes = _differences(runs)
    if changes:
        caption = (
            f"Each run minus {first.name}, on the same images. Below each difference: its 95 % "
            "confidence interval over lesions and its p-value, which are not adjusted for the "
            "number of metrics or runs. They do not include variation between training runs."
        )
        groups.append(
            TableGroup(f"Differences to {first.name}", *_tables(caption, changes, _difference))
        )
    return groups


def _differences(runs: Sequence[Evaluated]) -> dict[str, Differences]:
    first, *others = runs
    return {
        run.name: compare(first.predictions, run.predictions, (first.name, run.name)).per_image
        for run in others
        if _same_images(first, run)
    }


def _same_images(a: Evaluated, b: Evaluated) -> bool:
    return set(a.predictions.table["image_id"]) == set(b.predictions.table["image_id"])


def _comparison_frame(study: Mapping[str, Any]) -> pd.DataFrame:
    control = study["control"]
    rows = []
    for arm, changes in study["comparisons"].items():
        for metric, change in changes.items():
            both = study["metrics"][metric]
            row = {"control": control, "arm": arm, "metric": metric}
            for role, recipe in (("control", control), ("arm", arm)):
                found = both.get(recipe) or {}
                row |= {f"{role}_{key}": found.get(key) for key in ("mean", "std")}
            keys = ("mean", "low", "high", "p", "p_holm", "outcome")
            row |= {"difference" if key == "mean" else key: change.get(key) for key in keys}
            rows.append(row)
    return pd.DataFrame(rows)


def _file_name(title: str) -> str:
    return re.sub(r"[^\w.-]+", "_", title.lower())


def _side_by_side(title: str, columns: Mapping[str, Stratum]) -> TableGroup:
    caption = "Below each value: its 95 % confidence interval over lesions."
    for name, stratum in columns.items():
        if stratum.absent_classes:
            lacking = ", ".join(stratum.absent_classes)
            caption += f" {name}: no images of {lacking}; averages leave these classes out."
    levels = {name: stratum.per_image for name, stratum in columns.items()}
    return TableGroup(title, *_tables(caption, levels, interval_cell))


def _tables(
    caption: str, columns: Mapping[str, Any], cell: Callable[[Any], str]
) -> tuple[Table, Table]:
    """Return the averages and the metrics of classes, with one column for each run."""
    head = ["metric", *(f"{name}\n{each.count:,} images" for name, each in columns.items())]
    classes = [name for name in next(iter(columns.values())).metrics if "/" in name]
    main, others = (
        [
            [metric_name(name), *(cell(each.metrics[name]) for each in columns.values())]
            for name in names
        ]
        for names in (AVERAGES, classes)
    )
    return Table(caption, head, main), Table("Each class against all others.", head, others)


def _difference(found: Difference) -> str:
    if math.isnan(found.difference):
        return "undefined"
    p_value = format_p_value(found.p_value)
    return (
        f"{format_change(found.difference, 3)}\n"
        f"{format_change(found.low, 3)} to {format_change(found.high, 3)}\n"
        f"p {p_value if p_value.startswith('<') else f'= {p_value}'}"
    )


def _value(source: ReportSource, run: Evaluated, name: str) -> str:
    if source.study is not None:
        return _mean(source.study["metrics"].get(name, {}).get(run.name))
    return interval_cell(run.evaluation.per_image.metrics[name])


def _mean(found: Mapping[str, Any] | None) -> str:
    return "undefined" if found is None else f"{found['mean']:.4f}\nsd {found['std']:.4f}"


def _with_layer(layer: str) -> str:
    return _LAYERS.get(layer, f"with {layer.upper()}")
