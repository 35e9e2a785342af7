"""Coverage of the confidence intervals of one model and of two, by simulation.

    python examples/ham10000/benchmarks/interval_coverage.py

In a simulation the truth is known. Two models score lesions of a made-up population: scores of the
true class are higher, both models share what makes a lesion hard, the images of a lesion differ
little, and probabilities are surer than they should be, as those of networks are. A study draws
lesions of each class, as many as a real test set has, and computes every interval. The share of
studies whose interval holds the value of the whole population should be 95 %.
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
"""Lesions of each class, about as many as the official test set has."""

PAPER = (23, 26, 66, 6, 34, 663, 10)
"""As many as the paper's test set has, of one image each."""

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
    """Say how often the intervals of values and of differences hold the truth.

    Args:
        lesions: how many of each class, in the order of `CLASSES`.
        images: a lesion has one of these numbers of images, each as likely.
        studies: how many test sets are drawn.
        resamples: how many draws of lesions each study's intervals come from.
        seed: of everything.
        tails: scores are of Student's distribution with so many degrees of freedom, more than 2;
            normal unless given.

    Returns:
        For each of `METRICS` that is defined: the value of the population, the difference of the
        second model, and the shares of studies that hold them.
    """
    rng = np.random.default_rng(seed)
    prior = np.maximum(lesions, 1e-9) / np.sum(lesions)
    targets, of, models = _draw(rng, np.array(lesions) * _POPULATION, images, prior, tails)
    once = np.ones((len(targets), 1))
    first, second = (summarize_weighted(targets, scores, once) for scores in models)
    value = {name: float(first[name][0]) for name in METRICS}
    difference = {name: float(second[name][0]) - value[name] for name in METRICS}
    held = np.zeros((2, len(METRICS)))
    for study in track(range(studies), description="studies", transient=True):
        targets, of, models = _draw(rng, np.array(lesions), images, prior, tails)
        counts = draw_lesions(targets, of, resamples, seed=study)
        alone = intervals(targets, models[0], of, counts)
        paired = paired_differences(targets, models[0], models[1], of, counts)
        held[0] += [alone[name].low <= value[name] <= alone[name].high for name in METRICS]
        held[1] += [paired[name].low <= difference[name] <= paired[name].high for name in METRICS]
    table = pd.DataFrame({"value": value, "difference": difference})
    table["value held"], table["difference held"] = held / studies
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
        # The logarithm of what Bayes' rule gives of normal scores, but for a constant.
        sure = (skill * scores - skill**2 / 2) / variance + np.log(prior)
        models.append(np.asarray(softmax(_SURENESS * sure, axis=1)))
    return label[of], of, models


def _noise(rng: np.random.Generator, size: tuple[int, int], tails: float) -> Floats:
    """Return noise with a variance of 1."""
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
