"""Coverage of the intervals of a study, and its rate of false verdicts, by simulation.

    python examples/ham10000/benchmarks/study_coverage.py

The difference of two recipes on a test lesion is simulated as the sum of an effect of the run
(fold and seed), an effect of the lesion that all seeds share, and an effect of lesion and run
together. Their variances reproduce measured ones: the standard deviation over seeds and the
standard error over lesions of two recipes on frozen features, for the mean over five folds and for
the test set of 828 images. Fold effects are fixed, since the interval is conditional on the folds.

Columns: coverage of the 95 % interval and its mean half-width in points; with no true difference,
the rate of "better" or "worse" after one look at level 0.95, and after two looks at level 0.975,
the second with twice as many seeds; with a true difference equal to the margin, the rate of
"equivalent".
"""

import argparse
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.progress import track

from ham10000.statistics import CellEstimate, decide, estimate_cells, shared_variance

__all__ = ["DESIGNS", "MEASURED", "Measured", "simulate"]

Floats = npt.NDArray[np.float64]

DESIGNS = ((5, 2), (5, 3), (5, 5), (1, 6), (1, 10))
"""Numbers of folds and seeds."""


@dataclass(frozen=True)
class Measured:
    """Variation of a paired difference of two recipes on frozen features, in points."""

    seeds: tuple[float, float]
    """Standard deviation over seeds: on the test set of 828 images, and for the mean of 5 folds."""
    lesions: tuple[float, float]
    """Standard error over lesions of the same two."""
    margin: float
    """Smallest difference of interest."""


MEASURED = {
    "balanced_accuracy": Measured((1.95, 0.71), (1.39, 0.48), 1.0),
    "precision_weighted": Measured((0.64, 0.25), (0.34, 0.12), 1.0),
    "auc_macro": Measured((0.39, 0.06), (0.40, 0.11), 0.5),
}

_LESIONS = {1: 400, 5: 1000}
"""Number of test lesions over all folds. Only their variance matters; few are quick to simulate."""


def simulate(
    measured: Measured,
    folds: int,
    seeds: int,
    *,
    difference: float = 0.0,
    shared: float = 0.5,
    level: float = 0.95,
    studies: int = 1000,
    resamples: int = 200,
    seed: int = 0,
) -> list[list[CellEstimate]]:
    """Simulate studies of one design, each with a first look and one with twice as many seeds.

    Args:
        measured: variation of the difference.
        folds: number of folds, 1 or 5.
        seeds: number of seeds of the first look.
        difference: true mean difference over the folds, in points.
        shared: share of the variance over lesions that all seeds have in common. It is larger
            where the variance over seeds is too small for the rest.
        level: nominal coverage of the intervals.
        studies: number of studies.
        resamples: number of bootstrap resamples of lesions in each study.
        seed: random seed.

    Returns:
        For each study, the estimates of the first and of the second look.
    """
    rng = np.random.default_rng(seed)
    place, count = (1 if folds == 5 else 0), _LESIONS[folds] // folds
    # Variances of one fold, whose mean over folds has the measured ones.
    over_seeds = measured.seeds[place] ** 2 * folds
    over_lesions = measured.lesions[place] ** 2 * folds
    own = min((1 - shared) * over_lesions, over_seeds)
    run, together, lesion = over_seeds - own, own * count, (over_lesions - own) * count
    fold_effect = rng.normal(0, np.sqrt(over_seeds), (folds, 1))
    fold_effect -= fold_effect.mean()
    counts = rng.multinomial(count, np.full(count, 1 / count), (folds, resamples)) / count
    found = []
    for _ in track(range(studies), description=f"{folds} x {seeds}", transient=True):
        effects = difference + fold_effect + rng.normal(0, np.sqrt(run), (folds, 2 * seeds))
        table = effects[:, None] + _heavy(rng, (folds, count, 1), lesion)
        table = table + _heavy(rng, (folds, count, 2 * seeds), together)
        drawn = (counts @ table).mean(axis=0).T
        looks = []
        for used in (seeds, 2 * seeds):
            variance = shared_variance(drawn[:used])
            cells = table.mean(axis=1)[:, :used]
            looks.append(estimate_cells(cells, variance, _LESIONS[folds], level=level))
        found.append(looks)
    return found


def _heavy(rng: np.random.Generator, size: tuple[int, ...], variance: float) -> Floats:
    # Most lesions do not differ between recipes: one in five has a non-zero effect.
    return rng.normal(0, np.sqrt(5 * variance), size) * (rng.random(size) < 0.2)


def summarize(measured: Measured, folds: int, seeds: int, studies: int) -> dict[str, float]:
    """Return a row of the table for one design."""
    # Another seed for each design, so that their simulation errors are independent.
    start = 1000 * folds + 10 * seeds + 100_000 * list(MEASURED.values()).index(measured)
    once = simulate(measured, folds, seeds, studies=studies, seed=start)
    twice = simulate(measured, folds, seeds, studies=studies, level=0.975, seed=start + 1)
    edge = simulate(
        measured, folds, seeds, studies=studies, difference=measured.margin, seed=start + 2
    )
    wrong = ("better", "worse")

    def outcome(found: CellEstimate) -> str:
        return decide(found, measured.margin).outcome

    first = [looks[0] for looks in once]
    return {
        "coverage": float(np.mean([each.low <= 0 <= each.high for each in first])),
        "half-width": float(np.mean([each.high - each.low for each in first]) / 2),
        "false, 1 look": float(np.mean([outcome(each) in wrong for each in first])),
        "false, 2 looks": float(
            np.mean([any(outcome(look) in wrong for look in looks) for looks in twice])
        ),
        "false equivalent": float(np.mean([outcome(looks[0]) == "equivalent" for looks in edge])),
    }


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000)
    studies = parser.parse_args().studies
    rows = {
        (metric, f"{folds} x {seeds}"): summarize(measured, folds, seeds, studies)
        for metric, measured in MEASURED.items()
        for folds, seeds in DESIGNS
    }
    print(pd.DataFrame(rows).T.round(3).to_string())


if __name__ == "__main__":
    _main()
