from pathlib import Path

import pandas as pd
import pytest
import torch

from ham10000.data import (
    HAM10000,
    METADATA,
    encode_metadata,
    feature_names,
    metadata_features,
    read_table,
    unknown_values,
)
from ham10000.errors import ArgumentError, DataError, MissingDataError

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


@pytest.mark.parametrize(
    ("column", "spellings", "canonical"),
    [
        ("sex", ["male", "M", "m", "Male", "MALE ", "man"], "male"),
        ("sex", ["female", "F", "f", "Female", " female", "Woman"], "female"),
        (
            "sex",
            ["unknown", "", "Unknown", "NA", "n/a", "NaN", "None", "null", "-", "?"],
            "unknown",
        ),
        ("localization", ["back", "Back", "BACK ", "posterior torso"], "back"),
        (
            "localization",
            ["lower extremity", "Lower Extremity", "lower_extremity", "lower  extremity"],
            "lower extremity",
        ),
        ("localization", ["", "unknown", "N/A"], "unknown"),
        ("dx_type", ["follow_up", "follow-up", "Follow up", "followup"], "follow_up"),
        ("dx_type", ["histo", "Histo", "histopathology"], "histo"),
    ],
)
def test_spellings_of_one_value_are_one_value(
    path: Path, column: str, spellings: list[str], canonical: str
) -> None:
    row = dict(zip(HEADER.split(","), ROWS[0].split(","), strict=True))
    rows = [
        ",".join({**row, "image_id": f"I{number}", column: spelling}.values())
        for number, spelling in enumerate(spellings)
    ]
    table = read_table(write(path, *rows))
    assert set(table[column]) == {canonical}
    assert len(encode_metadata(table, [column])[column].unique()) == 1


@pytest.mark.parametrize("age", ["", "unknown", "Unknown", "NA", "nan", "N/A", "none"])
def test_a_missing_age_is_missing_in_any_spelling(path: Path, age: str) -> None:
    table = read_table(write(path, ROWS[0], f"L2,I2,mel,histo,{age},female,face"))
    assert table["age"].isna().tolist() == [False, True]


def test_the_class_is_read_in_any_case(path: Path) -> None:
    table = read_table(write(path, ROWS[0].replace("nv", "NV"), ROWS[1].replace("mel", "Mel")))
    assert table["dx"].tolist() == ["nv", "mel"]


def test_values_that_are_not_understood_are_counted_and_encoded_as_unknown(path: Path) -> None:
    rows = [*ROWS, "L3,I3,nv,histo,40,x,Rücken", "L4,I4,nv,histo,40,x,unknown"]
    table = read_table(write(path, *rows))
    assert table["localization"].tolist() == ["back", "face", "Rücken", "unknown"]
    assert unknown_values(table) == {"sex": {"x": 2}, "localization": {"Rücken": 1}, "dx_type": {}}
    assert encode_metadata(table, ["sex"])["sex"].tolist() == [2, 1, 0, 0]


def test_a_column_in_which_nothing_is_understood_is_refused(editable: Path) -> None:
    path = editable / "HAM10000_metadata.csv"
    path.write_text(path.read_text().replace("female", "femme").replace(",male,", ",homme,"))
    message = r"no value of the column sex is understood, such as femme, homme"
    with pytest.raises(DataError, match=message):
        HAM10000(editable, metadata=METADATA)
    assert len(HAM10000(editable, metadata=["age", "localization"])) == 280


def test_columns_without_any_value_are_refused(editable: Path) -> None:
    path = editable / "HAM10000_metadata.csv"
    table = pd.read_csv(path).assign(age="", sex="unknown")
    table.to_csv(path, index=False)
    with pytest.raises(DataError, match="no image has a known value of age, sex"):
        HAM10000(editable, metadata=["age", "sex"])
    assert len(HAM10000(editable, metadata=["age", "sex", "localization"])) == 280


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="no such file"):
        read_table(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROWS[0], "L2,I2,nvs,histo,,,"], r"row 3 has dx 'nvs'.*Closest: nv"),
        ([ROWS[0], ROWS[1], "L3,I1,nv,histo,,,"], r"rows 2, 4 have the same image_id 'I1'"),
        ([ROWS[0], ",I2,nv,histo,,,"], r"row 3 \(image 'I2'\) has no lesion_id"),
        ([ROWS[0], "L2,,nv,histo,,,"], r"row 3 .* has no image_id"),
        (
            [ROWS[0], "L2,I2,nv,histo,old,,"],
            r"row 3 \(image 'I2'\) has an age that is not a number",
        ),
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


def test_what_is_unknown_has_a_code_of_its_own(synthetic: Path) -> None:
    table = read_table(synthetic / "HAM10000_metadata.csv")
    table.loc[0, "age"] = None
    table.loc[0, "sex"] = "unknown"
    table.loc[1, "localization"] = "somewhere new"
    encoded = encode_metadata(table, METADATA)
    assert not encoded["age"].isnan().any()
    assert (encoded["age_known"][0].item(), encoded["sex"][0].item()) == (False, 0)
    assert encoded["localization"][1] == 0
    assert encoded["dx_type"].min() >= 1


def test_metadata_become_the_input_of_a_network(synthetic: Path) -> None:
    table = read_table(synthetic / "HAM10000_metadata.csv").iloc[:3].reset_index(drop=True)
    table["age"], table["sex"] = [45.0, None, 0.0], ["male", "female", "unknown"]
    table["localization"] = ["back", "upper extremity", None]
    features = metadata_features(encode_metadata(table, ["localization", "sex", "age"]))
    names = feature_names(["sex", "localization", "age"])
    assert features.dtype == torch.float32
    assert features.shape == (3, len(names)) == (3, 18)
    found = [{name: row[i].item() for i, name in enumerate(names) if row[i]} for row in features]
    assert found[0] == {
        "age": pytest.approx(0.45),
        "age_known": 1,
        "sex=male": 1,
        "localization=back": 1,
    }
    assert found[1] == {"sex=female": 1, "localization=upper extremity": 1}
    assert found[2] == {"age_known": 1}
    with pytest.raises(ArgumentError, match="Open the data set with metadata="):
        metadata_features({})
    with pytest.raises(ArgumentError, match="Closest: age"):
        feature_names(["ages"])
