from pathlib import Path

import pytest

from ham10000.data import find_table, read_table
from ham10000.errors import DataError, MissingDataError

HEADER = "lesion_id,image_id,dx,dx_type,age,sex,localization"
ROWS = ["L1,I1,nv,histo,40,male,back", "L2,I2,mel,histo,,female,face"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "HAM10000_metadata.csv"


def write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_reads_every_form_of_the_table(path: Path, separator: str, start: str, end: str) -> None:
    text = start + end.join([HEADER, *ROWS]).replace(",", separator) + end
    path.write_bytes(text.encode())
    table = read_table(path)
    assert table["image_id"].tolist() == ["I1", "I2"]
    assert table["age"].isna().tolist() == [False, True]
    assert table["age"].dtype == "float64"


@pytest.mark.parametrize("ending", [".csv", ".tab", ".tsv", ".txt", ""])
def test_finds_the_table_under_its_names(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"HAM10000_metadata{ending}"
    path.touch()
    assert find_table(tmp_path) == path


def test_says_how_to_get_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="download --parts metadata"):
        find_table(tmp_path)
    with pytest.raises(MissingDataError, match="no such file"):
        read_table(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROWS[0], "L2,I2,nvs,histo,,,"], r"row 3 has dx 'nvs'.*Closest: nv"),
        ([ROWS[0], ROWS[1], "L3,I1,nv,histo,,,"], r"rows 2, 4 have the same image_id 'I1'"),
        ([ROWS[0], ",I2,nv,histo,,,"], r"row 3 \(image 'I2'\) has no lesion_id"),
        ([ROWS[0], "L2,,nv,histo,,,"], r"row 3 .* has no image_id"),
        ([ROWS[0], "L2,I2,nv,histo,old,,"], r"row 3 \(image 'I2'\) has an age that is no number"),
        ([ROWS[0], "L2,I2,nv,histo,-4,,"], r"row 3 .*age"),
        ([], r"a header and no rows"),
        (["L1,I1,nv,histo,1,2,3,4,5"], r"row|not a table"),
    ],
)
def test_names_the_row_that_is_wrong(path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        read_table(write(path, *rows))
    assert str(path) in str(raised.value)


def test_names_the_column_that_is_missing(path: Path) -> None:
    header = HEADER.replace("lesion_id", "lesion")
    with pytest.raises(DataError, match=r"lacks the column 'lesion_id'.*Closest: lesion"):
        read_table(write(path, *ROWS, header=header))


def test_an_empty_file_is_no_table(path: Path) -> None:
    path.touch()
    with pytest.raises(DataError, match="it is empty"):
        read_table(path)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [("utf-16", "row 1 is not UTF-8"), ("latin-1", "row 3 is not UTF-8")],
)
def test_names_the_row_of_a_wrong_encoding(path: Path, encoding: str, message: str) -> None:
    rows = [*ROWS, "L3,I3,nv,histo,40,male,Rücken"]
    path.write_bytes("\n".join([HEADER, rows[0], rows[2]]).encode(encoding))
    with pytest.raises(DataError, match=message):
        read_table(path)


def test_null_bytes_are_no_table(path: Path) -> None:
    path.write_bytes((HEADER + "\nL1,I1\0,nv,histo,,,\n").encode())
    with pytest.raises(DataError, match="row 2 holds a null byte"):
        read_table(path)
