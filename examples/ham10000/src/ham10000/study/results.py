"""Published results of a study: a folder from which its numbers can be recomputed.

    plan.json                       the plan with every look, as recorded
    split.csv.xz                    the split
    recipes/NAME.yaml               the recorded fields of each recipe
    environments.json               versions and devices, with the runs trained there
    predictions-seedN.csv.bz2       predictions of all runs with seed N
    metrics.csv.bz2                 all metrics of each run
    study.json                      the result, without the values of individual runs
    README.md                       the result as text, which other pages can quote
    maps.csv.bz2                    where attention looks, written by benchmarks/maps.py

There is one file of predictions per seed, so that a new seed changes no other file. A study of many
runs can publish the predictions of some seeds only. In that case, the metrics of its other runs and
the standard errors over lesions cannot be recomputed.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ham10000.data import read_csv
from ham10000.errors import ArgumentError, MissingDataError
from ham10000.evaluation import (
    IMAGE_COLUMNS,
    Predictions,
    check_images,
    format_change,
    format_p_value,
    metric_name,
    summarize,
)
from ham10000.recipe import make_recipe, save_recipe
from ham10000.statistics import CellEstimate
from ham10000.study.plan import PlannedRun, StudyPlan
from ham10000.study.preregistration import PLAN, StudyRecord, list_seeds
from ham10000.study.published_maps import MAPS_FILE
from ham10000.study.summary import RESULT, SPLIT, describe_change, markdown_table
from ham10000.training import RunDir
from ham10000.utils import new_folder, write_text

__all__ = [
    "METRICS_FILE",
    "PAGE",
    "SPLIT_FILE",
    "PublishedStudy",
    "compact",
    "metrics_row",
    "predictions_file",
    "publish_study",
    "quotations",
    "recipe_text",
    "restore_study",
    "runs_by_seed",
]

SPLIT_FILE = f"{SPLIT}.xz"
METRICS_FILE = "metrics.csv.bz2"
PAGE = "README.md"
_ENVIRONMENTS = "environments.json"


class PublishedStudy:
    """Published results of a study, read from their folder.

    Args:
        folder: Folder written by `publish_study`.
        name: Name of the study. Defaults to the name of the folder.

    Raises:
        MissingDataError: The folder has no plan.
        DataError: plan.json was edited.
    """

    def __init__(self, folder: Path, name: str = "") -> None:
        self.folder = folder
        self.name = name or folder.name
        self.record = StudyRecord(folder)
        if not self.record.entries:
            raise MissingDataError(f"reading published results: there is no {PLAN} in {folder}.")

    @cached_property
    def split(self) -> pd.DataFrame:
        """The split, with all columns as strings."""
        return _read(self.folder / SPLIT_FILE)

    @cached_property
    def metrics(self) -> dict[PlannedRun, dict[str, float]]:
        """Stored metrics of each run."""
        table = pd.read_csv(self.folder / METRICS_FILE, dtype={"recipe": str})
        return {
            PlannedRun(
                str(row["recipe"]),
                int(row["seed"]),
                None if pd.isna(row["fold"]) else int(row["fold"]),
            ): {str(name): float(row[name]) for name in table.columns[3:]}
            for row in table.to_dict("records")
        }

    @cached_property
    def tables(self) -> dict[PlannedRun, pd.DataFrame]:
        """Rows of predictions.csv of each run whose predictions are published."""
        found = {}
        for seed, runs in runs_by_seed(self.record.plan).items():
            path = self.folder / predictions_file(seed)
            packed = dict(list(_read(path).groupby("recipe"))) if path.exists() else {}
            for run in runs:
                if run.recipe in packed:
                    rows = self.split_of(run)
                    tested = rows[rows["split"] == "test"][list(IMAGE_COLUMNS)]
                    scores = packed[run.recipe].drop(columns="recipe")
                    merged = tested.merge(scores, on="image_id", validate="one_to_one")
                    if len(merged):
                        found[run] = merged
        return found

    @property
    def result(self) -> dict[str, Any] | None:
        """Stored result; `None` if the study has none yet."""
        path = self.folder / RESULT
        if not path.exists():
            return None
        return dict(json.loads(path.read_text(encoding="utf-8")))

    @property
    def page(self) -> str:
        """README.md, generated from the other files."""
        return _page(self)

    def split_of(self, run: PlannedRun) -> pd.DataFrame:
        """Return the rows of the split that belong to the fold of a run."""
        return self.split if run.fold is None else self.split[self.split["fold"] == str(run.fold)]

    @cached_property
    def predictions(self) -> dict[PlannedRun, Predictions]:
        """Predictions of each run of `tables`, checked against the test images of its fold."""
        found = {}
        for run, table in self.tables.items():
            found[run] = Predictions(table, f"reading the predictions of {run.folder}")
            rows = self.split_of(run)
            if run.fold is not None or "fold" not in rows:
                check_images(
                    found[run], rows[rows["split"] == "test"], f"the test set of {SPLIT_FILE}"
                )
        return found


def publish_study(
    study: Path,
    folder: Path,
    seeds: int | None = None,
    *,
    known: dict[PlannedRun, dict[str, Any]] | None = None,
) -> None:
    """Write the results of a study to a folder, which is replaced.

    A study can be published before it has ended: its finished runs are written.

    Args:
        study: Folder of the study.
        folder: Folder of the published results. Its name becomes that of the study.
        seeds: Number of seeds whose predictions are published. Defaults to all.
        known: Rows of the metrics by run. Missing ones are computed and added.

    Raises:
        MissingDataError: `study` is not the folder of a study, or no run is finished.
        WriteError: A file cannot be written.
    """
    record = StudyRecord(study)
    if not record.entries:
        raise MissingDataError(
            f"publishing {study}: there is no {PLAN} in it. Run a study first: ham10000 study"
        )
    finished = [run for run in record.plan.runs if RunDir(study / run.folder).done]
    if not finished:
        raise MissingDataError(f"publishing {study}: no run has predictions yet.")
    known = {} if known is None else known
    with new_folder(folder, replace=True) as new:
        write_text(new / PLAN, (study / PLAN).read_text(encoding="utf-8"))
        split = read_csv(study / SPLIT, ())
        _write(split.sort_values(list(split.columns)), new / SPLIT_FILE)
        for name, values in record.entries[0]["recipe_fields"].items():
            write_text(new / "recipes" / f"{name}.yaml", recipe_text(values))
        _write_environments(study, finished, new)
        for seed in list(dict.fromkeys(run.seed for run in finished))[:seeds]:
            packed = _packed(study, [run for run in finished if run.seed == seed])
            _write(packed, new / predictions_file(seed))
        for run in finished:
            if run not in known:
                table = _predictions(study, run)
                known[run] = metrics_row(run, Predictions(table, f"publishing {run.folder}"))
        _write(pd.DataFrame([known[run] for run in finished]), new / METRICS_FILE)
        if (study / RESULT).exists():
            result = json.loads((study / RESULT).read_text(encoding="utf-8"))
            write_text(new / RESULT, json.dumps(compact(result), indent=1) + "\n")
        write_text(new / PAGE, PublishedStudy(new, folder.name).page)
        if (folder / MAPS_FILE).exists():
            (new / MAPS_FILE).write_bytes((folder / MAPS_FILE).read_bytes())


def restore_study(folder: Path, out: Path) -> None:
    """Write the plan, split and runs of published results to the folder of a study.

    Runs whose predictions are published then count as finished. No effect if the folder already
    contains the same study.

    Args:
        folder: Folder written by `publish_study`.
        out: Folder of the study.

    Raises:
        ArgumentError: `out` contains another study.
        MissingDataError: There are no published results.
        DataError: plan.json was edited.
    """
    doing = f"restoring {folder} to {out}"
    published, existing = PublishedStudy(folder), StudyRecord(out).entries
    if existing:
        if existing[0]["hash"] != published.record.entries[0]["hash"]:
            raise ArgumentError(f"{doing}: the folder has another study. Choose another folder.")
        return
    write_text(out / SPLIT, published.split.to_csv(index=False, lineterminator="\n"))
    environments = json.loads((folder / _ENVIRONMENTS).read_text(encoding="utf-8"))
    for run, table in published.tables.items():
        files = RunDir(out / run.folder)
        rows = published.split_of(run).drop(columns="fold", errors="ignore")
        write_text(files.split, rows.to_csv(index=False, lineterminator="\n"))
        content = _nested(published.record.entries[0]["recipe_fields"][run.recipe])
        content["data"] |= {"split": str((out / SPLIT).absolute()), "fold": run.fold}
        save_recipe(make_recipe({**content, "seed": run.seed}, doing), files.recipe)
        for each in environments:
            if run.folder in each["runs"]:
                text = json.dumps(each["environment"], indent=2) + "\n"
                write_text(files.environment, text)
        write_text(files.predictions(), table.to_csv(index=False, lineterminator="\n"))
    # Written last, so that an interrupted restoration is repeated.
    write_text(out / PLAN, (folder / PLAN).read_text(encoding="utf-8"))


def runs_by_seed(plan: StudyPlan) -> dict[int, list[PlannedRun]]:
    """Return the runs of a plan by seed."""
    return {seed: [run for run in plan.runs if run.seed == seed] for seed in plan.seeds}


def predictions_file(seed: int) -> str:
    """Return the name of the file with the predictions of a seed."""
    return f"predictions-seed{seed}.csv.bz2"


def recipe_text(fields: Mapping[str, Any]) -> str:
    """Return recorded fields of a recipe as YAML."""
    return yaml.safe_dump(_nested(fields), sort_keys=False, allow_unicode=True)


def metrics_row(run: PlannedRun, predictions: Predictions) -> dict[str, Any]:
    """Return a run and its metrics, as a row of `METRICS_FILE`."""
    one = predictions
    return {**vars(run), **summarize(one.targets, one.probabilities, one.classes)}


def compact(value: Any) -> Any:
    """Round the numbers of a result, and remove models and the values and folders of runs."""
    if isinstance(value, Mapping):
        dropped = ("values", "runs", "models")
        return {name: compact(each) for name, each in value.items() if name not in dropped}
    if isinstance(value, list | tuple):
        return [compact(each) for each in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def quotations(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the parts of a result that pages can quote, by name.

    They are `verdicts`, `differences` (a table of the primary and secondary metrics) and, as "ARM
    METRIC", the difference in any metric that has an interval.

    Args:
        result: Content of study.json.
    """
    control, quoted = result["control"], {}
    level = f"{100 * (1 - result['look']['level']):g} %"
    difference = f"difference ({level} interval)"
    head = ["metric", "arm", f"{control} (control)", "value", difference, "p (Holm)", "outcome"]
    rows = [head]
    for metric in (result["primary"], *result["secondaries"]):
        for arm in result["arms"] if metric in result["metrics"] else ():
            change = result["comparisons"][arm][metric]
            means = result["metrics"][metric]
            cells = [metric_name(metric), arm, *(f"{means[r]['mean']:.4f}" for r in (control, arm))]
            difference = format_change(change["mean"], 4)
            if change["low"] is None:
                cells += [difference, "", change["outcome"]]
            else:
                low, high = (format_change(change[end], 4, "-") for end in ("low", "high"))
                p_value = format_p_value(change["p_holm"])
                cells += [f"{difference} ({low} to {high})", p_value, change["outcome"]]
            rows.append(cells)
    for arm, changes in result["comparisons"].items():
        for metric, change in changes.items():
            if change.get("low") is not None:
                fields = {name: change.get(name) for name in CellEstimate.__dataclass_fields__}
                estimate = CellEstimate(**{**fields, "values": ()})
                quoted[f"{arm} {metric}"] = describe_change(metric, estimate)
    table = markdown_table(rows)
    verdicts = "\n".join(f"- {verdict}" for verdict in result["verdicts"].values())
    return {"verdicts": verdicts, "differences": table, **quoted}


