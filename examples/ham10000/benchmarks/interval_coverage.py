"""Coverage of the confidence intervals of one model and of two, by simulation.

    python examples/ham10000/benchmarks/interval_coverage.py

Two models score lesions of a simulated population: scores of the true class are higher, both models
share the difficulty of a lesion, images of a lesion differ little, and probabilities are
overconfident, like those of networks. A study draws as many lesions of each class as a real test
set has, and computes every interval. 95 % of the intervals should contain the population value.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.progress import track
from scipy.special import softmax

from ham10000.data import CLASSES
from ham10000.evaluation import (
    METRICS,
    draw_lesions,
    intervals,
    paired_differences,
    summarize_weighted,
)

__all__ = ["OFFICIAL", "PAPER", "simulate"]

OFFICIAL = (35, 70, 160, 35, 130, 700, 27)
"""Approximate number of lesions of each class in the official test set."""

PAPER = (23, 26, 66, 6, 34, 663, 10)
"""Number of lesions of each class in the test set of the paper, with one image each."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_SKILL = np.array([3.0, 3.2, 2.8, 2.0, 2.2, 4.2, 4.5])
_SHARED, _OWN, _IMAGE = 0.9, 0.8, 0.5
_SURENESS = 1.5
_POPULATION = 200


def simulate(
    lesions: Sequence[int],
    images: Sequence[int] = (1, 1, 1, 2, 3),
    studies: int = 400,
    resamples: int = 400,
    seed: int = 0,
    tails: float = np.inf,
) -> pd.DataFrame:
    """Return the coverage of the intervals of values and of differences.

    Args:
        lesions: number of lesions of each class, in the order of `CLASSES`.
        images: possible numbers of images of a lesion, equally likely.
        studies: number of simulated studies.
        resamples: number of bootstrap resamples in each study.
        seed: random seed.
        tails: degrees of freedom (more than 2) of Student's t distribution of the scores; default:
            normal distribution.

    Returns:
        For each of `METRICS` that is defined: the population value, the difference of the second
        model, and the coverage of both intervals.
    """
    rng = np.random.default_rng(seed)
    prior = np.maximum(lesions, 1e-9) / np.sum(lesions)
    targets, of, models = _draw(rng, np.array(lesions) * _POPULATION, images, prior, tails)
    once = np.ones((len(targets), 1))
    first, second = (summarize_weighted(targets, scores, once) for scores in models)
    value = {name: float(first[name][0]) for name in METRICS}
    difference = {name: float(second[name][0]) - value[name] for name in METRICS}
    covered = np.zeros((2, len(METRICS)))
    for study in track(range(studies), description="studies", transient=True):
        targets, of, models = _draw(rng, np.array(lesions), images, prior, tails)
        counts = draw_lesions(targets, of, resamples, seed=study)
        alone = intervals(targets, models[0], of, counts)
        paired = paired_differences(targets, models[0], models[1], of, counts)
        covered[0] += [alone[name].low <= value[name] <= alone[name].high for name in METRICS]
        covered[1] += [
            paired[name].low <= difference[name] <= paired[name].high for name in METRICS
        ]
    table = pd.DataFrame({"value": value, "difference": difference})
    table["value coverage"], table["difference coverage"] = covered / studies
    return table[table["value"].notna()]


def _draw(
    rng: np.random.Generator, lesions: Ints, images: Sequence[int], prior: Floats, tails: float
) -> tuple[Ints, Ints, list[Floats]]:
    label = np.repeat(np.arange(len(CLASSES)), lesions)
    of = np.repeat(np.arange(len(label)), rng.choice(images, len(label)))
    by_lesion, by_image = (len(label), len(CLASSES)), (len(of), len(CLASSES))
    shared = _SHARED * _noise(rng, by_lesion, tails)
    variance = _SHARED**2 + _OWN**2 + _IMAGE**2
    models = []
    for skill in (_SKILL, _SKILL - 0.3):
        center = shared + _OWN * _noise(rng, by_lesion, tails) + skill * np.eye(len(CLASSES))[label]
        scores = center[of] + _IMAGE * _noise(rng, by_image, tails)
        # Log posterior of normal scores by Bayes' rule, up to a constant.
        sure = (skill * scores - skill**2 / 2) / variance + np.log(prior)
        models.append(np.asarray(softmax(_SURENESS * sure, axis=1)))
    return label[of], of, models


def _noise(rng: np.random.Generator, size: tuple[int, int], tails: float) -> Floats:
    # Noise with variance 1.
    if np.isinf(tails):
        return rng.normal(size=size)
    return np.asarray(rng.standard_t(tails, size) / np.sqrt(tails / (tails - 2)))


def _main() -> None:
    for title, lesions, images, tails in (
        ("official test set", OFFICIAL, (1, 1, 1, 2, 3), np.inf),
        ("paper's test set", PAPER, (1,), np.inf),
        ("official test set, scores with heavy tails", OFFICIAL, (1, 1, 1, 2, 3), 4),
    ):
        found = simulate(lesions, images, studies=1000, tails=tails)
        print(f"\n{title}\n{found.round(3).to_string()}")


if __name__ == "__main__":
    _main()
