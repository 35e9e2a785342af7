"""Summarize a study: metrics over seeds, paired differences, and the verdict."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ham10000.errors import PredictionError
from ham10000.evaluation import (
    LOWER_IS_BETTER,
    METRICS,
    RESAMPLES,
    Interval,
    Predictions,
    change_ends,
    check_images,
    draw_lesions,
    intervals_of,
    metric_name,
    read_predictions,
    summarize_weighted,
    upper_bound,
)
from ham10000.statistics import (
    LEVEL,
    Estimate,
    corrected_ends,
    correlation,
    estimate,
    holm,
    mean_ends,
    spread,
)
from ham10000.study.plan import PlannedRun, StudyPlan
from ham10000.training import RunDir

__all__ = [
    "SPLIT",
    "check_test_images",
    "describe_change",
    "read_study",
    "summarize_study",
    "verdict",
]

SPLIT = "split.csv"

Answers = Mapping[tuple[str, int], Predictions]
"""Predictions of the test images by recipe and seed."""


def check_test_images(runs: Iterable[PlannedRun], folder: Path, fold: int | None = None) -> None:
    """Check that runs predicted exactly the test images of the study's split.

    Args:
        runs: Runs with predictions.
        folder: Folder of the study, with split.csv.
        fold: Test fold of runs that have none of their own, if the split has folds.

    Raises:
        PredictionError: An image is missing, is not a test image, or has another diagnosis.
    """
    split = pd.read_csv(folder / SPLIT, dtype=str, keep_default_na=False)
    tested = split[split["split"] == "test"]
    for run in runs:
        number = fold if run.fold is None else run.fold
        rows = tested if number is None else tested[tested["fold"] == str(number)]
        predictions = read_predictions(RunDir(folder / run.folder).predictions())
        check_images(predictions, rows, f"the test set of {folder / SPLIT}")


def read_study(plan: StudyPlan, folder: Path) -> Answers:
    """Read the predictions of all runs and concatenate those of the folds of a seed.

    Args:
        plan: Plan of the study.
        folder: Folder of the study.

    Raises:
        MissingDataError: A run has no predictions.
        PredictionError: Two runs were tested on different images.
    """
    answers: dict[tuple[str, int], Predictions] = {}
    for recipe in plan.recipes:
        for seed in plan.seeds:
            parts = [
                read_predictions(RunDir(folder / run.folder).predictions()).table
                for run in plan.runs_of(recipe, seed)
            ]
            table = pd.concat(parts).sort_values("image_id", ignore_index=True)
            answers[recipe, seed] = Predictions(table)
    (first, one), *others = answers.items()
    for name, other in others:
        _check_same(first, one.table, name, other.table)
    return answers


def summarize_study(
    plan: StudyPlan, answers: Answers, look: int = 1, seed: int = 0
) -> dict[str, object]:
    """Compute the result of a study.

    Args:
        plan: Plan of the study.
        answers: From `read_study`.
        look: Number of this look at the result, counted from 1.
        seed: Seed of the bootstrap.

    Returns:
        A JSON object: the fields of the plan; `metrics` by metric and recipe; `comparison`, the
        second recipe minus the first, with `p_holm`; `undefined`, names of metrics that are
        undefined on these test images; the `look`, with its significance level; and the `verdict`.
        The verdict's interval is at the level of the look, all others are 95 % intervals.
    """
    some = next(iter(answers.values()))
    weights = draw_lesions(some.targets, some.lesions, RESAMPLES, seed)
    runs = {key: _measure(one, weights) for key, one in answers.items()}
    num_lesions = len(np.unique(some.lesions))
    defined = [
        name
        for name in METRICS
        if all(np.isfinite(run.intervals[name].value) for run in runs.values())
    ]
    metrics: dict[str, dict[str, object]] = {}
    changes: dict[str, Estimate] = {}
    planned = look <= plan.looks
    alpha = (1 - LEVEL) / plan.looks if planned else 1 - LEVEL
    decisive: Estimate | None = None
    for name in defined:
        one, other = (
            _over_seeds(name, [runs[recipe, seed] for seed in plan.seeds], num_lesions)
            for recipe in plan.recipes
        )
        most = upper_bound(name)
        metrics[name] = {
            recipe: estimate(each.values, each.interval[1:], (0.0, most)).as_dict()
            for recipe, each in zip(plan.recipes, (one, other), strict=True)
        }
        drawn = (one.drawn, other.drawn)
        ends = change_ends(name, one.interval, other.interval, drawn, num_lesions)
        change = other.values - one.values
        changes[name] = estimate(change, ends, (-most, most))
        if name == plan.primary:
            decisive = estimate(change, ends, (-most, most), level=1 - alpha)
    # The primary metric was chosen in advance and is not corrected. Averages are one family of
    # tests, metrics of single classes are another.
    corrected = {plan.primary: changes[plan.primary].p} if plan.primary in changes else {}
    for family in _families(defined, plan.primary):
        corrected |= holm({name: changes[name].p for name in family})
    return {
        **plan.as_dict(),
        "images": len(some),
        "lesions": num_lesions,
        "resamples": RESAMPLES,
        "metrics": metrics,
        "comparison": {
            name: {
                "difference": found.mean,
                "std": found.std,
                "low": found.low,
                "high": found.high,
                "p": found.p,
                "p_holm": corrected[name],
            }
            for name, found in changes.items()
        },
        "undefined": [name for name in METRICS if name not in defined],
        "look": {"number": look, "level": round(alpha, 9), "exploratory": not planned},
        "verdict": _verdict(plan, decisive, look),
    }


def verdict(metric: str, first: str, second: str, difference: Estimate, margin: float = 0.0) -> str:
    """Return the verdict of a comparison as a sentence.

    Example:
        >>> from ham10000.statistics import Estimate
        >>> from ham10000.study.summary import verdict
        >>> found = Estimate(0.008, 0.01, low=-0.006, high=0.021, p=0.2, values=(0.0, 0.016))
        >>> print(verdict("balanced_accuracy", "lite0", "lite0_sa", found))
        lite0_sa instead of lite0 changed balanced accuracy by +0.8 points, 95 % interval -0.6 to
        2.1: undecided.

    Args:
        metric: Name of the metric, as in `ham10000.evaluation.summarize`.
        first: Name of the reference recipe.
        second: Name of the recipe that is compared with it.
        difference: Second minus first.
        margin: Smallest difference of interest. If the interval lies within plus or minus this,
            the recipes are equivalent; 0 disables this verdict.
    """
    if margin and -margin < difference.low and difference.high < margin:
        points = f"{100 * margin:g} percentage point{'s' * (margin != 0.01)}"
        size = f"{margin:g}" if metric in LOWER_IS_BETTER else points
        found = f"equivalent, as any difference is below {size}"
    elif difference.low <= 0 <= difference.high:
        found = "undecided"
    else:
        better = (difference.mean > 0) != (metric in LOWER_IS_BETTER)
        found = f"{second} is {'better' if better else 'worse'}"
    return f"{second} instead of {first} changed {describe_change(metric, difference)}: {found}."


def describe_change(metric: str, difference: Estimate) -> str:
    """Return the change of a metric with its interval, proportions in percentage points.

    Example:
        >>> from ham10000.statistics import Estimate
        >>> from ham10000.study.summary import describe_change
        >>> found = Estimate(-0.021, 0.01, low=-0.06, high=0.018, p=0.2, values=(0.0, 0.016))
        >>> describe_change("log_loss", found)
        'log loss by -0.021, 95 % interval -0.060 to 0.018'
    """
    name, level = metric_name(metric), f"{100 * difference.level:g} %"
    if metric in LOWER_IS_BETTER:
        mean, low, high = (
            f"{value:{sign}.3f}"
            for value, sign in ((difference.mean, "+"), (difference.low, ""), (difference.high, ""))
        )
        return f"{name} by {mean}, {level} interval {low} to {high}"
    mean, low, high = (
        f"{100 * value:{sign}.1f}"
        for value, sign in ((difference.mean, "+"), (difference.low, ""), (difference.high, ""))
    )
    return f"{name} by {mean} points, {level} interval {low} to {high}"


@dataclass(frozen=True)
class _Measured:
    """Metrics of a run on the test lesions and on bootstrap resamples of them."""

    intervals: Mapping[str, Interval]
    drawn: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class _OverSeeds:
    """A metric of a recipe over its seeds."""

    values: NDArray[np.float64]
    """Value for each seed, (S,)."""
    drawn: NDArray[np.float64]
    """Mean over seeds for each bootstrap resample, (R,)."""
    interval: tuple[float, float, float]
    """Mean over seeds, and its interval over lesions alone."""


def _measure(one: Predictions, weights: NDArray[np.float64]) -> _Measured:
    drawn = summarize_weighted(one.targets, one.probabilities, weights)
    found = intervals_of(one.targets, one.probabilities, one.lesions, drawn)
    return _Measured(found, drawn)


def _over_seeds(name: str, runs: Sequence[_Measured], lesions: int) -> _OverSeeds:
    each = [run.intervals[name] for run in runs]
    values = np.array([one.value for one in each])
    mean = float(values.mean())
    drawn = np.stack([run.drawn[name] for run in runs])
    if name == "ece":
        ends = corrected_ends(mean, drawn.mean(axis=0), lesions)
    else:
        shares = np.full(len(runs), 1 / len(runs))
        sides = np.array([(one.low, one.high) for one in each])
        related = correlation(drawn)
        # Correlation is undefined for constant resamples. All runs share their lesions: use 1.
        constant = np.array([spread(row) == 0 for row in drawn])
        related[constant[:, None] | constant] = 1.0
        ends = mean_ends(values, sides, shares, related)
    return _OverSeeds(values, drawn.mean(axis=0), (mean, *ends))


def _families(names: Sequence[str], primary: str) -> list[list[str]]:
    others = [name for name in names if name != primary]
    return [
        [name for name in others if "/" not in name],
        [name for name in others if "/" in name],
    ]


def _verdict(plan: StudyPlan, change: Estimate | None, look: int) -> str:
    if change is None:
        return f"{plan.primary} is undefined on these test images: no verdict."
    text = verdict(plan.primary, *plan.recipes, change, plan.smallest_difference)
    if look > plan.looks:
        planned = f"{plan.looks} planned look{'s' * (plan.looks > 1)}"
        return f"Exploratory (look {look}, after {planned}): {text}"
    return text if plan.looks == 1 else f"Look {look} of {plan.looks}: {text}"


def _check_same(
    first: tuple[str, int], one: pd.DataFrame, second: tuple[str, int], other: pd.DataFrame
) -> None:
    columns = ["image_id", "lesion_id", "dx"]
    if not one[columns].equals(other[columns]):
        differing = set(one["image_id"]) ^ set(other["image_id"])
        raise PredictionError(
            f"summarizing a study: {first[0]} with seed {first[1]} and {second[0]} with seed "
            f"{second[1]} were tested on different images ({len(differing)} images are in only one "
            "of the two). Train both runs in one study, with the same split."
        )
