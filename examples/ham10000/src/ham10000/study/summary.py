"""The numbers of a study: each metric of each recipe over its seeds, and their differences."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ham10000.errors import PredictionError
from ham10000.evaluation.metrics import METRICS, summarize
from ham10000.evaluation.predictions import Predictions, read_predictions
from ham10000.evaluation.resampling import RESAMPLES, draw_lesions
from ham10000.evaluation.weighted import summarize_weighted
from ham10000.study.plan import StudyPlan
from ham10000.study.statistics import Estimate, estimate, holm
from ham10000.study.verdict import verdict
from ham10000.training.folder import RunFolder

__all__ = ["read_study", "summarize_study"]

Answers = Mapping[tuple[str, int], Predictions]
"""The predictions of the test images by recipe and seed."""


def read_study(plan: StudyPlan, folder: Path) -> Answers:
    """Read the predictions of all runs; those of the folds of a seed are put together.

    Raises:
        MissingDataError: a run has none.
        PredictionError: two runs weren't tested on the same images.
    """
    answers: dict[tuple[str, int], Predictions] = {}
    for recipe in plan.recipes:
        for seed in plan.seeds:
            parts = [
                read_predictions(RunFolder(folder / run.folder).predictions()).table
                for run in plan.runs_of(recipe, seed)
            ]
            table = pd.concat(parts).sort_values("image_id", ignore_index=True)
            answers[recipe, seed] = Predictions(table)
    (first, one), *others = answers.items()
    for name, other in others:
        _check_same(first, one.table, name, other.table)
    return answers


def summarize_study(plan: StudyPlan, answers: Answers, seed: int = 0) -> dict[str, object]:
    """Compute what a study found.

    Args:
        plan: what was asked.
        answers: from `read_study`.
        seed: of the bootstrap.

    Returns:
        What JSON can hold: the plan; `metrics`, by metric and recipe; `comparison`, the second
        recipe minus the first, with `p_holm`; `undefined`, the metrics that these test images
        don't define; and the `verdict`.
    """
    some = next(iter(answers.values()))
    weights = draw_lesions(some.targets, some.lesions, RESAMPLES, seed)
    values = {key: summarize(one.targets, one.probabilities) for key, one in answers.items()}
    draws = {
        key: summarize_weighted(one.targets, one.probabilities, weights)
        for key, one in answers.items()
    }
    num_lesions = len(np.unique(some.lesions))
    defined = [
        name for name in METRICS if all(np.isfinite(value[name]) for value in values.values())
    ]
    first, second = plan.recipes

    def of(recipe: str, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        by_seed = np.array([values[recipe, seed][name] for seed in plan.seeds])
        resampled = np.mean([draws[recipe, seed][name] for seed in plan.seeds], axis=0)
        return by_seed, resampled

    metrics: dict[str, dict[str, object]] = {}
    changes: dict[str, Estimate] = {}
    for name in defined:
        one, other = of(first, name), of(second, name)
        metrics[name] = {
            recipe: estimate(*parts, num_lesions).as_dict()
            for recipe, parts in ((first, one), (second, other))
        }
        changes[name] = estimate(other[0] - one[0], other[1] - one[1], num_lesions)
    # The primary metric was chosen beforehand and stands alone; averages are corrected together,
    # and those of single classes too.
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
        "verdict": _verdict(plan, changes),
    }


def _families(names: Sequence[str], primary: str) -> list[list[str]]:
    others = [name for name in names if name != primary]
    return [
        [name for name in others if "/" not in name],
        [name for name in others if "/" in name],
    ]


def _verdict(plan: StudyPlan, changes: Mapping[str, Estimate]) -> str:
    if plan.primary not in changes:
        return f"{plan.primary} is undefined on these test images: no verdict."
    return verdict(plan.primary, *plan.recipes, changes[plan.primary])


def _check_same(
    first: tuple[str, int], one: pd.DataFrame, second: tuple[str, int], other: pd.DataFrame
) -> None:
    columns = ["image_id", "lesion_id", "dx"]
    if not one[columns].equals(other[columns]):
        differing = set(one["image_id"]) ^ set(other["image_id"])
        raise PredictionError(
            f"summarizing a study: {first[0]} with seed {first[1]} and {second[0]} with seed "
            f"{second[1]} were tested on different images ({len(differing)} of them on one side "
            "only). Train both in one study, which splits once."
        )
