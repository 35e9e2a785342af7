"""Verify published results: recompute their numbers, and compare them with the stored ones."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import yaml

from ham10000.errors import Ham10000Error, closest
from ham10000.evaluation import METRICS, format_change, metric_name, summarize, upper_bound
from ham10000.statistics import CellEstimate, estimate_cells
from ham10000.study.plan import PlannedRun, StudyPlan
from ham10000.study.preregistration import PLAN, content_hash, table_hash
from ham10000.study.published_maps import maps_problems, maps_quotations
from ham10000.study.results import (
    METRICS_FILE,
    PAGE,
    SPLIT_FILE,
    PublishedStudy,
    compact,
    metrics_row,
    predictions_file,
    quotations,
    recipe_text,
    runs_by_seed,
)
from ham10000.study.summary import (
    RESULT,
    markdown_table,
    summarize_changes,
    summarize_study,
)
from ham10000.utils import read_text, write_text

__all__ = [
    "POPULATION_METRICS",
    "StudyCheck",
    "population_metrics",
    "quote_results",
    "verify_study",
]

T = TypeVar("T")
Floats = npt.NDArray[np.float64]

_NONE = "missing"

_END = "<!-- end results -->"

_QUOTATION = re.compile(
    rf"(?<!`)(?P<begin><!-- results (?P<name>\S+) (?P<part>[^\n]+?) -->)(?P<text>.*?){_END}",
    re.DOTALL,
)

_SPLIT_METRICS = ("precision_weighted", "accuracy", "auc_weighted", "balanced_accuracy")

POPULATION_METRICS = ("auc_macro", "auc_weighted", "auc/mel", "auc/nv", "balanced_accuracy")
"""Metrics of `population_metrics`."""

_TOLERANCES = {"rel_tol": 1e-5, "abs_tol": 1e-8}
"""Stored numbers are rounded, and the order of summation depends on the processor."""


@dataclass
class StudyCheck:
    """Result of the verification of a published study."""

    name: str
    problems: list[str] = field(default_factory=list)
    """Differences from the recomputed values, one sentence each."""
    runs: int = 0
    """Number of published runs."""
    recomputed: int = 0
    """Number of runs whose metrics were recomputed from predictions."""

    def describe(self) -> str:
        """Return what was recomputed, as a sentence."""
        if self.recomputed == self.runs:
            source = "all numbers recomputed from predictions"
        else:
            source = (
                f"metrics of {self.recomputed} recomputed from predictions; differences, intervals "
                "and verdicts from the metrics of all runs and the published standard errors over "
                "lesions"
            )
        return f"{self.name}: {self.runs} runs, {source}"


def verify_study(folder: Path) -> StudyCheck:
    """Recompute the numbers of published results, and compare them with the stored ones.

    Args:
        folder: Folder written by `publish_study`.
    """
    found = StudyCheck(folder.name)
    try:
        published = PublishedStudy(folder)
        found.runs, found.recomputed = len(published.metrics), len(published.tables)
        found.problems += _problems(published)
    except (Ham10000Error, OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        found.problems.append(f"it cannot be read: {type(error).__name__}: {error}")
    return found


def quote_results(page: Path, results: Path, *, write: bool = False) -> list[str]:
    """Compare the quotations of a page with the published results.

    A quotation is the text between `<!-- results STUDY PART -->` and `<!-- end results -->`, where
    PART is a key of `quotations` or `maps_quotations`; `populations`, a table of the metrics of the
    control on lesions with one or several images; or `folds`, a table of the differences in each
    fold. If STUDY is a pattern such as `paper-*`, PART
    is `splits`, a table of the means over these studies. Comments in backticks are ignored.

    Args:
        page: Markdown file.
        results: Folder that contains one folder per study.
        write: Replace quotations that differ.

    Returns:
        One sentence for each quotation that differs or names an unknown part; with `write`, only
        for the latter.
    """
    text, problems = read_text(page, f"quoting results in {page}"), list[str]()

    def quote(match: re.Match[str]) -> str:
        name, part = match["name"], match["part"]
        study = PublishedStudy(results / name) if (results / name).is_dir() else None
        several = sorted(results.glob(name)) if "*" in name else []
        parts = {} if study is None or study.result is None else quotations(study.result)
        if study is not None and part == "populations":
            parts[part] = _populations(study)
        elif study is not None and part == "folds":
            parts[part] = _folds(study)
        elif study is not None:
            parts |= maps_quotations(study.folder)
        elif several:
            parts = {"splits": _splits([PublishedStudy(folder) for folder in several])}
        if part not in parts:
            problems.append(f"{page}: there is no {part!r} in {name}. {closest(part, parts)}")
            return match[0]
        gap = "\n\n" if "\n" in parts[part] or "\n" in match["text"] else ""
        new = f"{match['begin']}{gap}{parts[part]}{gap}{_END}"
        if new != match[0] and not write:
            problems.append(f"{page}: the quotation {part!r} of {name} differs from the result")
        return new

    changed = _QUOTATION.sub(quote, text)
    if write and changed != text:
        write_text(page, changed)
    return problems


def population_metrics(study: PublishedStudy) -> dict[str, dict[str, float]]:
    """Return the means of metrics of the control, by the number of images of a lesion.

    Args:
        study: The study. Runs without published predictions don't count.

    Returns:
        For "all", "one image" and "several images": `images`, the number of test images, and the
        metrics, means over folds and seeds. Populations without images are left out.
    """
    # A lesion's images are all in the test set of one fold, so they can be counted there.
    control = study.record.plan.control
    runs = [found for run, found in study.predictions.items() if run.recipe == control]
    sizes = [found.table.groupby("lesion_id")["lesion_id"].transform("size") for found in runs]
    populations = {
        "all": [each > 0 for each in sizes],
        "one image": [each == 1 for each in sizes],
        "several images": [each > 1 for each in sizes],
    }
    seeds = len({run.seed for run in study.predictions})
    metrics = {}
    for name, chosen in populations.items():
        images = sum(int(each.sum()) for each in chosen) // seeds
        if not images:
            continue
        measured = [
            summarize(found.targets[each], found.probabilities[each], found.classes)
            for found, each in zip(runs, chosen, strict=True)
        ]
        known = [metric for metric in POPULATION_METRICS if metric in measured[0]]
        means = {m: float(np.mean([row[m] for row in measured])) for m in known}
        metrics[name] = {"images": float(images), **means}
    return metrics


def _populations(study: PublishedStudy) -> str:
    populations = population_metrics(study)
    known = [metric for metric in POPULATION_METRICS if metric in populations["all"]]
    rows = [["lesions with", "test images", *map(metric_name, known)]]
    for name, found in populations.items():
        values = (f"{found[metric]:.3f}" for metric in known)
        rows.append([name, f"{found['images']:,.0f}", *values])
    return markdown_table(rows)


def _folds(study: PublishedStudy) -> str:
    """Return a table of the differences in the primary metric in each fold, means over seeds."""
    plan = study.record.plan
    measured = _by_cell(plan, {run: row[plan.primary] for run, row in study.metrics.items()})
    folds, seeds = range(plan.folds or 1), plan.seeds
    rows = [["arm", *(f"fold {fold + 1}" for fold in folds)]]
    for arm in plan.arms:
        changes = [
            np.mean(
                [measured[arm][fold, seed] - measured[plan.control][fold, seed] for seed in seeds]
            )
            for fold in folds
        ]
        rows.append([arm, *(format_change(float(change), 4) for change in changes)])
    return markdown_table(rows)


def _splits(studies: Sequence[PublishedStudy]) -> str:
    """Return a table of means over studies of the same recipes, each with a split of its own.

    There are no intervals, since the test sets of the splits overlap.
    """
    control, *arms = studies[0].record.plan.recipes
    change = f"{metric_name(_SPLIT_METRICS[0])}: difference from {control}"
    head = ["arm", *map(metric_name, _SPLIT_METRICS), change]
    rows = [head]
    for recipe in (control, *arms):
        means = {metric: _by_split(studies, recipe, metric) for metric in _SPLIT_METRICS}
        cells = [f"{each.mean():.3f} ± {each.std(ddof=1):.3f}" for each in means.values()]
        first = _SPLIT_METRICS[0]
        changes = means[first] - _by_split(studies, control, first)
        last = f"{changes.mean():+.3f} ± {changes.std(ddof=1):.3f}" if recipe != control else ""
        rows.append([recipe, *cells, last])
    return markdown_table(rows)


def _by_split(studies: Sequence[PublishedStudy], recipe: str, metric: str) -> Floats:
    found = [
        [values[metric] for run, values in study.metrics.items() if run.recipe == recipe]
        for study in studies
    ]
    return np.array([np.mean(each) for each in found])


def _problems(study: PublishedStudy) -> Iterator[str]:
    plan = study.record.entries[0]
    if table_hash(study.split) != plan["split"]:
        yield f"{SPLIT_FILE} does not match the hash of the split in {PLAN}"
    for name, fields in plan["recipe_fields"].items():
        if content_hash(fields) != plan["recipe_hashes"][name]:
            yield f"the fields of {name} in {PLAN} do not match their hash"
        if _text(study.folder / "recipes" / f"{name}.yaml") != recipe_text(fields):
            yield f"recipes/{name}.yaml differs from the fields in {PLAN}"
    yield from _problems_of_predictions(study)
    yield from maps_problems(study.folder, study.split)
    if study.result is not None:
        yield from _problems_of_result(study, study.result)
    elif study.record.looks:
        yield f"{RESULT} is missing, though {PLAN} has a look at the result"
    if _text(study.folder / PAGE) != study.page:
        yield f"{PAGE} differs from the text that is generated from {RESULT}"


def _problems_of_predictions(study: PublishedStudy) -> Iterator[str]:
    packed = sorted(path.name for path in study.folder.glob("predictions-seed*"))
    by_seed = runs_by_seed(study.record.plan)
    expected = {predictions_file(seed): runs for seed, runs in by_seed.items()}
    yield from (f"{name} is of no seed of the plan" for name in packed if name not in expected)
    for name in filter(expected.__contains__, packed):
        published = [run for run in expected[name] if run in study.metrics]
        lacking = [run.folder for run in published if run not in study.tables]
        yield from (f"{name} lacks the predictions of {folder}" for folder in lacking)
    recorded = [(look, look["predictions"]) for look in study.record.looks]
    for run, table in study.tables.items():
        now = table_hash(table)
        for look, hashes in recorded:
            if hashes.get(run.folder, now) != now:
                yield (
                    f"the predictions of {run.folder} do not match their hash in look "
                    f"{look['number']} of {PLAN}"
                )
        if run not in study.metrics:
            yield f"{METRICS_FILE} lacks {run.folder}"
            continue
        row = metrics_row(run, study.predictions[run])
        for difference in _differences(study.metrics[run], {m: row[m] for m in METRICS}, ""):
            yield f"{METRICS_FILE}, {run.folder}: {difference}"


def _problems_of_result(study: PublishedStudy, stored: Mapping[str, Any]) -> Iterator[str]:
    plan = replace(study.record.plan, seeds=tuple(stored["seeds"]))
    number = stored["look"]["number"]
    lacking = [run.folder for run in plan.runs if run not in study.metrics]
    if lacking:
        yield f"{METRICS_FILE} lacks {', '.join(lacking)}, of which {RESULT} has the result"
        return
    if all(run in study.predictions for run in plan.runs):
        cells = _by_cell(plan, study.predictions)
        result = summarize_study(plan, cells, number, resamples=stored["resamples"])
    else:
        result = _from_metrics(study, plan, stored)
    looks = study.record.looks_taken
    result |= {"rule": study.record.entries[0]["rule"], "looks_taken": looks}
    for difference in _differences(stored, compact(result), ""):
        yield f"{RESULT}: {difference}"
    if number > len(looks) or looks[number - 1]["verdicts"] != stored["verdicts"]:
        yield f"the verdicts in {RESULT} are not those of look {number} in {PLAN}"


def _from_metrics(
    study: PublishedStudy, plan: StudyPlan, stored: Mapping[str, Any]
) -> dict[str, Any]:
    # Without predictions, the standard errors over lesions are taken from the stored result.
    measured = _by_cell(plan, study.metrics)
    changes = {
        arm: {
            name: _estimate(measured[plan.control], measured[arm], name, change)
            for name, change in stored["comparisons"][arm].items()
        }
        for arm in plan.arms
    }
    result = summarize_changes(plan, changes, measured, stored["look"]["number"])
    return {**result, **{name: stored[name] for name in ("images", "lesions", "resamples")}}


def _estimate(
    control: Mapping[tuple[int, int], Mapping[str, float]],
    arm: Mapping[tuple[int, int], Mapping[str, float]],
    metric: str,
    stored: Mapping[str, Any],
) -> CellEstimate:
    folds, seeds = (list(dict.fromkeys(key[place] for key in control)) for place in (0, 1))
    largest = upper_bound(metric)
    return estimate_cells(
        [[arm[f, s][metric] - control[f, s][metric] for s in seeds] for f in folds],
        stored["lesion_error"] ** 2,
        stored["lesion_df"] + 1,
        level=stored["level"],
        bounds=(-largest, largest),
        identical=stored["low"] == stored["high"],
    )


def _by_cell(
    plan: StudyPlan, values: Mapping[PlannedRun, T]
) -> dict[str, dict[tuple[int, int], T]]:
    return {
        recipe: {
            (run.fold or 0, run.seed): values[run] for run in plan.runs if run.recipe == recipe
        }
        for recipe in plan.recipes
    }


def _differences(stored: Any, computed: Any, name: str) -> Iterator[str]:
    if isinstance(stored, Mapping) and isinstance(computed, Mapping):
        for key in {**stored, **computed}:
            place = f"{name}.{key}" if name else str(key)
            yield from _differences(stored.get(key, _NONE), computed.get(key, _NONE), place)
    elif isinstance(stored, float) and isinstance(computed, int | float):
        both_undefined = math.isnan(stored) and math.isnan(computed)
        if not both_undefined and not math.isclose(stored, computed, **_TOLERANCES):
            yield f"{name} is {stored:.6g}, recomputed {computed:.6g}"
    elif stored != computed:
        yield f"{name} is {stored!r}, recomputed {computed!r}"


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None
