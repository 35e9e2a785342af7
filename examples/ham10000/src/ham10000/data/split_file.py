"""The split file: reading, checks, writing, its rows, and the data set that it is of."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from ham10000.data.catalog import HAM10000_INFO
from ham10000.data.constants import SPLITS
from ham10000.data.descriptions import DatasetInfo
from ham10000.data.metadata import read_csv
from ham10000.errors import SplitError, closest, some
from ham10000.utils import write_text

__all__ = [
    "SYNTHETIC",
    "check_same_split",
    "check_split",
    "data_name",
    "read_split",
    "read_split_table",
    "split_counts",
    "split_rows",
    "write_split",
]

COLUMNS = ("image_id", "lesion_id", "dx", "split")

SYNTHETIC = "synthetic data"
"""Name of data sets that `synthesize` generates."""

_HAM10000_IMAGES = range(24_306, 34_321)
"""Numbers of the images of HAM10000: ISIC_0024306 to ISIC_0034320."""

_SYNTHETIC_IMAGES = range(9_000_000, 10_000_000)
"""Numbers of the images that `synthesize` generates."""

_COMPLETE = 0.99
"""Share of HAM10000's images that a split must have to be compared with published results. Splits
leave out some duplicates."""


def write_split(split: pd.DataFrame, path: Path) -> None:
    """Write a split file atomically. Equal splits are written as identical bytes."""
    write_text(path, split.to_csv(index=False, lineterminator="\n"))


def read_split(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Read a split file and check it against the data set.

    Args:
        path: A table with the columns image_id, lesion_id, dx and split (train, val or test), and
            optionally fold. The rows of each fold are then a split.
        table: As `read_table` returns it.

    Returns:
        These columns, fold as an integer.

    Raises:
        MissingDataError: There is no such file.
        DataError: It is not such a table.
        SplitError: A lesion is in two splits, an image is unknown or repeated, or a class is
            missing from a split. The message names the row.
    """
    split = read_split_table(path)
    if "fold" in split.columns:
        folds = pd.to_numeric(split["fold"], errors="coerce")
        wrong = folds.isna() | (folds % 1 != 0)
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            raise SplitError(
                f"reading {path}: row {row + 2} has fold {split['fold'].iloc[row]!r}, "
                "which is not an integer."
            )
        split["fold"] = folds.astype("int64")
    check_split(split, table, f"reading {path}")
    return split


def read_split_table(path: Path) -> pd.DataFrame:
    """Read a split file without the data set that it is of, as text.

    Raises:
        MissingDataError: There is no such file.
        DataError: It is not a table with the columns image_id, lesion_id, dx and split.
    """
    return read_csv(path, COLUMNS)


def check_split(split: pd.DataFrame, table: pd.DataFrame, doing: str = "checking a split") -> None:
    """Check that a split keeps lesions together and has every class in each part.

    Example:
        >>> import pandas as pd
        >>> from ham10000.data import check_split
        >>> table = pd.DataFrame({"image_id": ["a", "b"], "lesion_id": ["x", "x"], "dx": "nv"})
        >>> check_split(table.assign(split=["train", "test"]), table)
        Traceback (most recent call last):
            ...
        ham10000.errors.SplitError: checking a split: lesion x is in two splits: train (a, row 2)...

    Raises:
        SplitError: See `read_split`; also if a lesion has two diagnoses.
    """
    unknown = ~split["split"].isin(SPLITS)
    if unknown.any():
        row, name = _first(unknown), str(split["split"][unknown].iloc[0])
        raise SplitError(
            f"{doing}: row {row} has split {name!r}. Expected {', '.join(SPLITS)}. "
            f"{closest(name, SPLITS)}"
        )
    _check_against(split, table, doing)
    before = split.groupby("lesion_id")["dx"].transform("first")
    differs = split["dx"] != before
    if differs.any():
        second = split[differs].iloc[0]
        raise SplitError(
            f"{doing}: row {_first(differs)} has the dx {second['dx']} for the lesion "
            f"{second['lesion_id']}, and an earlier row has {before[differs].iloc[0]}. A lesion "
            "has one diagnosis: correct the table, or name another column in columns.lesion."
        )
    if "fold" not in split.columns:
        _check_splits(split, doing)
        return
    for fold, rows in split.groupby("fold"):
        _check_splits(rows, f"{doing}, fold {fold}")


def _check_against(split: pd.DataFrame, table: pd.DataFrame, doing: str) -> None:
    known = table.set_index("image_id")
    unknown = ~split["image_id"].isin(known.index)
    if unknown.any():
        names = split["image_id"][unknown]
        raise SplitError(
            f"{doing}: row {_first(unknown)} names the image {names.iloc[0]}, which the data set "
            f"doesn't have ({len(names)} in all: {some(names)}). Make the split from this data set."
        )
    for column in ("lesion_id", "dx"):
        expected = known[column].reindex(split["image_id"]).to_numpy()
        differs = pd.Series(split[column].to_numpy() != expected)
        if differs.any():
            row = int(differs.to_numpy().argmax())
            raise SplitError(
                f"{doing}: row {row + 2} has the {column} {split[column].iloc[row]} for the image "
                f"{split['image_id'].iloc[row]}, but the data set has {expected[row]}. "
                "Make the split from this data set."
            )


