"""Tables of predictions: one row per image, one probability per class, with every row checked.

A `Predictions` object is always valid, so functions that take one need no further checks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ham10000.data import CLASSES, DATASETS, SPLITS, check_columns, read_csv
from ham10000.errors import PredictionError, closest, some
from ham10000.utils import write_text

__all__ = [
    "COLUMNS",
    "IMAGE_COLUMNS",
    "Predictions",
    "average_predictions",
    "by_lesion",
    "check_images",
    "make_predictions",
    "of_split",
    "read_predictions",
    "round_probabilities",
    "write_predictions",
]

IMAGE_COLUMNS = ("image_id", "lesion_id", "dx", "split")
"""Columns before those of the classes."""

COLUMNS = (*IMAGE_COLUMNS, *CLASSES)
"""Columns of predictions for HAM10000."""

TOLERANCE = 1e-4
"""Allowed deviation of a row's sum from 1, for half precision and rounded files."""

DIGITS = 5
"""Significant digits of predicted probabilities. Training on another machine changes later digits,
and metrics differ by less than a hundredth of their standard errors. With four digits, the sum of a
row could exceed `TOLERANCE`."""


@dataclass(frozen=True)
class Predictions:
    """Probabilities of all classes for each image, with the true class.

    Example:
        >>> from ham10000.evaluation.predictions import make_predictions
        >>> rows = [("I1", "L1", "nv", "test"), ("I2", "L1", "nv", "test")]
        >>> uniform = make_predictions(rows, [[1 / 7] * 7] * 2)
        >>> uniform.targets.tolist(), uniform.probabilities.shape, uniform.lesions.tolist()
        ([5, 5], (2, 7), [0, 0])

    Raises:
        PredictionError: The table is not valid; the message names the row.
    """

    table: pd.DataFrame
    """Table with `IMAGE_COLUMNS` and a column for each class; rows are in any order."""
    source: str = "checking predictions"
    """Beginning of error messages: what was being done, with which file."""
    classes: tuple[str, ...] = ()
    """Classes, in the order of the targets. By default those of the known data set of which the
    table has all probabilities, or else all columns after `IMAGE_COLUMNS`."""

    def __post_init__(self) -> None:
        classes = self.classes or _find_classes(self.table)
        object.__setattr__(self, "classes", tuple(classes))
        object.__setattr__(self, "table", _checked(self.table, self.classes, self.source))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        """True classes, (N,), indices into `classes`."""
        return pd.Index(self.classes).get_indexer(pd.Index(self.table["dx"])).astype(np.int64)

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """Probabilities, (N, C), in the order of `classes`."""
        return self.table[list(self.classes)].to_numpy(np.float64)

    @property
    def lesions(self) -> npt.NDArray[np.int64]:
        """Lesion index of each image, (N,), from 0 in the order of the lesion ids.

        So a bootstrap of lesions does not depend on the order of the rows.
        """
        return pd.factorize(self.table["lesion_id"], sort=True)[0].astype(np.int64)


def make_predictions(
    rows: pd.DataFrame | Sequence[tuple[str, str, str, str]],
    probabilities: npt.ArrayLike,
    source: str = "checking predictions",
    classes: Sequence[str] = CLASSES,
) -> Predictions:
    """Make predictions from rows of a table and an array of probabilities.

    Args:
        rows: image_id, lesion_id, dx and split; other columns are ignored.
        probabilities: (N, C), in the order of the classes.
        source: Beginning of error messages about these predictions.
        classes: Names of the C classes.

    Raises:
        PredictionError: There are not C probabilities for each row, or a row is not valid.
    """
    table = pd.DataFrame(rows, columns=list(IMAGE_COLUMNS)).reset_index(drop=True)
    values = np.asarray(probabilities, dtype=np.float64)
    if values.shape != (len(table), len(classes)):
        raise PredictionError(
            f"{source}: probabilities have the shape {values.shape} for {len(table)} images. "
            f"Expected ({len(table)}, {len(classes)})."
        )
    scores = pd.DataFrame(values, columns=list(classes))
    return Predictions(pd.concat([table, scores], axis=1), source, tuple(classes))


