"""Tables and files of a synthetic data set, in the layout of a published one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from ham10000.data.catalog import ISIC2017_PARTS
from ham10000.data.constants import (
    CLASS_COUNTS,
    CLASSES,
    LOCALIZATIONS,
    NUM_IMAGES,
    SEXES,
    TABLE_COLUMNS,
)
from ham10000.errors import ArgumentError

__all__ = ["LAYOUTS", "Layout", "LayoutName", "PlannedImage", "synthetic_table"]

LayoutName = Literal["ham10000", "isic2017", "isic2019"]
"""Published data sets whose layout can be synthesized."""


@dataclass(frozen=True)
class PlannedImage:
    """An image to draw, and the files to write it to, relative to the folder of the data set."""

    kind: str
    """Diagnosis, one of those of HAM10000."""
    lesion: int
    view: int
    """Index of the image among those of its lesion."""
    image: str
    mask: str = ""
    superpixels: str = ""
    """A further file next to the image, as in ISIC 2017, which is not an image of the data set."""


@dataclass(frozen=True)
class Layout:
    """The files of a data set."""

    images: list[PlannedImage]
    tables: Mapping[str, pd.DataFrame]
    """Table by name of its file."""


# Numbers of HAM10000's 7,470 lesions with 1, 2, 3, and 4 or more images.
_IMAGES_OF_LESION = (5514, 1423, 490, 43)

_AGES = {"akiec": 67, "bcc": 67, "bkl": 64, "df": 52, "mel": 61, "nv": 47, "vasc": 51}
"""Mean age of each class in HAM10000, in years."""

# A smaller class could not be in both the training and the test set.
_LEAST = 20


def synthetic_table(images: int, seed: int) -> pd.DataFrame:
    """Return a metadata table with HAM10000's columns and proportions.

    Example:
        >>> from ham10000.data import synthetic_table
        >>> table = synthetic_table(images=1000, seed=0)
        >>> len(table), table.dx.value_counts().index[0], table.lesion_id.nunique() < 900
        (1000, 'nv', True)

    Args:
        images: Number of rows, at least 14 for two of each class.
        seed: Seed of all draws.

    Returns:
        A table like that of `read_table`.

    Raises:
        ArgumentError: There are too few images.
    """
    if images < 2 * len(CLASSES):
        raise ArgumentError(
            f"synthesizing a data set: {images} images are too few for seven classes. "
            f"Use at least {2 * len(CLASSES)}."
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
    # As in HAM10000's table, images of a lesion are in adjacent rows, and ids are shuffled.
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
    return pd.DataFrame(dict(zip(TABLE_COLUMNS, values, strict=True)))


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
    # As in HAM10000, ages are multiples of five years, and some are missing.
    ages = (np.clip(rng.normal(mean, 14), 5, 85) / 5).round() * 5
    ages[rng.random(number) < 0.01] = np.nan
    sexes = rng.choice([*SEXES, "unknown"], size=number, p=[0.455, 0.54, 0.005])
    places = rng.choice([*LOCALIZATIONS, "unknown"], size=number)
    confirmed = rng.choice(["histo", "follow_up", "consensus"], size=number, p=[0.5, 0.4, 0.1])
    kinds = np.where(np.isin(first, ["akiec", "bcc", "mel"]), "histo", confirmed)
    return ages, sexes, places, kinds


def _plan_ham10000(images: int, seed: int) -> Layout:
    table = synthetic_table(images, seed)
    first = set(sorted(table["image_id"])[: (images + 1) // 2])
    seen = table.groupby("lesion_id").cumcount()
    planned = [
        PlannedImage(
            kind=dx,
            lesion=int(lesion.removeprefix("HAM_")),
            view=int(view),
            image=f"HAM10000_images_part_{1 if name in first else 2}/{name}.jpg",
            mask=f"HAM10000_segmentations_lesion_tschandl/{name}_segmentation.png",
        )
        for name, dx, lesion, view in zip(
            table["image_id"], table["dx"], table["lesion_id"], seen, strict=True
        )
    ]
    return Layout(planned, {"HAM10000_metadata.csv": table})


_ISIC2017_COUNTS = {
    "Training": {"mel": 374, "bkl": 254, "nv": 1_372},
    "Validation": {"mel": 30, "bkl": 42, "nv": 78},
    "Test_v2": {"mel": 117, "bkl": 90, "nv": 393},
}
"""Published number of melanomas, seborrheic keratoses (drawn as bkl) and nevi in each part."""

_ISIC2017_LEAST = 36


def _plan_isic2017(images: int, seed: int) -> Layout:
    if images < _ISIC2017_LEAST:
        raise ArgumentError(
            f"synthesizing a data set: {images} images are too few for three classes in three "
            f"parts. Use at least {_ISIC2017_LEAST}."
        )
    total = sum(sum(counts.values()) for counts in _ISIC2017_COUNTS.values())
    kinds = [
        (part, kind)
        for part, counts in _ISIC2017_COUNTS.items()
        for kind, count in counts.items()
        for _ in range(max(2, round(images * count / total)))
    ]
    # Nevi of the training set make up for the rounding.
    kinds += [("Training", "nv")] * (images - len(kinds))
    while len(kinds) > images:
        kinds.remove(("Training", "nv"))
    ids = np.random.default_rng([seed, 1]).permutation(images)
    planned = []
    rows: dict[str, list[tuple[str, float, float]]] = {part: [] for part in ISIC2017_PARTS}
    for number, (part, kind) in sorted(zip(ids.tolist(), kinds, strict=True)):
        name = f"ISIC_{9_000_000 + number:07d}"
        folder = f"ISIC-2017_{part}_Data"
        planned.append(
            PlannedImage(
                kind=kind,
                lesion=number,
                view=0,
                image=f"{folder}/{name}.jpg",
                mask=f"ISIC-2017_{part}_Part1_GroundTruth/{name}_segmentation.png",
                superpixels=f"{folder}/{name}_superpixels.png",
            )
        )
        rows[part].append((name, float(kind == "mel"), float(kind == "bkl")))
    columns = ["image_id", "melanoma", "seborrheic_keratosis"]
    tables = {
        f"ISIC-2017_{part}_Part3_GroundTruth.csv": pd.DataFrame(rows[part], columns=columns)
        for part in ISIC2017_PARTS
    }
    return Layout(planned, tables)


_ISIC2019 = "ISIC_2019_Training_Input"
_ISIC2019_SITES = {
    "abdomen": "anterior torso",
    "acral": "palms/soles",
    "back": "posterior torso",
    "chest": "anterior torso",
    "ear": "head/neck",
    "face": "head/neck",
    "foot": "lower extremity",
    "genital": "oral/genital",
    "hand": "upper extremity",
    "lower extremity": "lower extremity",
    "neck": "head/neck",
    "scalp": "head/neck",
    "trunk": "lateral torso",
    "upper extremity": "upper extremity",
    "unknown": "",
}
_ISIC2019_COLUMNS = ("mel", "nv", "bcc", "ak", "bkl", "df", "vasc", "scc", "unk")


def _plan_isic2019(images: int, seed: int) -> Layout:
    # The lesions of a set like HAM10000. Each second akiec is a squamous cell carcinoma.
    table = synthetic_table(images, seed)
    number = pd.Series(pd.factorize(table["lesion_id"])[0])
    akiec = table["dx"] == "akiec"
    turn = pd.factorize(table["lesion_id"][akiec])[0] % 2
    dx = table["dx"].copy()
    dx[akiec] = np.where(turn == 0, "ak", "scc")
    size = table.groupby("lesion_id")["image_id"].transform("size")
    unknown = (size == 1) & (number % 8 == 0)
    names = table["image_id"].where(number % 5 != 0, table["image_id"] + "_downsampled")
    planned = [
        PlannedImage(kind, int(lesion.removeprefix("HAM_")), int(view), f"{_ISIC2019}/{name}.jpg")
        for kind, lesion, view, name in zip(
            table["dx"],
            table["lesion_id"],
            table.groupby("lesion_id").cumcount(),
            names,
            strict=True,
        )
    ]
    truth = pd.DataFrame({"image": names})
    for column in _ISIC2019_COLUMNS:
        truth[column.upper()] = (dx == column).astype(float)
    metadata = pd.DataFrame(
        {
            "image": names,
            "age_approx": table["age"],
            "anatom_site_general": table["localization"].map(_ISIC2019_SITES),
            "lesion_id": table["lesion_id"].mask(unknown, ""),
            "sex": table["sex"].replace("unknown", ""),
        }
    )
    tables = {
        "ISIC_2019_Training_GroundTruth.csv": truth,
        "ISIC_2019_Training_Metadata.csv": metadata,
    }
    return Layout(planned, tables)


LAYOUTS: Mapping[str, Callable[[int, int], Layout]] = {
    "ham10000": _plan_ham10000,
    "isic2017": _plan_isic2017,
    "isic2019": _plan_isic2019,
}
"""Function of the number of images and the seed, by name of the layout."""