def _check_splits(rows: pd.DataFrame, doing: str) -> None:
    repeated = rows["image_id"].duplicated()
    if repeated.any():
        name = rows["image_id"][repeated].iloc[0]
        raise SplitError(
            f"{doing}: the image {name} is repeated in row "
            f"{rows.index[repeated][0] + 2}. Keep one row per image."
        )
    spread = rows.groupby("lesion_id")["split"].nunique()
    torn = spread.index[spread > 1]
    if len(torn):
        of_it = rows[rows["lesion_id"] == torn[0]]
        places = [
            f"{name} ({first['image_id'].iloc[0]}, row {first.index[0] + 2})"
            for name, first in of_it.groupby("split", sort=False)
        ]
        raise SplitError(
            f"{doing}: lesion {torn[0]} is in two splits: {' and '.join(places)}; "
            f"{len(torn)} such lesions in all. Images of one lesion must stay in one split: make "
            "the split with ham10000 split."
        )
    present = set(rows["split"])
    for required in ("train", "test"):
        if required not in present:
            raise SplitError(f"{doing}: no row has split {required!r}, so it is empty.")
    counts = pd.crosstab(rows["split"], rows["dx"])
    for name in counts.index:
        empty = [str(dx) for dx, count in counts.loc[name].items() if count == 0]
        if empty:
            raise SplitError(
                f"{doing}: {name} has no image of {', '.join(empty)}, so nothing can be learned or "
                "measured about it. Use more images, fewer folds, or another seed."
            )


def check_same_split(trained: str, now: str, doing: str) -> None:
    """Check that a split is the one that weights were trained with, in any order of rows.

    Args:
        trained: The content of split.csv in the checkpoint.
        now: The content of the run's split.csv.
        doing: The operation, as the start of the error message.

    Raises:
        SplitError: An image has moved, was added or was removed; the message names it.
    """
    if trained == now:
        return
    before, after = _split_of_images(trained, doing), _split_of_images(now, doing)
    moved = [name for name in before | after if before.get(name) != after.get(name)]
    if not moved:
        return
    name = moved[0]
    raise SplitError(
        f"{doing}: split.csv was changed after training began: {name} was in "
        f"{before.get(name, 'no split')} and is now in {after.get(name, 'no split')} "
        f"({len(moved)} such image{'s' * (len(moved) > 1)}). "
        "Change it back, or train in another folder."
    )


def _split_of_images(text: str, doing: str) -> dict[str, str]:
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        return dict(zip(table["image_id"], table["split"], strict=True))
    except (ValueError, KeyError) as error:
        raise SplitError(f"{doing}: split.csv is damaged ({error}). Restore it.") from error


def split_counts(
    split: pd.DataFrame, classes: Sequence[str] = HAM10000_INFO.classes
) -> pd.DataFrame:
    """Count the images of each class in each split, or in those of the first fold.

    Args:
        split: From `read_split`.
        classes: The columns to return.

    Returns:
        One row per split, in the order train, val, test, and one column per class.
    """
    if "fold" in split.columns:
        split = split[split["fold"] == split["fold"].min()]
    counts = pd.crosstab(split["split"], split["dx"])
    order = [name for name in ("train", "val", "test") if name in counts.index]
    return counts.reindex(index=order, columns=list(classes), fill_value=0)


def split_rows(
    splits: pd.DataFrame, table: pd.DataFrame, split: str, fold: int | None = None
) -> list[int]:
    """Return the rows of the table that are in a split, in the order of the table.

    Args:
        splits: From `read_split`.
        table: As `read_table` returns it.
        split: train, val or test.
        fold: The fold, if the split file has folds.

    Raises:
        SplitError: There is no such split or fold, or the split has folds and `fold` is `None`.
    """
    doing = f"reading {split!r} from a split file"
    if "fold" in splits.columns:
        folds = sorted(set(splits["fold"]))
        if fold not in folds:
            raise SplitError(
                f"{doing}: expected one of the folds {', '.join(map(str, folds))}, found "
                f"fold={fold}."
            )
        splits = splits[splits["fold"] == fold]
    elif fold is not None:
        raise SplitError(f"{doing}: it has no folds, found fold={fold}. Omit the fold.")
    if split not in set(splits["split"]):
        present = sorted(set(splits["split"]))
        raise SplitError(f"{doing}: it has no such split. {closest(split, present)}")
    chosen = set(splits["image_id"][splits["split"] == split])
    return [row for row, name in enumerate(table["image_id"]) if name in chosen]


def _first(rows: "pd.Series[bool]") -> int:
    return int(rows.to_numpy().argmax()) + 2


def data_name(image_ids: Iterable[str], info: DatasetInfo = HAM10000_INFO) -> str:
    """Return the name of the data set that images are of, judging by their names.

    Example:
        >>> from ham10000.data import data_name
        >>> data_name(["ISIC_0024306", "ISIC_0024307"]), data_name(["ISIC_9000000"])
        ('a part of HAM10000', 'synthetic data')

    Args:
        image_ids: Names of all images of a split.
        info: Description of the data set that the split was made from.

    Returns:
        "HAM10000", "a part of HAM10000", "synthetic data" or "other data"; for another data set its
        title instead of HAM10000.
    """
    names = pd.Series(sorted(set(image_ids)), dtype=str)
    numbers = pd.to_numeric(names.str.removeprefix("ISIC_"), errors="coerce").fillna(-1)
    found = numbers.astype(int).tolist()
    if all(number in _SYNTHETIC_IMAGES for number in found):
        return SYNTHETIC
    if info == HAM10000_INFO and not all(number in _HAM10000_IMAGES for number in found):
        return "other data"
    whole = len(found) >= _COMPLETE * (info.num_images or 0)
    return info.title if whole else f"a part of {info.title}"
