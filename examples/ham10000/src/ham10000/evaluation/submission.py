"""Predictions in the form of the challenge ISIC 2018, Task 3, and the truth that it published.

The challenge scores balanced accuracy over 1,511 of its 1,512 test images: its scorer gives the
image ISIC_0035068 no weight, and the Dataverse's table of the test set leaves it out. The scorer
counts two largest probabilities that are equal as a wrong answer, where `summarize` takes the first
class: only with such ties do the two differ.
"""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ham10000.data import CLASSES, HAM10000, TABLE_COLUMNS, find_files, read_csv, read_table
from ham10000.errors import DataError, MissingDataError, some
from ham10000.evaluation.predictions import Predictions
from ham10000.utils import write_text

__all__ = [
    "COLUMNS",
    "UNSCORED",
    "OfficialTest",
    "read_groundtruth",
    "scored",
    "submission_table",
    "write_submission",
]

COLUMNS = ("image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
"""The challenge's columns, in its order."""

UNSCORED = "ISIC_0035068"
"""The test image that the challenge asks for and doesn't score."""

_IMAGES = re.compile(r"isic2018_task3_test_(images|input)", re.IGNORECASE)


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
    """Read the official truth of the test set, in the Dataverse's form or the challenge's.

    Args:
        path: lesion_id, image_id, dx and more (the Dataverse, 1,511 images), or image and one
            column a class with 1.0 where it is (the challenge, 1,512 images).

    Returns:
        The columns of HAM10000's table, as `read_table` gives them. The challenge's form doesn't
        say which images show one lesion, so that each image has its own id as its lesion's, nor
        age, sex and localization, which are unknown.

    Raises:
        MissingDataError: there is no such file.
        DataError: it has neither form, a class is unknown, an image is there twice, or a row has
            not one class; the message names the row.
    """
    columns = read_csv(path, ()).columns
    if "image_id" in columns:
        return read_table(path)
    if "image" not in columns:
        raise DataError(
            f"reading {path}: row 1 has the columns {', '.join(columns)}. Expected those of the "
            f"Dataverse ({', '.join(TABLE_COLUMNS)}) or of the challenge ({', '.join(COLUMNS)})."
        )
    return _from_one_hot(read_csv(path, COLUMNS), path)


def scored(predictions: Predictions) -> Predictions:
    """Leave out the image that the challenge doesn't score."""
    table = predictions.table
    return replace(predictions, table=table[table["image_id"] != UNSCORED])


class OfficialTest(HAM10000):
    """The images of ISIC 2018, Task 3's test set, with items as those of `HAM10000`.

    Args:
        root: a folder that holds ISIC2018_Task3_Test_Images (the Dataverse's name) or
            ISIC2018_Task3_Test_Input (the challenge's), as `download --parts test` makes it.
        truth: as `read_groundtruth` gives it.
        size: images become size x size pixels.
        metadata: columns that an item brings.

    Raises:
        MissingDataError: an image is not there.
    """

    def __init__(
        self, root: Path, truth: pd.DataFrame, size: int, metadata: tuple[str, ...] = ()
    ) -> None:
        self._truth = truth
        super().__init__(root, size=size, metadata=metadata)

    def _open(self) -> None:
        images, _ = find_files(self.root, _IMAGES, (".jpg", ".jpeg"))
        missing = [name for name in self._truth["image_id"] if name not in images]
        if missing:
            raise MissingDataError(
                f"opening {self.root}: there is no official test image {missing[0]}.jpg "
                f"({len(missing)} of {len(self._truth)} are missing: {some(missing)}). "
                f"Get them with: ham10000 download --parts test --out {self.root}"
            )
        self._paths = [images[name] for name in self._truth["image_id"]]
        self._mask_paths = []
        self.table = self._truth


def _from_one_hot(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    image = table["image"].str.replace(r"\.jpg$", "", case=False, regex=True)
    values = table[list(COLUMNS[1:])].apply(pd.to_numeric, errors="coerce")
    unclear = ((values == 1).sum(axis=1) != 1) | ((values == 0).sum(axis=1) != len(CLASSES) - 1)
    if unclear.any():
        row = int(unclear.to_numpy().argmax())
        raise DataError(
            f"reading {path}: row {row + 2} (image {image.iloc[row]}) has not one class with 1.0 "
            f"and 0.0 elsewhere ({int(unclear.sum())} such rows). Get it again."
        )
    repeated = image.duplicated()
    if repeated.any():
        row = int(repeated.to_numpy().argmax())
        raise DataError(
            f"reading {path}: row {row + 2} has the image {image.iloc[row]} again "
            f"({int(repeated.sum())} such rows). Keep one row for each."
        )
    unknown = dict.fromkeys(("dx_type", "sex", "localization"), "unknown")
    truth = pd.DataFrame(
        {"lesion_id": image, "image_id": image, "dx": values.idxmax(axis=1).str.lower()}
    )
    return truth.assign(**unknown, age=float("nan"))[list(TABLE_COLUMNS)]
