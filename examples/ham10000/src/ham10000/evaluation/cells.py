"""Paired comparison of two recipes over folds and seeds.

A cell is one trained model: a fold and a seed. Metrics are computed in each cell, on the test
images of its fold, and averaged over cells. Predictions of different models are never pooled, since
their scores are not on the same scale. Lesions are resampled within each fold, the same resamples
for all seeds and both recipes. `ham10000.statistics.estimate_cells` combines the variances.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ham10000.data import CLASSES
from ham10000.errors import ArgumentError, some
from ham10000.evaluation.bootstrap import RESAMPLES, draw_lesions, summarize_weighted
from ham10000.evaluation.metrics import EQUAL_METRICS, METRICS, summarize, upper_bound
from ham10000.evaluation.predictions import Predictions, check_images
from ham10000.statistics import LEVEL, CellEstimate, estimate_cells, holm, shared_variance

__all__ = ["Cells", "adjust_p_values", "compare_cells"]

Cells = Mapping[tuple[int, int], Predictions]
"""Predictions of a recipe by fold and seed."""

Floats = npt.NDArray[np.float64]


def compare_cells(
    control: Cells,
    treatment: Cells,
    *,
    metrics: Sequence[str] = METRICS,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, CellEstimate]:
    """Estimate the difference of two recipes, treatment minus control.

    Args:
        control: predictions of the control, by fold and seed: every fold with every seed. With one
            split there is one fold.
        treatment: predictions of the treatment in the same cells, for the same images.
        metrics: names of metrics.
        level: nominal coverage of the intervals.
        resamples: number of bootstrap resamples of lesions.
        seed: seed of the resamples.

    Returns:
        The estimate of each metric, without the metrics that are undefined in a fold.

    Raises:
        ArgumentError: a cell is missing, or folds have lesions in common.
        PredictionError: models of a fold were tested on different images.
    """
    folds, seeds = _grid(control, treatment)
    _check_disjoint(control, folds, seeds)
    values = {name: np.empty((len(folds), len(seeds))) for name in metrics}
    drawn = {name: np.zeros((len(seeds), resamples)) for name in metrics}
    lesions = np.zeros((len(folds), len(CLASSES)))
    for row, fold in enumerate(folds):
        first = control[fold, seeds[0]]
        counts = draw_lesions(first.targets, first.lesions, resamples, [seed, row])
        lesions[row] = _lesions_of_class(first)
        for column, each in enumerate(seeds):
            pair = [
                _aligned(cells[fold, each], first, f"{name}, fold {fold}, seed {each}")
                for name, cells in (("control", control), ("treatment", treatment))
            ]
            a, b = (summarize(one.targets, one.probabilities) for one in pair)
            again_a, again_b = (
                summarize_weighted(one.targets, one.probabilities, counts) for one in pair
            )
            for name in metrics:
                values[name][row, column] = b[name] - a[name]
                drawn[name][column] += (again_b[name] - again_a[name]) / len(folds)
    found = {}
    for name in metrics:
        if not np.isfinite(values[name]).all():
            continue
        number = _limiting(name, lesions)
        # n lesions drawn with replacement have a variance that is too small by (n - 1) / n.
        scale = float(np.mean(number / np.maximum(number - 1, 1)))
        found[name] = estimate_cells(
            values[name],
            scale * shared_variance(drawn[name]),
            int(number.sum()),
            level=level,
            bounds=(-upper_bound(name), upper_bound(name)),
        )
    return found


def adjust_p_values(p_values: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Adjust p-values over recipes and metrics (Holm), counting equal metrics once.

    Example:
        >>> from ham10000.evaluation import adjust_p_values
        >>> found = adjust_p_values(
        ...     {
        ...         ("se", "balanced_accuracy"): 0.01,
        ...         ("se", "recall_macro"): 0.01,
        ...         ("eca", "balanced_accuracy"): 0.04,
        ...     }
        ... )
        >>> list(found.values())
        [0.02, 0.02, 0.04]

    Args:
        p_values: by recipe and metric.
    """
    distinct = {
        (recipe, EQUAL_METRICS.get(metric, metric)): p for (recipe, metric), p in p_values.items()
    }
    adjusted = holm(distinct)
    return {
        (recipe, metric): adjusted[recipe, EQUAL_METRICS.get(metric, metric)]
        for recipe, metric in p_values
    }


def _grid(control: Cells, treatment: Cells) -> tuple[list[int], list[int]]:
    doing = "comparing recipes over folds and seeds"
    if set(control) != set(treatment):
        missing = sorted(set(control) ^ set(treatment))
        raise ArgumentError(
            f"{doing}: {some(missing)} (fold, seed) are in only one of the two. Run both recipes "
            "in the same cells."
        )
    folds = sorted({fold for fold, _ in control})
    seeds = sorted({seed for _, seed in control})
    lacking = [(fold, seed) for fold in folds for seed in seeds if (fold, seed) not in control]
    if lacking or not control:
        raise ArgumentError(
            f"{doing}: {some(lacking) if lacking else 'all cells'} (fold, seed) are missing. Run "
            "every fold with every seed."
        )
    return folds, seeds


def _check_disjoint(cells: Cells, folds: list[int], seeds: list[int]) -> None:
    seen: set[str] = set()
    for fold in folds:
        names = set(cells[fold, seeds[0]].table["lesion_id"])
        if seen & names:
            raise ArgumentError(
                f"comparing recipes over folds and seeds: fold {fold} tests on lesions of an "
                f"earlier fold ({some(sorted(seen & names))}). Use folds in which every lesion is "
                "tested once."
            )
        seen |= names


def _aligned(one: Predictions, first: Predictions, name: str) -> Predictions:
    named = replace(one, source=f"comparing recipes over folds and seeds, {name}")
    check_images(named, first.table, "the first model of this fold")
    table = one.table.set_index("image_id").loc[first.table["image_id"]].reset_index()
    return replace(one, table=table)


def _lesions_of_class(one: Predictions) -> Floats:
    lesions = one.table.drop_duplicates("lesion_id")["dx"].value_counts()
    return np.array([lesions.get(name, 0) for name in CLASSES], dtype=np.float64)


def _limiting(metric: str, lesions: Floats) -> Floats:
    # Number of lesions in each fold that limits how well the variance is known: those of the class,
    # of the rarest class for means over classes, and all of them otherwise.
    name, _, dx = metric.partition("/")
    if dx:
        return np.asarray(lesions[:, CLASSES.index(dx)])
    if name.endswith("_macro") or name == "balanced_accuracy":
        return np.asarray(np.where(lesions > 0, lesions, np.inf).min(axis=1))
    return np.asarray(lesions.sum(axis=1))
