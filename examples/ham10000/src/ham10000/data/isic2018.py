"""The tables that the challenge ISIC 2018 publishes for its training set, in HAM10000's form."""

from pathlib import Path

import pandas as pd

from ham10000.data.constants import CLASSES, TABLE_COLUMNS
from ham10000.data.metadata import clean_table, read_csv
from ham10000.errors import DataError
from ham10000.utils import write_text

__all__ = ["GROUPINGS", "TRUTH", "convert_challenge", "read_challenge"]

TRUTH = "ISIC2018_Task3_Training_GroundTruth.csv"
GROUPINGS = "ISIC2018_Task3_Training_LesionGroupings.csv"


def read_challenge(truth: Path, groupings: Path) -> pd.DataFrame:
    """Read the challenge's one-hot ground truth and its lesion ids as a metadata table.

    The challenge doesn't publish age, sex and localization, so these are unknown.

    Args:
        truth: image, MEL, NV, BCC, AKIEC, BKL, DF, VASC; 1.0 for the diagnosis, 0.0 elsewhere.
        groupings: image, lesion_id, diagnosis_confirm_type.

    Returns:
        The table as `read_table` returns it, in the order of the ground truth.

    Raises:
        MissingDataError: a table does not exist.
        DataError: a file is not such a table, a row doesn't have exactly one diagnosis, or an
            image has no lesion id.
    """
    columns = tuple(name.upper() for name in CLASSES)
    labels = read_csv(truth, ("image", *columns))
    scores = labels[list(columns)].apply(pd.to_numeric, errors="coerce")
    unclear = (scores == 1).sum(axis=1) != 1
    if unclear.any():
        row = int(unclear.to_numpy().argmax())
        raise DataError(
            f"reading {truth}: row {row + 2} (image {labels['image'].iloc[row]}) doesn't have "
            "exactly one diagnosis. Get the file again."
        )
    lesions = read_csv(groupings, ("image", "lesion_id", "diagnosis_confirm_type"))
    repeated = lesions["image"].duplicated()
    if repeated.any():
        row = int(repeated.to_numpy().argmax())
        raise DataError(
            f"reading {groupings}: row {row + 2} repeats the image {lesions['image'].iloc[row]}. "
            "Get the file again."
        )
    merged = labels[["image"]].merge(lesions, on="image", how="left")
    lost = merged["lesion_id"].isna()
    if lost.any():
        row = int(lost.to_numpy().argmax())
        raise DataError(
            f"reading {groupings}: there is no row for the image {merged['image'].iloc[row]}, "
            f"which row {row + 2} of {truth.name} names. Get both files again."
        )
    table = pd.DataFrame(
        {
            "lesion_id": merged["lesion_id"],
            "image_id": merged["image"],
            "dx": scores.idxmax(axis=1).str.lower(),
            "dx_type": merged["diagnosis_confirm_type"],
            "age": "",
            "sex": "",
            "localization": "",
        },
        columns=list(TABLE_COLUMNS),
    )
    return clean_table(table, f"reading {truth}")


def convert_challenge(truth: Path, groupings: Path, out: Path) -> None:
    """Write HAM10000_metadata.csv from the challenge's two tables.

    Arguments and errors are those of `read_challenge`; `out` is the file to write.
    """
    table = read_challenge(truth, groupings)
    write_text(out, table.to_csv(index=False, lineterminator="\n"))
