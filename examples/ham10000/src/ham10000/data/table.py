"""The metadata table: one row an image, comma or tab between, checked row by row."""

import io
from pathlib import Path

import pandas as pd

from ham10000.data.facts import CLASSES, COLUMNS
from ham10000.errors import DataError, MissingDataError, closest, some

__all__ = ["find_table", "read_csv", "read_table"]

_NAMES = tuple(f"HAM10000_metadata{suffix}" for suffix in (".csv", ".tab", ".tsv", ".txt", ""))


def find_table(root: Path) -> Path:
    """Find the table of a data folder; the Dataverse's arrives under several names.

    Raises:
        MissingDataError: there is none.
    """
    for name in _NAMES:
        if (root / name).is_file():
            return root / name
    raise MissingDataError(
        f"opening {root}: there is no table HAM10000_metadata.csv (nor .tab, .tsv, .txt, nor "
        "without an extension). Get it with: ham10000 download --parts metadata"
    )


def read_table(path: Path) -> pd.DataFrame:
    r"""Read the metadata table and check every row.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.data.table import read_table
        >>> header = "lesion_id,image_id,dx,dx_type,age,sex,localization"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "HAM10000_metadata.csv"
        ...     _ = path.write_text(f"{header}\nL1,I1,nv,histo,,male,back\n")
        ...     table = read_table(path)
        >>> table.dx.tolist(), table.age.isna().tolist()
        (['nv'], [True])

    Args:
        path: comma- or tab-separated text in UTF-8.

    Returns:
        The columns of `facts.COLUMNS` as text, except `age`, a float in years, NaN where the table
        has none; and what other columns there are. Rows are in the file's order.

    Raises:
        MissingDataError: there is no such file.
        DataError: it isn't such a table; the message names the row, counted as an editor does,
            with the header as row 1.
    """
    table = read_csv(path, COLUMNS)
    doing = f"reading {path}"
    for column in ("lesion_id", "image_id", "dx"):
        _refuse_rows(table, table[column] == "", doing, f"no {column}", "Fill it in.")
    for column in ("sex", "localization", "dx_type"):
        table[column] = table[column].replace("", "unknown")
    unknown = ~table["dx"].isin(CLASSES)
    if unknown.any():
        row, name = _first(unknown), str(table["dx"][unknown].iloc[0])
        raise DataError(
            f"{doing}: row {row} has dx {name!r}, which is none of HAM10000's classes "
            f"({int(unknown.sum())} such rows). {closest(name, CLASSES)}"
        )
    repeated = table["image_id"].duplicated()
    if repeated.any():
        name = str(table["image_id"][repeated].iloc[0])
        rows = [
            number + 2 for number in range(len(table)) if table["image_id"].iloc[number] == name
        ]
        raise DataError(
            f"{doing}: rows {some(rows)} have the same image_id {name!r} "
            f"({int(repeated.sum())} repeated in all). Keep one row for each image."
        )
    age = pd.to_numeric(table["age"].replace({"": None, "unknown": None}), errors="coerce")
    wrong = age.isna() & ~table["age"].isin(["", "unknown"]) | (age < 0) | (age > 130)
    _refuse_rows(table, wrong, doing, "an age that is no number of years", "Leave it empty.")
    table["age"] = age.astype("float64")
    return table


def read_csv(path: Path, required: tuple[str, ...]) -> pd.DataFrame:
    """Read a table of text, comma- or tab-separated, and check that it has columns and rows.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is not UTF-8, not a table, lacks a required column, or has no rows.
    """
    doing = f"reading {path}"
    text = _decode(path, doing)
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
    missing = [name for name in required if name not in table.columns]
    if missing:
        raise DataError(
            f"{doing}: row 1 lacks the column {missing[0]!r}. Expected {', '.join(required)}; "
            f"found {', '.join(table.columns)}. {closest(missing[0], table.columns)}"
        )
    if table.empty:
        raise DataError(f"{doing}: it has a header and no rows. Get it again.")
    for name in table.columns:
        table[name] = table[name].astype(str).str.strip()
    return table


def _decode(path: Path, doing: str) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingDataError(f"{doing}: there is no such file.") from error
    except OSError as error:
        raise MissingDataError(f"{doing}: {(error.strerror or str(error)).lower()}.") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw[: error.start].count(b"\n") + 1
        raise DataError(
            f"{doing}: row {row} is not UTF-8 (byte 0x{raw[error.start]:02x} at {error.start}). "
            "Save it as UTF-8, or get it again."
        ) from error
    if "\0" in text:
        row = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{doing}: row {row} holds a null byte. Save it as UTF-8, or get it again.")
    return text


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
