"""The official test set and submission format of the ISIC 2018 challenge, Task 3.

The challenge scores balanced accuracy over 1,511 of its 1,512 test images: the scorer gives the
image ISIC_0035068 weight 0, and the Dataverse table of the test set omits it. If two largest
probabilities are equal, the scorer counts the image as wrong, while `summarize` uses the first
class. Without such ties the two agree.
"""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ham10000.data import CLASSES, HAM10000, TABLE_COLUMNS, find_files, read_csv, read_table
from ham10000.errors import DataError, MissingDataError, PredictionError, some
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
"""Columns of a submission, in the order of the challenge."""

UNSCORED = "ISIC_0035068"
"""Test image that a submission must contain, but that is not scored."""

_IMAGES = re.compile(r"isic2018_task3_test_(images|input)", re.IGNORECASE)


def submission_table(predictions: Predictions) -> pd.DataFrame:
    """Return predictions in the submission format, sorted by image.

    Example:
        >>> from ham10000.evaluation.predictions import make_predictions
        >>> from ham10000.evaluation.submission import submission_table
        >>> sure = make_predictions([("I1", "L1", "nv", "test")], [[0, 0, 0, 0, 0.25, 0.75, 0]])
        >>> print(submission_table(sure).to_csv(index=False))
        image,MEL,NV,BCC,AKIEC,BKL,DF,VASC
        I1,0.25,0.75,0.0,0.0,0.0,0.0,0.0
    """
    if predictions.classes != CLASSES:
        raise PredictionError(
            f"{predictions.source}: a submission has the classes {', '.join(CLASSES)}, and these "
            f"predictions {', '.join(predictions.classes)}. Predict with a model of HAM10000, or "
            "pass a run of each of the two tasks of ISIC 2017."
        )
    table = predictions.table.rename(columns={"image_id": "image"})
    table = table.rename(columns={name: name.upper() for name in CLASSES})
    return table[list(COLUMNS)].sort_values("image", ignore_index=True)


def write_submission(predictions: Predictions, path: Path) -> None:
    """Write a submission file atomically.

    Raises:
        WriteError: The file cannot be written.
    """
    table = submission_table(predictions)
    # Rounding can leave a probability just above 1, which the challenge rejects.
    table[list(COLUMNS[1:])] = table[list(COLUMNS[1:])].clip(upper=1.0)
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def read_groundtruth(path: Path) -> pd.DataFrame:
    """Read the official ground truth of the test set, in the Dataverse or the challenge format.

    Args:
        path: A CSV file with lesion_id, image_id, dx and more (Dataverse, 1,511 images), or with
            image and a one-hot column for each class (challenge, 1,512 images).

    Returns:
        A table as `read_table` returns it. The challenge format has no lesions, age, sex or
        localization: each image becomes a lesion of its own, and the other fields are unknown.

    Raises:
        MissingDataError: The file does not exist.
        DataError: The file has neither format, a class is unknown, an image is duplicated, or a
            row does not have exactly one class; the message names the row.
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
    """Return the predictions without the image that the challenge does not score."""
    table = predictions.table
    return replace(predictions, table=table[table["image_id"] != UNSCORED])


class OfficialTest(HAM10000):
    """Images of the official test set of ISIC 2018, Task 3, with items as in `HAM10000`.

    Args:
        root: Folder with ISIC2018_Task3_Test_Images (name in the Dataverse) or
            ISIC2018_Task3_Test_Input (name in the challenge), as from `download --parts test`.
        truth: Table from `read_groundtruth`.
        size: Images are resized to size x size.
        metadata: Metadata columns of an item.

    Raises:
        MissingDataError: An image is missing.
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
            f"reading {path}: row {row + 2} (image {image.iloc[row]}) does not have 1.0 for "
            f"exactly one class and 0.0 elsewhere ({int(unclear.sum())} such rows). Get it again."
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
