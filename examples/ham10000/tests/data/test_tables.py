import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from bad_files import edit

from ham10000.data import (
    PUBLISHED_SPLIT,
    find_dataset,
    find_table,
    load_table,
    open_folder,
    synthesize,
)
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
    "not a number": (lambda root: edit(root / TEST, "I6,1,", "I6,yes,"), rf"{TEST}: row 2 .*I6"),
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
    with pytest.raises(MissingDataError, match=rf"is {TRAIN}, and no {VAL}.*--set isic2017"):
        load_table(root, MELANOMA)
    for name in (TRAIN, TEST):
        (root / name).unlink()
    with pytest.raises(MissingDataError, match=rf"there is no table {TRAIN} .*--set isic2017"):
        load_table(root, MELANOMA)


def test_the_table_of_one_data_set_is_not_that_of_another(root: Path, synthetic: Path) -> None:
    with pytest.raises(MissingDataError, match=r"no table HAM10000_metadata\.csv"):
        load_table(root)
    shutil.copy(synthetic / "HAM10000_metadata.csv", root)
    assert len(load_table(root)) == 280


ISIC2019 = find_dataset("isic2019")
TRUTH, METADATA = "ISIC_2019_Training_GroundTruth.csv", "ISIC_2019_Training_Metadata.csv"


@pytest.fixture
def isic2019(tmp_path: Path) -> Path:
    (tmp_path / TRUTH).write_text(
        "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\n"
        "I1_downsampled,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0\n"
        "I2,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0\n"
        "I3,0.0,0.0,0.0,1.0,0.0,0.0,0.0,0.0,0.0\n"
    )
    (tmp_path / METADATA).write_text(
        "image,age_approx,anatom_site_general,lesion_id,sex\n"
        "I2,55.0,posterior torso,BCN_1,female\n"
        "I1_downsampled,,,,\n"
        "I3,40.0,head/neck,BCN_1,male\n"
    )
    return tmp_path


def test_isic_2019_has_labels_and_metadata_in_two_tables(isic2019: Path) -> None:
    edit(isic2019 / TRUTH, "I3,0.0,0.0,0.0,1.0", "I3,0.0,0.0,0.0,0.0")
    with pytest.raises(DataError, match=r"row 4 \(image I3\) doesn't have exactly one diagnosis"):
        load_table(isic2019, ISIC2019)
    edit(isic2019 / TRUTH, "I3,0.0,0.0,0.0,0.0", "I3,0.0,0.0,0.0,1.0")
    table = load_table(isic2019, ISIC2019)
    assert table["image_id"].tolist() == ["I1_downsampled", "I2", "I3"]
    assert table["dx"].tolist() == ["mel", "scc", "ak"]
    assert table["lesion_id"].tolist() == ["I1_downsampled", "BCN_1", "BCN_1"]
    assert table["age"].isna().tolist() == [True, False, False]
    assert table["localization"].tolist() == ["unknown", "back", "head/neck"]
    assert table["sex"].tolist() == ["unknown", "female", "male"]


def test_isic_2019_needs_its_metadata(isic2019: Path) -> None:
    edit(isic2019 / METADATA, "I3,", "I4,")
    with pytest.raises(DataError, match=rf"no row for the image I3, which row 4 of {TRUTH} names"):
        load_table(isic2019, ISIC2019)
    edit(isic2019 / METADATA, "I4,", "I2,")
    with pytest.raises(DataError, match="row 4 repeats the image I2"):
        load_table(isic2019, ISIC2019)
    (isic2019 / METADATA).unlink()
    with pytest.raises(MissingDataError, match=rf"there is no {METADATA} .*isic-archive\.com"):
        load_table(isic2019, ISIC2019)


def test_a_set_like_isic_2019_is_read_with_either_ending(tmp_path: Path) -> None:
    root = tmp_path / "set"
    synthesize(root, 42, seed=0, width=40, like="isic2019")
    folder = open_folder(root, ISIC2019)
    assert set(folder.table["dx"]) == set(ISIC2019.classes)
    own = folder.table["lesion_id"] == folder.table["image_id"]
    assert 0 < own.sum() < 21
    assert folder.table["image_id"].str.endswith("_downsampled").any()
    expected = [path.read_bytes() for path in folder.paths()]
    for path in folder.paths():
        path.rename(path.with_name(path.name.replace("_downsampled", "")))
    assert [path.read_bytes() for path in open_folder(root, ISIC2019).paths()] == expected
