"""Localization scores of the maps of a published study, of each image, and tables for pages.

`maps.csv.bz2` in the folder of the study has a row for each run, image and saliency method, with
the columns of `ham10000.saliency.evaluate_saliency`, and gamma before and after training.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from ham10000.statistics import NORMAL
from ham10000.study.summary import markdown_table

__all__ = ["MAPS_FILE", "maps_problems", "maps_quotations", "mean_over_lesions"]

MAPS_FILE = "maps.csv.bz2"

_SCORES = {
    "pointing_game": "pointing game",
    "energy_inside": "energy inside",
    "iou": "IoU",
    "deletion": "deletion",
    "insertion": "insertion",
}
_STATISTICS = {
    "entropy": "entropy",
    "effective_maps": "effective number of maps",
    "constant_maps": "constant maps",
    "deviation": "dependence on the image",
}
_METHODS = {
    "attention": "attention",
    "grad_cam": "Grad-CAM",
    "gaussian": "centred Gaussian",
    "random": "random map",
}
_MODEL_METHODS = ("attention", "grad_cam")


def mean_over_lesions(values: npt.ArrayLike, lesions: npt.ArrayLike) -> tuple[float, float]:
    """Return the mean over images and its standard error, with lesions as clusters.

    Example:
        >>> from ham10000.study.published_maps import mean_over_lesions
        >>> mean_over_lesions([0.0, 1.0, 1.0, 0.0], ["a", "b", "c", "d"])
        (0.5, 0.288...)

    Args:
        values: (N,).
        lesions: (N,), the lesion of each image. At least two different ones.
    """
    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean())
    _, places = np.unique(np.asarray(lesions), return_inverse=True)
    sums = np.bincount(places, weights=numbers - mean)
    count = len(sums)
    return mean, math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(numbers)


def maps_quotations(folder: Path) -> dict[str, str]:
    """Return the tables `localisation` and `maps` of a published study; nothing without its file.

    Args:
        folder: Folder of the published study.
    """
    if not (folder / MAPS_FILE).exists():
        return {}
    table = pd.read_csv(folder / MAPS_FILE, dtype={"image_id": str, "lesion_id": str})
    return {"localisation": _localisation(table), "maps": _maps(table)}


def maps_problems(folder: Path, split: pd.DataFrame) -> Iterator[str]:
    """Yield what is wrong with the file of a study: images of other folds, impossible scores.

    Args:
        folder: Folder of the published study.
        split: Its split, with all columns as strings.
    """
    if not (folder / MAPS_FILE).exists():
        return
    table = pd.read_csv(folder / MAPS_FILE, dtype={"image_id": str, "lesion_id": str, "fold": str})
    tested = split[split["split"] == "test"]
    keys = ["fold", "image_id", "lesion_id", "dx"]
    known = set(tested[keys].itertuples(index=False, name=None))
    other = [row for row in table[keys].itertuples(index=False, name=None) if row not in known]
    if other:
        yield f"{MAPS_FILE} has images that are not in the test set of their fold: {other[0]}"
    for score in ("pointing_game", "energy_inside", "iou"):
        if not table[score].between(0, 1).all():
            yield f"{MAPS_FILE}: {score} is not always between 0 and 1"


def _localisation(table: pd.DataFrame) -> str:
    head = ["arm", "map", *_SCORES.values()]
    rows = [head]
    first = table["recipe"].iloc[0]
    for recipe, own in table.groupby("recipe", sort=False):
        for method, name in _METHODS.items():
            part = own[own["method"] == method]
            # The other maps do not depend on the model, and are shown for the first one.
            if len(part) and (recipe == first or method in _MODEL_METHODS):
                rows.append([str(recipe), name, *(_interval(part, score, 2) for score in _SCORES)])
    return markdown_table(rows)


def _maps(table: pd.DataFrame) -> str:
    own = table[table["method"] == "attention"]
    head = ["arm", *_STATISTICS.values(), "gamma before", "gamma after"]
    rows = [head]
    for recipe, part in own.groupby("recipe", sort=False):
        cells = [str(recipe), *(_interval(part, name) for name in _STATISTICS)]
        for when in ("gamma_before", "gamma_after"):
            gammas = part[when].dropna()
            cells.append(f"{gammas.mean():.3f}" if len(gammas) else "none")
        rows.append(cells)
    return markdown_table(rows)


def _interval(part: pd.DataFrame, name: str, digits: int = 3) -> str:
    there = part.dropna(subset=[name])
    if there["lesion_id"].nunique() < 2:
        return ""
    mean, error = mean_over_lesions(there[name], there["lesion_id"])
    low, high = mean - NORMAL * error, mean + NORMAL * error
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
