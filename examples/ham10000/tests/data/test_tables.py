import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from bad_files import edit

from ham10000.data import PUBLISHED_SPLIT, find_dataset, find_table, load_table
from ham10000.data.tables import read_labels
from ham10000.errors import DataError, MissingDataError

TRAIN, VAL, TEST = (
    f"ISIC-2017_{part}_Part3_GroundTruth.csv" for part in ("Training", "Validation", "Test_v2")
)
HEADER = "image_id,melanoma,seborrheic_keratosis"
MELANOMA, KERATOSIS = find_dataset("isic2017-melanoma"), find_dataset("isic2017-keratosis")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / TRAIN).write_text(f"{HEADER}\nI1,0.0,0.0\nI2,1.0,0.0\nI3,0.0,1.0\n")
    (tmp_path / VAL).write_text(f"{HEADER}\nI4,1,0\nI5,0,0\n")
    (tmp_path / TEST).write_text(f"{HEADER}\nI6,1,0\nI7,0,1\n")
    return tmp_path


def test_the_three_tables_of_isic_2017_are_one(root: Path) -> None:
    table = load_table(root, MELANOMA)
    assert table["image_id"].tolist() == [f"I{number}" for number in range(1, 8)]
    assert table["lesion_id"].tolist() == table["image_id"].tolist()
    assert table["dx"].tolist() == ["other", "mel", "other", "mel", "other", "mel", "other"]
    assert table[PUBLISHED_SPLIT].tolist() == ["train"] * 3 + ["val"] * 2 + ["test"] * 2
    assert table["age"].isna().all()
    assert set(table["sex"]) == {"unknown"}
    keratosis = load_table(root, KERATOSIS)
    assert keratosis["dx"].tolist() == ["other", "other", "sk", "other", "other", "other", "sk"]
    assert find_table(root, MELANOMA) == root / TRAIN


def test_a_table_may_be_in_the_folder_of_its_archive(root: Path) -> None:
    expected = load_table(root, MELANOMA)
    for name in (TRAIN, VAL, TEST):
        (root / Path(name).stem).mkdir()
        (root / name).rename(root / Path(name).stem / name)
    pd.testing.assert_frame_equal(load_table(root, MELANOMA), expected)


def test_a_row_is_named_in_its_own_file(root: Path) -> None:
    labels = read_labels(root, MELANOMA)
    assert labels.place_of(0) == f"row 2 of {TRAIN}"
    assert labels.place_of(4) == f"row 3 of {VAL}"
    assert labels.place_of(6) == f"row 3 of {TEST}"
    with pytest.raises(IndexError):
        labels.place_of(7)


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "both diagnoses": (
        lambda root: edit(root / VAL, "I4,1,0", "I4,1,1"),
        rf"{VAL}: row 2 \(image I4\) doesn't have at most one diagnosis",
    ),
    "no number": (lambda root: edit(root / TEST, "I6,1,", "I6,yes,"), rf"{TEST}: row 2 .*I6"),
    "neither 0 nor 1": (lambda root: edit(root / TEST, "I6,1,", "I6,0.5,"), rf"{TEST}: row 2"),
    "missing column": (
        lambda root: edit(root / TRAIN, "melanoma", "melanom"),
        rf"{TRAIN}: row 1 lacks the column 'melanoma'.*Closest: melanom",
    ),
    "repeated in a file": (write(VAL, f"{HEADER}\nI4,1,0\nI4,0,0\n"), "rows 2, 3 have the same"),
    "repeated in two files": (
        lambda root: edit(root / TEST, "I7", "I1"),
        rf"row 3 of {TEST} has the image I1, which an earlier file has too \(1 such rows\)",
    ),
    "no image": (lambda root: edit(root / TEST, "I7", ""), r"row 3 .*no lesion_id|no image_id"),
    "no rows": (write(VAL, f"{HEADER}\n"), f"{VAL}: it has a header and no rows"),
    "empty": (write(VAL, ""), f"{VAL}: it is empty"),
    "encoding": (
        lambda root: (root / VAL).write_bytes((root / VAL).read_text().encode("utf-16")),
        f"{VAL}: row 1 is not UTF-8",
    ),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_table_is_refused_with_its_file_and_row(root: Path, name: str) -> None:
    spoil, message = BAD[name]
    spoil(root)
    with pytest.raises(DataError, match=message):
        load_table(root, MELANOMA)


def test_a_missing_file_is_named_with_its_source(root: Path) -> None:
    (root / VAL).unlink()
    with pytest.raises(MissingDataError, match=rf"is {TRAIN}, and no {VAL}.*isic-archive\.com"):
        load_table(root, MELANOMA)
    for name in (TRAIN, TEST):
        (root / name).unlink()
    with pytest.raises(MissingDataError, match=rf"there is no table {TRAIN} .*isic-archive\.com"):
        load_table(root, MELANOMA)


def test_the_table_of_one_data_set_is_not_that_of_another(root: Path, synthetic: Path) -> None:
    with pytest.raises(MissingDataError, match=r"no table HAM10000_metadata\.csv"):
        load_table(root)
    shutil.copy(synthetic / "HAM10000_metadata.csv", root)
    assert len(load_table(root)) == 280