def read_predictions(path: Path | str, classes: Sequence[str] = ()) -> Predictions:
    """Read a CSV file of predictions, from any source, and check every row.

    Args:
        path: A table with `IMAGE_COLUMNS` and a column for each class.
        classes: Names of the classes, for a check that the file has them; see `Predictions`.

    Raises:
        MissingDataError: The file does not exist.
        DataError: The file is not a table, or a column is missing.
        PredictionError: A row is not valid; the message names it, counting the header as row 1.
    """
    doing = f"reading {path}"
    table = read_csv(Path(path), IMAGE_COLUMNS)
    found = tuple(classes) or _find_classes(table)
    check_columns(table, (*IMAGE_COLUMNS, *found), doing)
    return Predictions(table, doing, found)


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write predictions atomically. Reading the file returns bit-identical values.

    Raises:
        WriteError: The file cannot be written.
    """
    write_text(path, predictions.table.to_csv(index=False, lineterminator="\n"))


def round_probabilities(probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Round probabilities to `DIGITS` significant digits, so that files of predictions are small.

    Rounding to decimal places would make the smallest probabilities equal and tie their ranks.

    Example:
        >>> from ham10000.evaluation import round_probabilities
        >>> round_probabilities([0.12345678, 0.00012345678]).tolist()
        [0.12346, 0.00012346]
    """
    values = np.asarray(probabilities, dtype=np.float64)
    rounded = [float(f"{value:.{DIGITS}g}") for value in values.ravel().tolist()]
    return np.array(rounded).reshape(values.shape)


def average_predictions(members: Sequence[Predictions]) -> Predictions:
    """Average the probabilities of several models for the same images: an ensemble.

    Example:
        >>> from ham10000.evaluation import average_predictions, make_predictions
        >>> rows = [("I1", "L1", "mel", "test")]
        >>> one = make_predictions(rows, [[0, 0, 0, 0, 1, 0, 0]])
        >>> other = make_predictions(rows, [[0, 0, 0, 0, 0, 1, 0]])
        >>> average_predictions([one, other]).probabilities.tolist()
        [[0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.0]]

    Args:
        members: Predictions of at least two models, whose rows can be in different orders.

    Returns:
        The mean probability of each class, in the order of the first member.

    Raises:
        PredictionError: There are fewer than two members, or their images differ.

    Source: the mean of runs and of folds in Gessert et al., ISIC 2018, arXiv:1808.01694.
    """
    if len(members) < 2:
        raise PredictionError(
            f"averaging predictions: expected those of at least two models, found {len(members)}."
        )
    first, *others = members
    total = first.probabilities
    for other in others:
        if other.classes != first.classes:
            raise PredictionError(
                f"averaging predictions: {other.source} has the classes "
                f"{', '.join(other.classes)}, and the first model {', '.join(first.classes)}. "
                "Average models of one data set."
            )
        check_images(other, first.table, f"the first model ({first.source})")
        places = pd.Index(other.table["image_id"]).get_indexer(pd.Index(first.table["image_id"]))
        total = total + other.probabilities[places]
    return make_predictions(
        first.table, total / len(members), "averaging predictions", first.classes
    )


def by_lesion(predictions: Predictions) -> Predictions:
    """Average the probabilities over the images of each lesion.

    Returns:
        One row per lesion in the order of `lesions`, with the image_id of its first image.
    """
    groups = predictions.table.groupby("lesion_id", sort=True)
    table = groups[list(IMAGE_COLUMNS)].first().reset_index(drop=True)
    means = groups[list(predictions.classes)].mean().reset_index(drop=True)
    return replace(predictions, table=pd.concat([table, means], axis=1))


def of_split(predictions: Predictions, split: str) -> Predictions:
    """Return the rows of one split.

    Raises:
        PredictionError: The split has no rows.
    """
    rows = predictions.table[predictions.table["split"] == split]
    if rows.empty:
        others = ", ".join(sorted(set(predictions.table["split"])))
        raise PredictionError(
            f"{predictions.source}: no row has split {split!r}, only {others}. "
            f"Choose the split {others.split(', ')[0]}, or predict this one."
        )
    return replace(predictions, table=rows)


def check_images(predictions: Predictions, expected: pd.DataFrame, whose: str) -> None:
    """Check that predictions are for exactly the expected images.

    Args:
        predictions: The predictions to check.
        expected: image_id and dx, and lesion_id if known.
        whose: Name of `expected` for the message, such as "the split test of split.csv".

    Raises:
        PredictionError: An image is missing or unexpected, or its class or lesion differs.
    """
    table, doing = predictions.table, predictions.source
    for there, here, what, which, remedy in (
        (expected, table, "no row for the image", "has", "Predict all of its images"),
        (table, expected, "a row for the image", "doesn't have", "Remove these rows"),
    ):
        lost = there["image_id"][~there["image_id"].isin(here["image_id"])]
        if len(lost):
            raise PredictionError(
                f"{doing}: {what} {lost.iloc[0]} ({len(lost)} such: {some(lost)}), which {whose} "
                f"{which}. These are {len(table)} images, {whose} has {len(expected)}. {remedy}."
            )
    known = expected.set_index("image_id").loc[table["image_id"]]
    for column in ("dx", "lesion_id"):
        if column not in known:
            continue
        differs = table[column].to_numpy() != known[column].to_numpy()
        if differs.any():
            row = int(differs.argmax())
            raise PredictionError(
                f"{doing}: row {row + 2} has the {column} {table[column].iloc[row]} for the image "
                f"{table['image_id'].iloc[row]}, but {whose} has {known[column].iloc[row]} "
                f"({int(differs.sum())} such rows). Predict from the same data."
            )


