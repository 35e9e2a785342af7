"""Predictions in the form of the challenge ISIC 2018, Task 3, and the truth that it published.

The challenge scores balanced accuracy over 1,511 of its 1,512 test images: its scorer gives the
image ISIC_0035068 no weight, and the Dataverse's table of the test set leaves it out. The scorer
counts two largest probabilities that are equal as a wrong answer, where `summarize` takes the first
class: only with such ties do the two differ.
"""

from pathlib import Path

import pandas as pd

from ham10000.data.facts import CLASSES
from ham10000.data.files import write_text
from ham10000.data.table import read_csv
from ham10000.errors import DataError, closest, some
from ham10000.evaluation.predictions import Predictions

__all__ = ["COLUMNS", "UNSCORED", "read_groundtruth", "submission_table", "write_submission"]

COLUMNS = ("image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
"""The challenge's columns, in its order."""

UNSCORED = "ISIC_0035068"
"""The test image that the challenge asks for and doesn't score."""


def submission_table(predictions: Predictions) -> pd.DataFrame:
    """Return predictions as the challenge takes them, sorted by image.

    Example:
        >>> from ham10000.evaluation.predictions import make_predictions
        >>> from ham10000.evaluation.submission import submission_table
        >>> sure = make_predictions([("I1", "L1", "nv", "test")], [[0, 0, 0, 0, 0.25, 0.75, 0]])
        >>> print(submission_table(sure).to_csv(index=False))
        image,MEL,NV,BCC,AKIEC,BKL,DF,VASC
        I1,0.25,0.75,0.0,0.0,0.0,0.0,0.0
    """
    table = predictions.table.rename(columns={"image_id": "image"})
    table = table.rename(columns={name: name.upper() for name in CLASSES})
    return table[list(COLUMNS)].sort_values("image", ignore_index=True)


def write_submission(predictions: Predictions, path: Path) -> None:
    """Write the file that the challenge takes, whole or not at all.

    Raises:
        WriteError: the system refuses.
    """
    table = submission_table(predictions)
    # A sum that is just above 1 for rounding can hold a probability just above 1, which the
    # challenge refuses.
    table[list(COLUMNS[1:])] = table[list(COLUMNS[1:])].clip(upper=1.0)
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def read_groundtruth(path: Path) -> pd.DataFrame:
    """Read the official truth of a test set, in the Dataverse's form or the challenge's.

    Args:
        path: lesion_id, image_id, dx and more (the Dataverse, 1,511 images), or image and one
            column a class with 1.0 where it is (the challenge, 1,512 images, of which one is not
            scored and left out here).

    Returns:
        image_id, lesion_id and dx. The challenge's form doesn't say which images show one lesion:
        each has its image's own id there.

    Raises:
        MissingDataError: there is no such file.
        DataError: it has neither form, a class is unknown, an image is there twice, or a row has
            not one class; the message names the row.
    """
    table = read_csv(path, ())
    if "image_id" in table.columns:
        truth = read_csv(path, ("lesion_id", "image_id", "dx"))
    elif "image" in table.columns:
        truth = _one_hot(read_csv(path, COLUMNS), path)
    else:
        raise DataError(
            f"reading {path}: row 1 has the columns {', '.join(table.columns)}. Expected "
            f"lesion_id, image_id, dx, ... (the Dataverse's) or {', '.join(COLUMNS)} (the "
            "challenge's)."
        )
    unknown = ~truth["dx"].isin(CLASSES)
    if unknown.any():
        row = int(unknown.to_numpy().argmax())
        name = truth["dx"].iloc[row]
        raise DataError(
            f"reading {path}: row {row + 2} has dx {name!r}, which is none of HAM10000's classes "
            f"({int(unknown.sum())} such rows). {closest(name, CLASSES)}"
        )
    repeated = truth["image_id"].duplicated()
    if repeated.any():
        names = truth["image_id"][repeated]
        raise DataError(
            f"reading {path}: row {int(repeated.to_numpy().argmax()) + 2} has the image "
            f"{names.iloc[0]} again ({len(names)} such: {some(names)}). Keep one row for each."
        )
    scored = truth["image_id"] != UNSCORED
    return truth.loc[scored, ["image_id", "lesion_id", "dx"]].reset_index(drop=True)


def _one_hot(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    image = table["image"].str.replace(r"\.jpg$", "", case=False, regex=True)
    values = table[list(COLUMNS[1:])].apply(pd.to_numeric, errors="coerce")
    unclear = ((values == 1).sum(axis=1) != 1) | ((values == 0).sum(axis=1) != len(CLASSES) - 1)
    if unclear.any():
        row = int(unclear.to_numpy().argmax())
        raise DataError(
            f"reading {path}: row {row + 2} (image {image.iloc[row]}) has not one class with 1.0 "
            f"and 0.0 elsewhere ({int(unclear.sum())} such rows). Get it again."
        )
    return pd.DataFrame(
        {"image_id": image, "lesion_id": image, "dx": values.idxmax(axis=1).str.lower()}
    )
