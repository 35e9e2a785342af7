"""Splits by lesion: the protocol of the paper, a leak-free one, k folds, and the split file."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from ham10000.data.constants import CLASSES
from ham10000.data.duplicates import lesion_groups
from ham10000.data.metadata import read_csv
from ham10000.errors import ArgumentError, SplitError, closest, some
from ham10000.utils import write_text

__all__ = [
    "SPLITS",
    "check_split",
    "honest_split",
    "kfold_split",
    "paper_split",
    "read_split",
    "split_counts",
    "split_rows",
    "write_split",
]

# The authors test on 15 % of the lesions that have one image.
TEST_SHARE = 0.15


def paper_split(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Split as the authors do: test on 15 % of the lesions that have one image.

    The authors draw without a seed and validate on the test set. Here the draw has a seed, and
    there is no validation set, since the authors have none.

    Example:
        >>> from ham10000.data import paper_split, split_counts
        >>> from ham10000.data import synthetic_table
        >>> split = paper_split(synthetic_table(images=600, seed=0), seed=42)
        >>> sorted(set(split["split"]))
        ['test', 'train']

    Args:
        table: as `read_table` returns it. The draw depends on the order of its rows.
        seed: seed of the draw.

    Returns:
        One row per image with image_id, lesion_id, dx and split, in the order of the table.

    Raises:
        SplitError: a class has too few lesions with one image.
    """
    drawn = _draw_test(table, seed)
    split = _as_split(table, np.where(drawn, "test", "train"))
    check_split(split, table, "splitting by the rule of the paper")
    return split


def honest_split(
    table: pd.DataFrame, seed: int, pairs: pd.DataFrame | None = None, val_share: float = 0.1
) -> pd.DataFrame:
    """Split into training, validation and test sets that share no lesion and no given pair.

    The test set is that of `paper_split` for the same seed, so that results are comparable, without
    the images that have a duplicate outside it: their whole groups are used for training. The
    validation set is drawn from the rest, stratified by diagnosis. Known duplicates that are not
    in `pairs` may be in two splits.

    Example:
        >>> from ham10000.data import honest_split
        >>> from ham10000.data import synthetic_table
        >>> split = honest_split(synthetic_table(images=900, seed=0), seed=42)
        >>> sorted(set(split["split"]))
        ['test', 'train', 'val']

    Args:
        table: as `read_table` returns it.
        seed: seed of all draws.
        pairs: duplicates, from `find_pairs`.
        val_share: share of the validation set in the images outside the test set, at most 0.5.

    Returns:
        A table like that of `paper_split`.

    Raises:
        ArgumentError: the share is out of range.
        SplitError: a class has too few lesions.
    """
    doing = "splitting honestly"
    if not 0 < val_share <= 0.5:
        raise ArgumentError(
            f"{doing}: val_share must be above 0 and at most 0.5, found {val_share}."
        )
    groups = lesion_groups(table, pairs, known=False)
    drawn = _draw_test(table, seed)
    size = np.bincount(groups)
    inside = np.bincount(groups[drawn], minlength=len(size))
    splits = np.where((inside == size)[groups], "test", "train").astype("<U5")
    rest = np.flatnonzero(splits == "train")
    splits[_draw_val(table, groups, rest, seed, val_share)] = "val"
    split = _as_split(table, splits)
    check_split(split, table, doing)
    return split


