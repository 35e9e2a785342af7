"""Paired comparison of recipes with a control over folds and seeds.

A cell is one trained model: a fold and a seed. Metrics are computed in each cell, on the test
images of its fold, and averaged over cells. Predictions of different models are never pooled, since
their scores are not on the same scale. Lesions are resampled within each fold, the same resamples
for all seeds and recipes. `ham10000.statistics.estimate_cells` combines the variances.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ham10000.errors import ArgumentError, some
from ham10000.evaluation.bootstrap import RESAMPLES, draw_lesions, summarize_weighted
from ham10000.evaluation.metrics import EQUAL_METRICS, metrics_of, summarize, upper_bound
from ham10000.evaluation.predictions import Predictions, check_images
from ham10000.statistics import LEVEL, CellEstimate, estimate_cells, holm, shared_variance

__all__ = ["Cells", "adjust_p_values", "compare_cells"]

Cells = Mapping[tuple[int, int], Predictions]
"""Predictions of a recipe by fold and seed."""

Floats = npt.NDArray[np.float64]


def compare_cells(
    control: Cells,
    arms: Mapping[str, Cells],
    *,
    metrics: Sequence[str] | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, CellEstimate]]:
    """Estimate the difference of each arm from the control, arm minus control.

    Args:
        control: Predictions of the control, by fold and seed: every fold with every seed. With one
            split there is one fold.
        arms: Predictions of each arm in the same cells, for the same images.
        metrics: Names of metrics. Defaults to all.
        level: Nominal coverage of the intervals.
        resamples: Number of bootstrap resamples of lesions.
        seed: Seed of the resamples.

    Returns:
        By arm, the estimate of each metric, without the metrics that are undefined in a fold.

    Raises:
        ArgumentError: A cell is missing, or folds have lesions in common.
        PredictionError: Models of a fold were tested on different images.
    """
    for cells in arms.values():
        _check_same_cells(control, cells)
    folds, seeds = _grid(control)
    _check_disjoint(control, folds, seeds)
    classes = control[folds[0], seeds[0]].classes
    metrics = metrics_of(classes) if metrics is None else metrics
    found = {arm: _Differences.empty(metrics, len(folds), len(seeds), resamples) for arm in arms}
    lesions = np.zeros((len(folds), len(classes)))
    for row, fold in enumerate(folds):
        first = control[fold, seeds[0]]
        counts = draw_lesions(first.targets, first.lesions, resamples, [seed, row])
        lesions[row] = _lesions_of_class(first)
        for column, each in enumerate(seeds):
            base = _Cell.of(
                control[fold, each], first, counts, f"control, fold {fold}, seed {each}"
            )
            for arm, cells in arms.items():
                other = _Cell.of(
                    cells[fold, each], first, counts, f"{arm}, fold {fold}, seed {each}"
                )
                found[arm].add(row, column, base, other)
    return {
        arm: each.estimate(dict(zip(classes, lesions.T, strict=True)), level)
        for arm, each in found.items()
    }


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
        p_values: By recipe and metric.
    """
    distinct = {
        (recipe, EQUAL_METRICS.get(metric, metric)): p for (recipe, metric), p in p_values.items()
    }
    adjusted = holm(distinct)
    return {
        (recipe, metric): adjusted[recipe, EQUAL_METRICS.get(metric, metric)]
        for recipe, metric in p_values
    }


@dataclass(frozen=True)
class _Cell:
    """Metrics of one model, on its test images and on their resamples."""

    probabilities: Floats
    values: Mapping[str, float]
    drawn: Mapping[str, Floats]

    @classmethod
    def of(cls, one: Predictions, first: Predictions, counts: Floats, name: str) -> "_Cell":
        one = _aligned(one, first, name)
        truth, scores = one.targets, one.probabilities
        return cls(
            scores,
            summarize(truth, scores, one.classes),
            summarize_weighted(truth, scores, counts, one.classes),
        )


@dataclass
class _Differences:
    """Differences of an arm from the control."""

    values: dict[str, Floats]
    """By metric, the difference of each fold and seed, (F, S)."""
    drawn: dict[str, Floats]
    """By metric, the difference of each seed on each resample, averaged over folds, (S, R)."""
    identical: bool = True
    """Whether all predictions are equal."""

    @classmethod
    def empty(
        cls, metrics: Sequence[str], folds: int, seeds: int, resamples: int
    ) -> "_Differences":
        return cls(
            {name: np.empty((folds, seeds)) for name in metrics},
            {name: np.zeros((seeds, resamples)) for name in metrics},
        )

    def add(self, row: int, column: int, a: _Cell, b: _Cell) -> None:
        self.identical &= np.array_equal(a.probabilities, b.probabilities)
        for name, values in self.values.items():
            values[row, column] = b.values[name] - a.values[name]
            self.drawn[name][column] += (b.drawn[name] - a.drawn[name]) / len(values)

    def estimate(self, lesions: Mapping[str, Floats], level: float) -> dict[str, CellEstimate]:
        found = {}
        for name, values in self.values.items():
            if not np.isfinite(values).all():
                continue
            number = _limiting(name, lesions)
            # n lesions drawn with replacement have a variance that is too small by (n - 1) / n.
            scale = float(np.mean(number / np.maximum(number - 1, 1)))
            found[name] = estimate_cells(
                values,
                scale * shared_variance(self.drawn[name]),
                int(number.sum()),
                level=level,
                bounds=(-upper_bound(name), upper_bound(name)),
                identical=self.identical,
            )
        return found


def _check_same_cells(control: Cells, arm: Cells) -> None:
    if set(control) != set(arm):
        missing = sorted(set(control) ^ set(arm))
        raise ArgumentError(
            f"comparing recipes over folds and seeds: {some(missing)} (fold, seed) are in only one "
            "of the two. Run both recipes in the same cells."
        )


def _grid(control: Cells) -> tuple[list[int], list[int]]:
    folds = sorted({fold for fold, _ in control})
    seeds = sorted({seed for _, seed in control})
    lacking = [(fold, seed) for fold in folds for seed in seeds if (fold, seed) not in control]
    if lacking or not control:
        raise ArgumentError(
            "comparing recipes over folds and seeds: "
            f"{some(lacking) if lacking else 'all cells'} (fold, seed) are missing. Run every fold "
            "with every seed."
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
    return np.array([lesions.get(name, 0) for name in one.classes], dtype=np.float64)


def _limiting(metric: str, lesions: Mapping[str, Floats]) -> Floats:
    # Number of lesions in each fold that limits how well the variance is known: those of the class,
    # of the rarest class for means over classes, and all of them otherwise.
    name, _, dx = metric.partition("/")
    if dx:
        return lesions[dx]
    counts = np.stack(list(lesions.values()), axis=1)
    if name.endswith("_macro") or name == "balanced_accuracy":
        return np.asarray(np.where(counts > 0, counts, np.inf).min(axis=1))
    return np.asarray(counts.sum(axis=1))
