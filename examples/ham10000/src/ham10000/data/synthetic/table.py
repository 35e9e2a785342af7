"""The table of a synthetic data set: HAM10000's imbalance, several images a lesion, gaps."""

import numpy as np
import pandas as pd

from ham10000.data.facts import CLASS_COUNTS, CLASSES, COLUMNS, LOCALIZATIONS, NUM_IMAGES, SEXES
from ham10000.errors import ArgumentError

__all__ = ["synthetic_table"]

# How many lesions of HAM10000 have 1, 2, 3 and 4 images or more, of 7,470.
_IMAGES_OF_LESION = (5514, 1423, 490, 43)

_AGES = {"akiec": 67, "bcc": 67, "bkl": 64, "df": 52, "mel": 61, "nv": 47, "vasc": 51}
"""The mean age of each class in HAM10000, in years."""

# A smaller class could not be in both the training and the test set.
_LEAST = 20


def synthetic_table(images: int, seed: int) -> pd.DataFrame:
    """Make up a table with HAM10000's columns and proportions.

    Example:
        >>> from ham10000.data.synthetic import synthetic_table
        >>> table = synthetic_table(images=1000, seed=0)
        >>> len(table), table.dx.value_counts().index[0], table.lesion_id.nunique() < 900
        (1000, 'nv', True)

    Args:
        images: how many rows, at least 14, for two of each class.
        seed: of everything.

    Returns:
        As `read_table` gives it.

    Raises:
        ArgumentError: too few images.
    """
    if images < 2 * len(CLASSES):
        raise ArgumentError(
            f"making up a data set: {images} images are too few for seven classes. "
            f"Take at least {2 * len(CLASSES)}."
        )
    rng = np.random.default_rng([seed, 1])
    labels: list[str] = []
    lesions: list[int] = []
    number = 0
    for name, count in _counts(images).items():
        left = count
        while left:
            share = np.array(_IMAGES_OF_LESION) / sum(_IMAGES_OF_LESION)
            size = min(left, 1 + int(rng.choice(len(share), p=share)))
            labels += [name] * size
            lesions += [number] * size
            number, left = number + 1, left - size
    # Images of a lesion are neighbours in HAM10000's table, while ids are all mixed up.
    names = rng.permutation(number)
    ids = rng.permutation(images)
    dx = np.array(labels)
    of_lesion = np.array(lesions)
    ages, sexes, places, kinds = _patients(dx, of_lesion, number, rng)
    values = (
        [f"HAM_{names[lesion]:07d}" for lesion in of_lesion],
        [f"ISIC_{9_000_000 + place:07d}" for place in ids],
        dx.tolist(),
        kinds[of_lesion].tolist(),
        ages[of_lesion],
        sexes[of_lesion].tolist(),
        places[of_lesion].tolist(),
    )
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))


def _counts(images: int) -> dict[str, int]:
    least = min(_LEAST, images // (2 * len(CLASSES)))
    counts = {name: max(least, round(images * CLASS_COUNTS[name] / NUM_IMAGES)) for name in CLASSES}
    counts["nv"] += images - sum(counts.values())
    return counts


def _patients(
    dx: "np.ndarray[tuple[int], np.dtype[np.str_]]",
    of_lesion: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    number: int,
    rng: np.random.Generator,
) -> tuple["np.ndarray[tuple[int], np.dtype[np.float64]]", ...]:
    first = dx[np.unique(of_lesion, return_index=True)[1]]
    mean = np.array([_AGES[str(name)] for name in first], dtype=np.float64)
    # Ages are in steps of five years in HAM10000 too, and some are missing.
    ages = (np.clip(rng.normal(mean, 14), 5, 85) / 5).round() * 5
    ages[rng.random(number) < 0.01] = np.nan
    sexes = rng.choice([*SEXES, "unknown"], size=number, p=[0.455, 0.54, 0.005])
    places = rng.choice([*LOCALIZATIONS, "unknown"], size=number)
    confirmed = rng.choice(["histo", "follow_up", "consensus"], size=number, p=[0.5, 0.4, 0.1])
    kinds = np.where(np.isin(first, ["akiec", "bcc", "mel"]), "histo", confirmed)
    return ages, sexes, places, kinds