def _find_classes(table: pd.DataFrame) -> tuple[str, ...]:
    """Return the classes of a table of predictions: see `Predictions.classes`."""
    found = tuple(str(name) for name in table.columns if name not in IMAGE_COLUMNS)
    for info in DATASETS.values():
        if set(info.classes) == set(found):
            return info.classes
        known = set(info.classes) < set(found) and set(table["dx"]) <= set(info.classes)
        if known and _sum_to_one(table, info.classes):
            return info.classes
    if set(found) < set(CLASSES) and _sum_to_one(table, found):
        return found  # a data set with a part of the classes of HAM10000
    # Most probably a damaged table of HAM10000, which gets a better message this way.
    same = {name.casefold() for name in found} <= set(CLASSES)
    return CLASSES if same and len(set(CLASSES) - set(found)) == 1 else found


def _sum_to_one(table: pd.DataFrame, classes: tuple[str, ...]) -> bool:
    sums = table[list(classes)].map(_number).sum(axis=1)
    return bool(((sums - 1).abs() <= TOLERANCE).all())


def _checked(table: pd.DataFrame, classes: tuple[str, ...], doing: str) -> pd.DataFrame:
    columns = [*IMAGE_COLUMNS, *classes]
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise PredictionError(
            f"{doing}: there is no column {missing[0]!r}. Expected {', '.join(columns)}. "
            f"{closest(missing[0], map(str, table.columns))}"
        )
    if table.empty:
        raise PredictionError(f"{doing}: the table has no rows. Predict at least one image.")
    if len(classes) < 2:
        raise PredictionError(
            f"{doing}: expected a column for each of two or more classes, found "
            f"{', '.join(classes) or 'none'}. Predict again."
        )
    table = table[columns].reset_index(drop=True)
    for column in IMAGE_COLUMNS:
        empty = table[column].isna() | (table[column] == "")
        _refuse(table, empty, doing, f"no {column}", "Fill it in")
    for column, options in (("dx", classes), ("split", SPLITS)):
        unknown = ~table[column].isin(options)
        name = str(table[column][unknown].iloc[0]) if unknown.any() else ""
        what = f"{column} {name!r}, which is none of {', '.join(options)}"
        _refuse(table, unknown, doing, what, closest(name, options).rstrip("."))
    repeated = table["image_id"].duplicated()
    _refuse(table, repeated, doing, "the image_id of an earlier row", "Keep one row for each")
    first = table.groupby("lesion_id")["dx"].transform("first")
    what = "another dx than an earlier row of its lesion"
    _refuse(table, table["dx"] != first, doing, what, "Correct one of them")
    return _with_probabilities(table, classes, doing)


def _with_probabilities(table: pd.DataFrame, classes: tuple[str, ...], doing: str) -> pd.DataFrame:
    scores = table[list(classes)].map(_number).astype(np.float64)
    again = "Predict again, or write probabilities instead of scores"
    finite = pd.Series(np.isfinite(scores.to_numpy()).all(axis=1))
    _refuse(table, ~finite, doing, "a non-finite probability", again)
    negative = pd.Series((scores.to_numpy() < 0).any(axis=1))
    _refuse(table, negative, doing, "a negative probability", again)
    sums = pd.Series(scores.to_numpy().sum(axis=1))
    wrong = (sums - 1).abs() > TOLERANCE
    total = float(sums[wrong].iloc[0]) if wrong.any() else 1.0
    _refuse(table, wrong, doing, f"probabilities that sum to {total:.6g}, not 1", again)
    return table.assign(**{name: scores[name] for name in classes})


def _refuse(
    table: pd.DataFrame, rows: "pd.Series[bool]", doing: str, what: str, remedy: str
) -> None:
    if rows.any():
        row = int(rows.to_numpy().argmax())
        raise PredictionError(
            f"{doing}: row {row + 2} (image {table['image_id'].iloc[row]}) has {what} "
            f"({int(rows.sum())} such rows). {remedy}."
        )


def _number(value: Any) -> float:
    # pandas before 3 does not parse floats to the last bit.
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
