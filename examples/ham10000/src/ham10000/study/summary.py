"""Summarize a study: metrics of each recipe, paired differences to the control, and verdicts."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ham10000.evaluation import (
    EQUAL_METRICS,
    LOWER_IS_BETTER,
    RESAMPLES,
    Cells,
    adjust_p_values,
    check_images,
    compare_cells,
    format_change,
    metric_name,
    read_predictions,
    summarize,
)
from ham10000.statistics import LEVEL, CellEstimate, Verdict, decide
from ham10000.study.plan import PlannedRun, StudyPlan
from ham10000.training import RunDir

__all__ = [
    "RESULT",
    "SPLIT",
    "check_test_images",
    "describe_change",
    "describe_verdict",
    "markdown_table",
    "read_study",
    "summarize_changes",
    "summarize_study",
]

SPLIT = "split.csv"
RESULT = "study.json"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as a Markdown table; the first row is its head."""
    head, *others = rows
    lines = [head, ["---"] * len(head), *others]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


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


def read_study(plan: StudyPlan, folder: Path) -> dict[str, Cells]:
    """Read the predictions of all runs, by recipe, fold and seed. One split is fold 0.

    Args:
        plan: Plan of the study.
        folder: Folder of the study.

    Raises:
        MissingDataError: A run has no predictions.
    """
    return {
        recipe: {
            (run.fold or 0, run.seed): read_predictions(RunDir(folder / run.folder).predictions())
            for run in plan.runs
            if run.recipe == recipe
        }
        for recipe in plan.recipes
    }