def _page(published: "PublishedStudy") -> str:
    result, plan, name = published.result, published.record.plan, published.name
    design = f"{plan.folds} folds" if plan.folds else "one split"
    started = {run.seed for run in published.metrics}
    counts = f"{len(started)} of {len(plan.seeds)} planned seeds"
    if len(published.metrics) < len([run for run in plan.runs if run.seed in started]):
        counts = f"{len(published.metrics)} of {len(plan.runs)} planned runs"
    parts = [
        f"# {name}",
        f"{', '.join(plan.arms)} compared with {plan.control}: {design}, {counts}. Written by "
        "`ham10000 study --publish`; do not edit.",
    ]
    if result is None:
        parts.append("The study has not ended, and its result has not been computed.")
    else:
        quoted = quotations(result)
        images = f"{result['images']:,} test images of {result['lesions']:,} lesions"
        parts += [
            quoted["verdicts"],
            f"## Differences\n\nArm minus control, seeds {list_seeds(result['seeds'])}, {images}.",
            quoted["differences"],
            "## Looks at the result",
            "\n".join(
                ["| look | time | seeds | level |", "| --- | --- | --- | --- |"]
                + [
                    f"| {look['number']} | {look['time']} | {list_seeds(look['seeds'])} | "
                    f"{'exploratory' if look['exploratory'] else format(look['level'], 'g')} |"
                    for look in published.record.looks
                ]
            ),
        ]
    seeds = list(dict.fromkeys(run.seed for run in published.tables))
    lines = [f'    pandas.read_csv("{METRICS_FILE}")  # one row per run']
    if seeds:
        name = predictions_file(seeds[0])
        lines.append(f'    pandas.read_csv("{name}")  # one row per image and recipe')
    noun = "seed" if len(seeds) == 1 else "seeds"
    kept = f"of {noun} {list_seeds(seeds)} are published" if seeds else "are not published"
    if len(published.tables) < len(published.metrics):
        note = (
            f"Predictions {kept}. The hashes of all predictions are in {PLAN}, so a run can be "
            "compared by training it again on the same kind of machine."
        )
    else:
        note = "The predictions of these runs are published."
    parts += [f"## Files\n\n{note}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _predictions(study: Path, run: PlannedRun) -> pd.DataFrame:
    return read_csv(RunDir(study / run.folder).predictions(), IMAGE_COLUMNS)


def _packed(study: Path, runs: Iterable[PlannedRun]) -> pd.DataFrame:
    drop = list(IMAGE_COLUMNS[1:])
    parts = [_predictions(study, run).drop(columns=drop).assign(recipe=run.recipe) for run in runs]
    table = pd.concat(parts)[["image_id", "recipe", *parts[0].columns[1:-1]]]
    return table.sort_values(["recipe", "image_id"], kind="stable")


def _write_environments(study: Path, runs: Sequence[PlannedRun], folder: Path) -> None:
    found: dict[str, list[str]] = {}
    for run in runs:
        path = RunDir(study / run.folder).environment
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            content.pop("time", None)
            found.setdefault(json.dumps(content), []).append(run.folder)
    groups = [{"environment": json.loads(text), "runs": names} for text, names in found.items()]
    write_text(folder / _ENVIRONMENTS, json.dumps(groups, indent=1) + "\n")


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in fields.items():
        section, dot, inner = name.partition(".")
        place = nested.setdefault(section, {}) if dot else nested
        place[inner or name] = value
    return nested


def _write(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False, lineterminator="\n", float_format="%.12g")


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)
