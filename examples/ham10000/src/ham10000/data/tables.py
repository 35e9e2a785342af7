"""The tables of a data set on disk, in any of its formats, as one table with HAM10000's columns.

A table of several files is checked file by file, so that messages name the row in its file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ham10000.data.catalog import HAM10000_INFO
from ham10000.data.constants import PUBLISHED_SPLIT, SPLITS, TABLE_COLUMNS
from ham10000.data.descriptions import DatasetInfo, TableFormat
from ham10000.data.metadata import clean_table, read_csv
from ham10000.errors import DataError, MissingDataError
from ham10000.utils import write_text

__all__ = [
    "GROUPINGS",
    "TRUTH",
    "Labels",
    "convert_challenge",
    "find_table",
    "load_table",
    "read_labels",
]

_CHALLENGE = HAM10000_INFO.tables[1]
(TRUTH,) = _CHALLENGE.files
GROUPINGS = _CHALLENGE.details

_ENDINGS = (".csv", ".tab", ".tsv", ".txt", "")
_IMAGE_ENDING = r"\.(?:jpe?g|png)$"
_SPLIT_SYNONYMS = {"training": "train", "validation": "val", "valid": "val"}


@dataclass(frozen=True)
class Labels:
    """The table of a data set, with the files that it was read from."""

    table: pd.DataFrame
    """As `read_table` returns it; with a published split also the column `PUBLISHED_SPLIT`."""
    files: tuple[tuple[Path, int], ...]
    """Path and number of rows of each file, in the order of the table."""

    def place_of(self, row: int) -> str:
        """Return where a row of the table is, such as "row 2 of labels.csv"."""
        for path, rows in self.files:
            if row < rows:
                return f"row {row + 2} of {path.name}"
            row -= rows
        raise IndexError(row)


def read_labels(root: Path, info: DatasetInfo = HAM10000_INFO) -> Labels:
    """Read and check the table of a data set.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.data import synthesize
        >>> from ham10000.data.tables import read_labels
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     synthesize(Path(folder) / "set", images=20, seed=0, width=60)
        ...     labels = read_labels(Path(folder) / "set")
        >>> len(labels.table), labels.place_of(3)
        (20, 'row 5 of HAM10000_metadata.csv')

    Raises:
        MissingDataError: A file of the table does not exist.
        DataError: A file can't be used. The message names the row as an editor counts.
    """
    found, paths = _find_files(root, info)
    parts = [_read(path, found, info, number) for number, path in enumerate(paths)]
    files = tuple((path, len(part)) for path, part in zip(paths, parts, strict=True))
    if len(parts) == 1:
        return Labels(parts[0], files)
    labels = Labels(pd.concat(parts, ignore_index=True), files)
    repeated = labels.table["image_id"].duplicated()
    if repeated.any():
        row = int(repeated.to_numpy().argmax())
        name = labels.table["image_id"].iloc[row]
        raise DataError(
            f"reading the tables of {root}: {labels.place_of(row)} has the image {name}, which an "
            f"earlier file has too ({int(repeated.sum())} such rows). {info.advice('metadata')}"
        )
    return labels


def load_table(root: Path, info: DatasetInfo = HAM10000_INFO) -> pd.DataFrame:
    """Read the table of a data set, in any of its formats: see `read_table`.

    Raises:
        MissingDataError: There is no table.
        DataError: The table can't be used.
    """
    return read_labels(root, info).table


def find_table(root: Path, info: DatasetInfo = HAM10000_INFO) -> Path:
    """Return the path of a data set's table, or of the first of its files.

    HAM10000's is HAM10000_metadata.csv, or else the challenge's ground truth.

    Raises:
        MissingDataError: There is none.
    """
    return _find_files(root, info)[1][0]


def convert_challenge(truth: Path, groupings: Path, out: Path) -> None:
    """Write HAM10000_metadata.csv from the one-hot labels and the lesion ids of ISIC 2018, Task 3.

    The challenge doesn't publish age, sex and localization, so these are unknown.

    Args:
        truth: image, MEL, NV, BCC, AKIEC, BKL, DF, VASC; 1.0 for the diagnosis, 0.0 elsewhere.
        groupings: image, lesion_id, diagnosis_confirm_type.
        out: The file to write.

    Raises:
        MissingDataError: A table does not exist.
        DataError: A file is not such a table, a row doesn't have exactly one diagnosis, or an
            image has no lesion id.
    """
    table = _convert(truth, groupings, _CHALLENGE, HAM10000_INFO)
    write_text(out, table.to_csv(index=False, lineterminator="\n"))


def _find_files(root: Path, info: DatasetInfo) -> tuple[TableFormat, list[Path]]:
    for table in info.tables:
        paths = [_find_file(root, name) for name in table.files]
        found = [path for path in paths if path is not None]
        if len(found) == len(paths):
            return table, found
        if found:
            lacking = [name for name, path in zip(table.files, paths, strict=True) if not path]
            raise MissingDataError(
                f"opening {root}: there is {found[0].name}, and no {lacking[0]}. "
                f"{info.advice('metadata')}"
            )
    first, *others = [table.files[0] for table in info.tables]
    more = "".join(f", and no {name}" for name in others)
    raise MissingDataError(
        f"opening {root}: there is no table {first} (nor .tab, .tsv, .txt, nor without an "
        f"extension){more}. {info.advice('metadata')}"
    )


def _find_file(root: Path, name: str) -> Path | None:
    # Unpacked into a folder named after the archive, or not.
    for folder in (root, root / Path(name).stem):
        for ending in _ENDINGS:
            path = folder / Path(name).with_suffix(ending)
            if path.is_file():
                return path
    return None


def _read(path: Path, found: TableFormat, info: DatasetInfo, number: int) -> pd.DataFrame:
    details = None
    if found.details:
        around = (place / found.details for place in path.parents[:2])
        details = next((each for each in around if each.is_file()), None)
        details = details or _find_file(path.parent, found.details)
        if details is None:
            raise MissingDataError(
                f"reading {path}: there is no {found.details} next to it or in the folder around "
                "it, so the lesion of each image is unknown, and no split could keep lesions "
                f"together. {found.advice or info.advice('metadata')}"
            )
    table = _convert(path, details, found, info)
    return table.assign(**{PUBLISHED_SPLIT: found.splits[number]}) if found.splits else table


def _convert(
    path: Path, details: Path | None, found: TableFormat, info: DatasetInfo
) -> pd.DataFrame:
    """Read a file, and return it with the columns of HAM10000."""
    labels = (found.label,) if found.label else tuple(found.labels)
    further = (*(found.required if details is None else ()), *filter(None, [found.split]))
    raw = read_csv(path, tuple(dict.fromkeys((*further, found.image, *labels))))
    doing = f"reading {path}"
    if found.label:
        known = {label.casefold(): name for label, name in found.labels.items()}
        raw[found.label] = raw[found.label].map(lambda label: known.get(label.casefold(), label))
    else:
        raw = _from_one_hot(raw, found, doing)
    if details is not None:
        raw = _add_details(raw, details, found, path)
    names = {found.image: "image_id", found.label or "dx": "dx"}
    names |= {old: new for new, old in found.columns.items() if old in raw}
    names |= {found.split: PUBLISHED_SPLIT} if found.split else {}
    taken = [new for old, new in names.items() if old != new and new in raw and new not in names]
    table = raw.drop(columns=taken).rename(columns=names)
    table["image_id"] = table["image_id"].str.replace(_IMAGE_ENDING, "", case=False, regex=True)
    table = _fill(table, found)
    if found.split:
        table[PUBLISHED_SPLIT] = _checked_splits(table, doing)
    return clean_table(table, doing, info)


def _from_one_hot(raw: pd.DataFrame, found: TableFormat, doing: str) -> pd.DataFrame:
    scores = raw[list(found.labels)].apply(pd.to_numeric, errors="coerce")
    ones = (scores == 1).sum(axis=1)
    unclear = ones != 1
    if found.rest:
        unclear = (ones > 1) | ~scores.isin((0, 1)).all(axis=1)
    if unclear.any():
        row = int(unclear.to_numpy().argmax())
        what = "at most one diagnosis, as 0 and 1" if found.rest else "exactly one diagnosis"
        raise DataError(
            f"{doing}: row {row + 2} (image {raw[found.image].iloc[row]}) doesn't have {what}. "
            "Get the file again."
        )
    diagnoses = scores.idxmax(axis=1).map(found.labels).where(ones == 1, found.rest)
    return pd.DataFrame({found.image: raw[found.image], "dx": diagnoses})


def _add_details(raw: pd.DataFrame, details: Path, found: TableFormat, path: Path) -> pd.DataFrame:
    further = read_csv(details, (found.image, *found.required))
    repeated = further[found.image].duplicated()
    if repeated.any():
        row = int(repeated.to_numpy().argmax())
        raise DataError(
            f"reading {details}: row {row + 2} repeats the image {further[found.image].iloc[row]}. "
            "Get the file again."
        )
    lost = ~raw[found.image].isin(further[found.image])
    if lost.any():
        row = int(lost.to_numpy().argmax())
        raise DataError(
            f"reading {details}: there is no row for the image {raw[found.image].iloc[row]}, "
            f"which row {row + 2} of {path.name} names. Get both files again."
        )
    names = {found.columns.get(name, name) for name in TABLE_COLUMNS} - {"dx", found.image}
    columns = [name for name in further.columns if name in names]
    return raw.merge(further[[found.image, *columns]], on=found.image, how="left")


def _fill(table: pd.DataFrame, found: TableFormat) -> pd.DataFrame:
    """Add the columns of HAM10000 that a table lacks."""
    missing = [name for name in TABLE_COLUMNS if name not in table]
    for name in missing:
        table[name] = ""
    if found.own_lesions:
        unknown = table["lesion_id"] == ""
        table["lesion_id"] = table["lesion_id"].mask(unknown, table["image_id"])
    if not missing:
        return table
    others = [name for name in table.columns if name not in TABLE_COLUMNS]
    return table[[*TABLE_COLUMNS, *others]].copy()


def _checked_splits(table: pd.DataFrame, doing: str) -> Sequence[str]:
    folded = table[PUBLISHED_SPLIT].str.casefold()
    splits = folded.map(lambda name: _SPLIT_SYNONYMS.get(name, name))
    unknown = ~splits.isin(SPLITS)
    if unknown.any():
        row = int(unknown.to_numpy().argmax())
        raise DataError(
            f"{doing}: row {row + 2} has the split {table[PUBLISHED_SPLIT].iloc[row]!r} "
            f"({int(unknown.sum())} such rows). Expected {', '.join(SPLITS)}."
        )
    return splits.tolist()