def summarize_study(
    plan: StudyPlan,
    cells: Mapping[str, Cells],
    look: int = 1,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute the result of a study.

    Args:
        plan: Plan of the study.
        cells: From `read_study`.
        look: Number of this look at the result, counted from 1.
        resamples: Number of bootstrap resamples of lesions.
        seed: Seed of the bootstrap.

    Returns:
        A JSON object: the fields of the plan; `metrics` by metric and recipe; `comparisons` by arm
        and metric, arm minus control, with the p-value adjusted by Holm's method (`p_holm`) and,
        for the primary and secondary metrics, `outcome` and `reason`; `undefined`, names of
        metrics that are undefined in a fold; the `look`, with its significance level; and
        `verdicts`, a sentence by arm. With too few runs, intervals and p-values are `None`.

    Raises:
        PredictionError: Models of a fold were tested on different images.
    """
    changes = compare_cells(
        cells[plan.control],
        {arm: cells[arm] for arm in plan.arms},
        level=1 - _alpha(plan, look),
        resamples=resamples,
        seed=seed,
    )
    measured = {
        recipe: {
            key: summarize(one.targets, one.probabilities, one.classes) for key, one in runs.items()
        }
        for recipe, runs in cells.items()
    }
    tested = {fold: one for (fold, _), one in cells[plan.control].items()}.values()
    return {
        **summarize_changes(plan, changes, measured, look),
        "images": sum(len(one) for one in tested),
        "lesions": sum(len(np.unique(one.lesions)) for one in tested),
        "resamples": resamples,
    }


def summarize_changes(
    plan: StudyPlan,
    changes: Mapping[str, Mapping[str, CellEstimate]],
    measured: Mapping[str, Mapping[tuple[int, int], Mapping[str, float]]],
    look: int = 1,
) -> dict[str, Any]:
    """Compute the result of a study from the metrics of its runs.

    Args:
        plan: Plan of the study.
        changes: Estimates from `ham10000.evaluation.compare_cells`.
        measured: Metrics by recipe, and by fold and seed.
        look: Number of this look at the result, counted from 1.

    Returns:
        The result of `summarize_study`, except for `images`, `lesions` and `resamples`.
    """
    known = dict.fromkeys(
        name for runs in measured.values() for found in runs.values() for name in found
    )
    defined = [name for name in known if all(name in found for found in changes.values())]
    adjusted = _adjust(plan, changes, defined)
    verdicts = {
        (arm, name): decide(
            changes[arm][name],
            margin,
            adjusted_p=adjusted[arm, name],
            lower_is_better=name in LOWER_IS_BETTER,
        )
        for arm in plan.arms
        for name, margin in plan.margins.items()
        if name in defined
    }
    return {
        **plan.as_dict(),
        "metrics": {
            name: {recipe: _over_cells(runs, name) for recipe, runs in measured.items()}
            for name in defined
        },
        "comparisons": {
            arm: {
                name: _as_dict(
                    changes[arm][name], adjusted[arm, name], verdicts.get((arm, name)), plan
                )
                for name in defined
            }
            for arm in plan.arms
        },
        "undefined": [name for name in known if name not in defined],
        "look": {
            "number": look,
            "level": round(_alpha(plan, look), 9),
            "exploratory": look > plan.looks,
        },
        "verdicts": {
            arm: _sentence(
                plan, arm, look, changes[arm].get(plan.primary), verdicts.get((arm, plan.primary))
            )
            for arm in plan.arms
        },
    }


def describe_verdict(
    metric: str, control: str, arm: str, change: CellEstimate, verdict: Verdict, margin: float
) -> str:
    """Return the verdict on an arm as a sentence.

    Example:
        >>> from ham10000.statistics import decide, estimate_cells
        >>> from ham10000.study.summary import describe_verdict
        >>> change = estimate_cells([[0.03, -0.01]], lesion_variance=0.01**2, lesions=100)
        >>> found = decide(change, margin=0.005)
        >>> print(describe_verdict("auc_macro", "lite0", "lite0_sa", change, found, 0.005))
        lite0_sa instead of lite0: too few runs for a verdict on macro AUC. 1 fold with 2 seeds has
        1 degree of freedom, fewer than 5; 6 seeds or 5 folds are needed.

    Args:
        metric: Name of the metric, as in `ham10000.evaluation.summarize`.
        control: Name of the control.
        arm: Name of the recipe that is compared with it.
        change: Arm minus control.
        verdict: From `ham10000.statistics.decide`.
        margin: Smallest difference of interest.
    """
    subject = f"{arm} instead of {control}"
    if verdict.outcome == "too few runs":
        about = f"too few runs for a verdict on {metric_name(metric)}"
        return f"{subject}: {about}. {verdict.reason}."
    if verdict.outcome == "equivalent":
        points = f"{100 * margin:g} percentage point{'s' * (margin != 0.01)}"
        size = f"{margin:g}" if metric in LOWER_IS_BETTER else points
        found = f"equivalent, as any difference is below {size}"
    elif verdict.outcome == "undecided":
        found = f"undecided, as {verdict.reason}"
    else:
        found = f"{arm} is {verdict.outcome}"
    return f"{subject} changed {describe_change(metric, change)}: {found}."


def describe_change(metric: str, change: CellEstimate) -> str:
    """Return the change of a metric with its interval, proportions in percentage points.

    Example:
        >>> from ham10000.statistics import estimate_cells
        >>> from ham10000.study.summary import describe_change
        >>> change = estimate_cells([[-0.03, -0.01], [-0.02, -0.02]], 0.01**2, lesions=100)
        >>> describe_change("log_loss", change)
        'log loss by -0.020, 95 % interval -0.049 to 0.009'
    """
    name, level = metric_name(metric), f"{100 * change.level:g} %"
    scale, digits, unit = (1, 3, "") if metric in LOWER_IS_BETTER else (100, 2, " points")
    mean = format_change(scale * change.mean, digits)
    low, high = (format_change(scale * end, digits, "-") for end in (change.low, change.high))
    return f"{name} by {mean}{unit}, {level} interval {low} to {high}"


def _alpha(plan: StudyPlan, look: int) -> float:
    # The planned looks share the significance level.
    return (1 - LEVEL) / plan.looks if look <= plan.looks else 1 - LEVEL


def _adjust(
    plan: StudyPlan, changes: Mapping[str, Mapping[str, CellEstimate]], defined: list[str]
) -> dict[tuple[str, str], float]:
    # Three families of tests, each over all arms: the primary, secondary, and all other metrics.
    families: dict[str, dict[tuple[str, str], float]] = {"primary": {}, "secondary": {}, "": {}}
    roles = dict.fromkeys(map(_distinct, plan.secondaries), "secondary")
    roles[_distinct(plan.primary)] = "primary"
    for name in defined:
        family = families[roles.get(_distinct(name), "")]
        family |= {(arm, name): changes[arm][name].p for arm in plan.arms}
    return {key: p for family in families.values() for key, p in adjust_p_values(family).items()}


def _distinct(metric: str) -> str:
    return EQUAL_METRICS.get(metric, metric)


def _over_cells(
    runs: Mapping[tuple[int, int], Mapping[str, float]], metric: str
) -> dict[str, object]:
    # The standard deviation is over seeds, pooled over folds, so that it is the variation of
    # training and not the difficulty of the folds.
    folds, seeds = ({key[place]: None for key in runs} for place in (0, 1))
    values = np.array([[runs[fold, seed][metric] for seed in seeds] for fold in folds])
    std = float(np.sqrt(values.var(axis=1, ddof=1).mean()))
    return {"mean": float(values.mean()), "std": std, "values": values.tolist()}


def _as_dict(
    change: CellEstimate, adjusted_p: float, verdict: Verdict | None, plan: StudyPlan
) -> dict[str, object]:
    found = {**change.as_dict(), "p_holm": adjusted_p}
    if not plan.enough_runs:
        found |= dict.fromkeys(("low", "high", "p", "p_holm"))
    if verdict is not None:
        found |= {"outcome": verdict.outcome, "reason": verdict.reason}
    return found


def _sentence(
    plan: StudyPlan, arm: str, look: int, change: CellEstimate | None, verdict: Verdict | None
) -> str:
    if change is None or verdict is None:
        undefined = f"{metric_name(plan.primary)} is undefined on these test images: no verdict"
        return f"{arm} instead of {plan.control}: {undefined}."
    margin = plan.margins[plan.primary]
    text = describe_verdict(plan.primary, plan.control, arm, change, verdict, margin)
    if look > plan.looks:
        planned = f"{plan.looks} planned look{'s' * (plan.looks > 1)}"
        return f"Exploratory (look {look}, after {planned}): {text}"
    return text if plan.looks == 1 else f"Look {look} of {plan.looks}: {text}"
