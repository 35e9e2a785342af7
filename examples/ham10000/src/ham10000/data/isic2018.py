"""The challenge's own tables of the training set, turned into HAM10000's."""

from pathlib import Path

import pandas as pd

from ham10000.data.constants import CLASSES, TABLE_COLUMNS
from ham10000.data.metadata import read_csv
from ham10000.errors import DataError
from ham10000.utils import write_text

__all__ = ["convert_challenge"]

_KINDS = {
    "histopathology": "histo",
    "serial imaging showing no change": "follow_up",
    "single image expert consensus": "consensus",
    "confocal microscopy with consensus dermoscopy": "confocal",
}


def convert_challenge(truth: Path, groupings: Path, out: Path) -> None:
    """Write HAM10000_metadata.csv out of the challenge's two tables.

    The challenge doesn't publish age, sex and localization: these stay empty.

    Args:
        truth: image, MEL, NV, BCC, AKIEC, BKL, DF, VASC; 1.0 where it is, 0.0 elsewhere.
        groupings: image, lesion_id, diagnosis_confirm_type.
        out: the table to write.

    Raises:
        MissingDataError: a table is not there.
        DataError: a table is none, a row has not one diagnosis, or an image has no lesion.
    """
    columns = tuple(name.upper() for name in CLASSES)
    labels = read_csv(truth, ("image", *columns))
    scores = labels[list(columns)].apply(pd.to_numeric, errors="coerce")
    unclear = (scores == 1).sum(axis=1) != 1
    if unclear.any():
        row = int(unclear.to_numpy().argmax())
        raise DataError(
            f"reading {truth}: row {row + 2} (image {labels['image'].iloc[row]}) has not one "
            "diagnosis. Get it again."
        )
    lesions = read_csv(groupings, ("image", "lesion_id", "diagnosis_confirm_type"))
    merged = labels[["image"]].merge(lesions, on="image", how="left", validate="one_to_one")
    lost = merged["lesion_id"].isna()
    if lost.any():
        row = int(lost.to_numpy().argmax())
        raise DataError(
            f"reading {groupings}: there is no row for the image {merged['image'].iloc[row]}, "
            f"which row {row + 2} of {truth.name} names. Get both again."
        )
    table = pd.DataFrame(
        {
            "lesion_id": merged["lesion_id"],
            "image_id": merged["image"],
            "dx": scores.idxmax(axis=1).str.lower(),
            "dx_type": merged["diagnosis_confirm_type"].map(_KINDS).fillna("unknown"),
            "age": "",
            "sex": "unknown",
            "localization": "unknown",
        },
        columns=list(TABLE_COLUMNS),
    )
    write_text(out, table.to_csv(index=False, lineterminator="\n"))
