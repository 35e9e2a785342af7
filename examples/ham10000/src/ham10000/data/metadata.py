"""The metadata table: one row per image, checked row by row, and its columns as tensors."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ham10000.data.catalog import HAM10000_INFO
from ham10000.data.constants import DX_TYPES, LOCALIZATIONS, SEXES, TABLE_COLUMNS
from ham10000.data.descriptions import DatasetInfo
from ham10000.errors import ArgumentError, DataError, closest, some
from ham10000.utils import read_text

__all__ = [
    "CATEGORIES",
    "METADATA",
    "check_columns",
    "check_metadata",
    "clean_table",
    "encode_metadata",
    "feature_names",
    "metadata_features",
    "read_csv",
    "read_table",
    "unknown_values",
]

CATEGORIES = {"sex": SEXES, "localization": LOCALIZATIONS, "dx_type": DX_TYPES}
"""The values of each column. The code of a value is its index plus 1, and 0 means unknown."""

METADATA = ("age", *CATEGORIES)

# In the form that `_fold` returns.
_MISSING = {"", "?", "unknown", "na", "n/a", "nan", "none", "null", "not available", "unspecified"}
_SYNONYMS = {
    "sex": {"f": "female", "w": "female", "woman": "female", "m": "male", "man": "male"},
    "localization": {
        "torso": "trunk",
        "anterior torso": "trunk",
        "lateral torso": "trunk",
        "posterior torso": "back",
        "palms/soles": "acral",
        "genitals": "genital",
        "genitalia": "genital",
        "ears": "ear",
        "hands": "hand",
        "feet": "foot",
        "lower extremities": "lower extremity",
        "lower limb": "lower extremity",
        "upper extremities": "upper extremity",
        "upper limb": "upper extremity",
    },
    "dx_type": {
        "histopathology": "histo",
        "histology": "histo",
        "followup": "follow_up",
        "serial imaging showing no change": "follow_up",
        "single image expert consensus": "consensus",
        "confocal microscopy": "confocal",
        "confocal microscopy with consensus dermoscopy": "confocal",
    },
}

_CENTURY = 100.0


def read_table(path: Path, info: DatasetInfo = HAM10000_INFO) -> pd.DataFrame:
    r"""Read a metadata table in the format of HAM10000 and check every row.

    Capitals, spaces and common spellings are folded: `M`, `Male` and `male` are one value, and so
    are `follow-up` and `follow_up`. Values that remain unknown are kept, for `unknown_values`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.data import read_table
        >>> header = "lesion_id,image_id,dx,dx_type,age,sex,localization"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "HAM10000_metadata.csv"
        ...     _ = path.write_text(f"{header}\nL1,I1,nv,histo,,M,Back\n")
        ...     table = read_table(path)
        >>> table.dx.tolist(), table.sex.tolist(), table.age.isna().tolist()
        (['nv'], ['male'], [True])

    Args:
        path: Comma- or tab-separated text in UTF-8.
        info: The data set, for its classes.

    Returns:
        The columns of `TABLE_COLUMNS` as text, except `age`, a float in years, NaN if missing;
        missing text is "unknown". Further columns are kept. Rows are in the order of the file.

    Raises:
        MissingDataError: There is no such file.
        DataError: It is not such a table. The message names the row as an editor counts, with the
            header as row 1.
    """
    return clean_table(read_csv(path, TABLE_COLUMNS), f"reading {path}", info)


def clean_table(table: pd.DataFrame, doing: str, info: DatasetInfo = HAM10000_INFO) -> pd.DataFrame:
    """Check the rows of a table of text, and fold its spellings, in place.

    Args:
        table: Has at least the columns `TABLE_COLUMNS`.
        doing: What messages start with.
        info: The data set, for its classes.

    Returns:
        The table, as `read_table` returns it.

    Raises:
        DataError: A row can't be used.
    """
    for column in ("lesion_id", "image_id", "dx"):
        _refuse_rows(table, table[column] == "", doing, f"no {column}", "Fill it in.")
    for column in CATEGORIES:
        spellings = {value: _canonical(column, value) for value in table[column].unique()}
        table[column] = table[column].map(spellings)
    folded = table["dx"].str.casefold()
    unknown = ~folded.isin(info.classes)
    if unknown.any():
        row, name = _first(unknown), str(table["dx"][unknown].iloc[0])
        raise DataError(
            f"{doing}: row {row} has dx {name!r}, which is not a class of {info.title} "
            f"({int(unknown.sum())} such rows). {closest(name.casefold(), info.classes)}"
        )
    table["dx"] = folded
    repeated = table["image_id"].duplicated()
    if repeated.any():
        name = str(table["image_id"][repeated].iloc[0])
        rows = [row + 2 for row, image in enumerate(table["image_id"]) if image == name]
        raise DataError(
            f"{doing}: rows {some(rows)} have the same image_id {name!r} "
            f"({int(repeated.sum())} repeated in all). Keep one row for each image."
        )
    missing = table["age"].map(_fold).isin(_MISSING)
    age = pd.to_numeric(table["age"].mask(missing), errors="coerce")
    wrong = age.isna() & ~missing | (age < 0) | (age > 130)
    _refuse_rows(table, wrong, doing, "an age that is not a number of years", "Leave it empty.")
    table["age"] = age.astype("float64")
    return table


def read_csv(path: Path, required: tuple[str, ...]) -> pd.DataFrame:
    """Read a table of text, comma- or tab-separated, and check that it has columns and rows.

    Raises:
        MissingDataError: There is no such file.
        DataError: It is not UTF-8, not a table, lacks a required column, or has no rows.
    """
    doing = f"reading {path}"
    text = read_text(path, doing)
    header = text.partition("\n")[0]
    if not header.strip():
        raise DataError(f"{doing}: it is empty. Get it again.")
    try:
        table = pd.read_csv(
            io.StringIO(text),
            sep="\t" if "\t" in header else ",",
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
        )
    except (pd.errors.ParserError, ValueError) as error:
        raise DataError(f"{doing}: it is not a table: {str(error).strip()}.") from error
    table.columns = [str(name).strip() for name in table.columns]
    check_columns(table, required, doing)
    if table.empty:
        raise DataError(f"{doing}: it has a header and no rows. Get it again.")
    for name in table.columns:
        table[name] = table[name].astype(str).str.strip()
    return table


def check_columns(table: pd.DataFrame, required: tuple[str, ...], doing: str) -> None:
    """Check that a table that was read from a file has columns.

    Raises:
        DataError: A required column is missing.
    """
    missing = [name for name in required if name not in table.columns]
    if missing:
        raise DataError(
            f"{doing}: row 1 lacks the column {missing[0]!r}. Expected {', '.join(required)}; "
            f"found {', '.join(table.columns)}. {closest(missing[0], table.columns)}"
        )


def encode_metadata(table: pd.DataFrame, columns: Sequence[str]) -> dict[str, Tensor]:
    """Encode columns of the table as tensors, one value per row.

    Example:
        >>> import pandas as pd
        >>> from ham10000.data import encode_metadata
        >>> table = pd.DataFrame({"age": [60.0, None], "sex": ["male", "unknown"]})
        >>> encode_metadata(table, ["age", "sex"])
        {'age': tensor([60.,  0.]), 'age_known': tensor([ True, False]), 'sex': tensor([2, 0])}

    Args:
        table: As `read_table` returns it.
        columns: Of `METADATA`.

    Returns:
        For age, `age` in years (float32, 0 where unknown) and `age_known` (bool). For any other
        column its codes (int64), 0 for values that HAM10000 doesn't have: see `check_metadata`.

    Raises:
        ArgumentError: There is no such column.
    """
    encoded: dict[str, Tensor] = {}
    for name in _ordered(columns):
        if name == "age":
            age = torch.tensor(table["age"].to_numpy(dtype="float32", na_value=float("nan")))
            encoded["age"] = torch.nan_to_num(age, nan=0.0)
            encoded["age_known"] = ~age.isnan()
        else:
            codes = {value: code for code, value in enumerate(CATEGORIES[name], start=1)}
            values = [codes.get(_canonical(name, value), 0) for value in table[name]]
            encoded[name] = torch.tensor(values, dtype=torch.long)
    return encoded


def feature_names(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the features that `metadata_features` computes, in its order.

    Example:
        >>> from ham10000.data import feature_names
        >>> feature_names(["age", "sex"])
        ('age', 'age_known', 'sex=female', 'sex=male')

    Args:
        columns: Of `METADATA`, in any order.

    Returns:
        One name per metadata input of a network.

    Raises:
        ArgumentError: There is no such column.
    """
    names: list[str] = []
    for column in _ordered(columns):
        if column == "age":
            names += ["age", "age_known"]
        else:
            names += [f"{column}={value}" for value in CATEGORIES[column]]
    return tuple(names)