def kfold_split(
    table: pd.DataFrame, seed: int, folds: int = 5, pairs: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Split into folds. Each fold is the test set once, with the next one as validation set.

    Example:
        >>> from ham10000.data import kfold_split
        >>> from ham10000.data import synthetic_table
        >>> split = kfold_split(synthetic_table(images=900, seed=0), seed=42, folds=3)
        >>> split[split["split"] == "test"]["image_id"].is_unique, len(split)
        (True, 2700)

    Args:
        table: as `read_table` returns it.
        seed: seed of the draw.
        folds: number of folds, at least 3.
        pairs: duplicates besides the known ones, from `find_pairs`.

    Returns:
        A table like that of `paper_split` with a column fold. The rows of each fold are a split.

    Raises:
        ArgumentError: fewer than three folds.
        SplitError: a class has fewer lesions than there are folds.
    """
    doing = f"splitting into {folds} folds"
    if folds < 3:
        raise ArgumentError(
            f"{doing}: one fold tests, one validates and the others train. Pass at least 3 folds."
        )
    groups = lesion_groups(table, pairs)
    tests = [rows for _, rows in _folds(table, groups, np.arange(len(table)), folds, seed, doing)]
    parts = []
    for fold in range(folds):
        splits = np.full(len(table), "train", dtype="<U5")
        splits[tests[fold]] = "test"
        splits[tests[(fold + 1) % folds]] = "val"
        parts.append(_as_split(table, splits).assign(fold=fold))
    split = pd.concat(parts, ignore_index=True)
    check_split(split, table, doing)
    return split


def split_counts(split: pd.DataFrame) -> pd.DataFrame:
    """Count the images of each class in each split, or in those of the first fold.

    Returns:
        One row per split, in the order train, val, test, and one column per class.
    """
    if "fold" in split.columns:
        split = split[split["fold"] == split["fold"].min()]
    counts = pd.crosstab(split["split"], split["dx"])
    order = [name for name in ("train", "val", "test") if name in counts.index]
    return counts.reindex(index=order, columns=list(CLASSES), fill_value=0)


def _draw_test(table: pd.DataFrame, seed: int) -> NDArray[np.bool_]:
    # This form repeats the authors' draw exactly: the images of lesions with one image, in the
    # order of the table, stratified by dx.
    sizes = table.groupby("lesion_id")["image_id"].transform("size")
    single = table[sizes == 1]
    counts = single["dx"].value_counts()
    few = [name for name in CLASSES if (table["dx"] == name).any() and counts.get(name, 0) < 2]
    if few or len(single) * TEST_SHARE < table["dx"].nunique():
        raise SplitError(
            f"drawing the test set: {', '.join(few) or 'some class'} has too few lesions with one "
            f"image for 15 % of them to contain every class ({len(single)} in all). "
            "Use more images, or the protocol kfold."
        )
    _, test = train_test_split(
        single, test_size=TEST_SHARE, stratify=single["dx"], random_state=seed
    )
    drawn: NDArray[np.bool_] = table["image_id"].isin(test["image_id"]).to_numpy()
    return drawn


def _draw_val(
    table: pd.DataFrame,
    groups: NDArray[np.int64],
    rows: NDArray[np.int64],
    seed: int,
    share: float,
) -> NDArray[np.int64]:
    # Groups are drawn, not images. A group has the class of its first image.
    chosen = pd.DataFrame({"group": groups[rows], "dx": table["dx"].to_numpy()[rows]})
    firsts = chosen.drop_duplicates("group")
    counts = firsts["dx"].value_counts()
    if counts.min() < 2 or len(firsts) * share < len(counts):
        raise SplitError(
            f"drawing the validation set: {counts.index[-1]} has {counts.min()} lesions left, and "
            f"{share:.0%} of {len(firsts)} must contain every class. Use more images."
        )
    _, val = train_test_split(
        firsts["group"], test_size=share, stratify=firsts["dx"], random_state=seed
    )
    return rows[np.isin(groups[rows], val.to_numpy())]


def _folds(
    table: pd.DataFrame,
    groups: NDArray[np.int64],
    rows: NDArray[np.int64],
    folds: int,
    seed: int,
    doing: str,
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    labels, of_rows = table["dx"].to_numpy()[rows], groups[rows]
    lesions = pd.DataFrame({"dx": labels, "group": of_rows}).groupby("dx")["group"].nunique()
    few = lesions.index[lesions < folds]
    if len(few):
        raise SplitError(
            f"{doing}: {few[0]} has {lesions[few[0]]} lesions, fewer than the {folds} folds that "
            "each need one. Use more images or fewer folds."
        )
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    parts = splitter.split(rows, labels, of_rows)
    return [(rows[train], rows[tests]) for train, tests in parts]


def _as_split(table: pd.DataFrame, splits: NDArray[np.str_]) -> pd.DataFrame:
    return table[["image_id", "lesion_id", "dx"]].reset_index(drop=True).assign(split=splits)


SPLITS = ("train", "val", "test")
COLUMNS = ("image_id", "lesion_id", "dx", "split")


def write_split(split: pd.DataFrame, path: Path) -> None:
    """Write a split file atomically. Equal splits are written as identical bytes."""
    write_text(path, split.to_csv(index=False, lineterminator="\n"))


def read_split(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Read a split file and check it against the data set.

    Args:
        path: a table with the columns image_id, lesion_id, dx and split (train, val or test), and
            optionally fold. The rows of each fold are then a split.
        table: as `read_table` returns it.

    Returns:
        These columns, fold as an integer.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is not such a table.
        SplitError: a lesion is in two splits, an image is unknown or repeated, or a class is
            missing from a split. The message names the row.
    """
    split = read_csv(path, COLUMNS)
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
        SplitError: see `read_split`.
    """
    unknown = ~split["split"].isin(SPLITS)
    if unknown.any():
        row, name = _first(unknown), str(split["split"][unknown].iloc[0])
        raise SplitError(
            f"{doing}: row {row} has split {name!r}. Expected {', '.join(SPLITS)}. "
            f"{closest(name, SPLITS)}"
        )
    _check_against(split, table, doing)
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
        empty = [dx for dx in CLASSES if dx in counts and counts.loc[name, dx] == 0]
        if empty:
            raise SplitError(
                f"{doing}: {name} has no image of {', '.join(empty)}, so nothing can be learned or "
                "measured about it. Use more images, fewer folds, or another seed."
            )


def split_rows(
    splits: pd.DataFrame, table: pd.DataFrame, split: str, fold: int | None = None
) -> list[int]:
    """Return the rows of the table that are in a split, in the order of the table.

    Args:
        splits: from `read_split`.
        table: as `read_table` returns it.
        split: train, val or test.
        fold: the fold, if the split file has folds.

    Raises:
        SplitError: there is no such split or fold, or the split has folds and `fold` is `None`.
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