def metadata_features(encoded: Mapping[str, Tensor]) -> Tensor:
    """Convert encoded metadata to the features that a network takes in addition to an image.

    Age is in centuries, so that all features are between 0 and 1, with a flag for whether it is
    known. A category is one-hot, and all zeros where it is unknown. Don't pass `dx_type` to a
    network: the way in which a diagnosis was made reveals much of the diagnosis.

    Example:
        >>> import torch
        >>> from ham10000.data import metadata_features
        >>> encoded = {"age": torch.tensor([60.0, 0.0]), "age_known": torch.tensor([True, False])}
        >>> metadata_features({**encoded, "sex": torch.tensor([2, 0])})
        tensor([[0.6000, 1.0000, 0.0000, 1.0000],
                [0.0000, 0.0000, 0.0000, 0.0000]])

    Args:
        encoded: From `encode_metadata`, of at least one column.

    Returns:
        (N, M), float32; the columns are those of `feature_names`.

    Raises:
        ArgumentError: There is no metadata, or a column that HAM10000 doesn't have.
    """
    columns = [name for name in encoded if name != "age_known"]
    if not columns:
        raise ArgumentError(
            "computing metadata features: there is no metadata. Open the data set with "
            "metadata=['age', 'sex', 'localization']."
        )
    parts: list[Tensor] = []
    for column in _ordered(columns):
        if column == "age":
            age = torch.stack([encoded["age"] / _CENTURY, encoded["age_known"]], dim=1)
            parts.append(age)
        else:
            one_hot = F.one_hot(encoded[column], 1 + len(CATEGORIES[column]))
            parts.append(one_hot[:, 1:].float())  # unknown is all zeros
    return torch.cat(parts, dim=1)


def unknown_values(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Count the values of each category that are neither known nor marked as missing.

    Example:
        >>> import pandas as pd
        >>> from ham10000.data import unknown_values
        >>> table = pd.DataFrame({"sex": ["male", "x", "x", "unknown"], "localization": "back"})
        >>> unknown_values(table.assign(dx_type="histo"))
        {'sex': {'x': 2}, 'localization': {}, 'dx_type': {}}

    Args:
        table: As `read_table` returns it.

    Returns:
        The count of each such value, the most frequent first, for each column of `CATEGORIES`.
    """
    found: dict[str, dict[str, int]] = {}
    for column, known in CATEGORIES.items():
        canonical = table[column].map(lambda value, name=column: _canonical(name, value))
        counts = canonical[~canonical.isin([*known, "unknown"])].value_counts()
        found[column] = {str(value): int(count) for value, count in counts.items()}
    return found


def check_metadata(table: pd.DataFrame, columns: Sequence[str], doing: str) -> None:
    """Refuse columns that have values, none of which is understood, or columns without any value.

    They would be encoded as unknown everywhere, and a network would train on a constant.

    Args:
        table: The whole data set, as `read_table` returns it.
        columns: Of `METADATA`.
        doing: What the message starts with.

    Raises:
        DataError: There is such a column, or none of the columns has a known value.
    """
    for column in (name for name in CATEGORIES if name in columns):
        values = {_canonical(column, value) for value in table[column]} - {"unknown"}
        if values and not values & set(CATEGORIES[column]):
            raise DataError(
                f"{doing}: no value of the column {column} is understood, such as "
                f"{some(sorted(values))}. Expected {', '.join(CATEGORIES[column])} or unknown. "
                "Rename the values, or leave the column out of the metadata."
            )
    encoded = encode_metadata(table, [name for name in columns if name in METADATA])
    if encoded and not any(values.any() for values in encoded.values()):
        raise DataError(
            f"{doing}: no image has a known value of {', '.join(columns)}. Use a data set with "
            "metadata, or a model without: data.metadata=false."
        )


def _ordered(columns: Sequence[str]) -> list[str]:
    for name in columns:
        if name not in METADATA:
            raise ArgumentError(
                f"reading metadata: there is no column {name!r}. {closest(name, METADATA)}"
            )
    return [name for name in METADATA if name in columns]


def _fold(value: str) -> str:
    return " ".join(str(value).casefold().replace("_", " ").replace("-", " ").split())


_KNOWN_VALUES = {
    column: {_fold(value): value for value in values} | _SYNONYMS[column]
    for column, values in CATEGORIES.items()
}


def _canonical(column: str, value: str) -> str:
    folded = _fold(value)
    return "unknown" if folded in _MISSING else _KNOWN_VALUES[column].get(folded, value)


def _first(rows: "pd.Series[bool]") -> int:
    # The header is row 1, as an editor counts.
    return int(rows.to_numpy().argmax()) + 2


def _refuse_rows(
    table: pd.DataFrame, rows: "pd.Series[bool]", doing: str, what: str, remedy: str
) -> None:
    if rows.any():
        image = str(table["image_id"][rows].iloc[0])
        raise DataError(
            f"{doing}: row {_first(rows)} (image {image!r}) has {what} "
            f"({int(rows.sum())} such rows). {remedy}"
        )
