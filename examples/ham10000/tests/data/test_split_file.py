from pathlib import Path

import pandas as pd
import pytest

from ham10000.data import (
    check_same_split,
    check_split,
    data_name,
    kfold_split,
    lesion_split,
    paper_split,
    paper_val_split,
    read_split,
    split_counts,
    split_rows,
    synthetic_table,
    write_split,
)
from ham10000.errors import DataError, MissingDataError, SplitError


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return synthetic_table(images=1500, seed=0)


def test_the_summary_counts_every_class(table: pd.DataFrame) -> None:
    counts = split_counts(paper_val_split(table, seed=0))
    assert counts.index.tolist() == ["train", "val", "test"]
    assert int(counts.to_numpy().sum()) == 1500


@pytest.mark.parametrize("make", [lesion_split, paper_split, paper_val_split, kfold_split])
def test_a_split_survives_its_file(table: pd.DataFrame, tmp_path: Path, make) -> None:
    split = make(table, seed=0)
    write_split(split, tmp_path / "split.csv")
    again = read_split(tmp_path / "split.csv", table)
    assert again.astype(str).equals(split.astype(str))


def broken(whole: pd.DataFrame, **values: object) -> pd.DataFrame:
    split = whole.copy()
    for column, value in values.items():
        split.loc[4, column] = value
    return split


def test_a_split_file_is_checked_row_by_row(table: pd.DataFrame, tmp_path: Path) -> None:
    split = paper_split(table, seed=0)
    path = tmp_path / "split.csv"

    def refused(changed: pd.DataFrame, message: str) -> None:
        write_split(changed, path)
        with pytest.raises(SplitError, match=message) as raised:
            read_split(path, table)
        assert str(path) in str(raised.value)

    refused(broken(split, split="tset"), r"row 6 has split 'tset'.*Closest: test")
    refused(broken(split, image_id="ISIC_1"), "row 6 names the image ISIC_1")
    refused(
        broken(split, lesion_id="HAM_x"),
        "row 6 has the lesion_id HAM_x .* but the data",
    )
    refused(broken(split, image_id=split["image_id"][3]), "row 6|there twice")
    refused(split[split["split"] == "train"], "no row has split 'test'")
    refused(split[(split["split"] == "train") | (split["dx"] != "df")], "test has no image of df")
    refused(kfold_split(table, 0).assign(fold="one"), "row 2 has fold 'one'")
    write_split(split.drop(columns="dx"), path)
    with pytest.raises(DataError, match="lacks the column 'dx'"):
        read_split(path, table)
    with pytest.raises(MissingDataError):
        read_split(tmp_path / "no.csv", table)


def test_a_lesion_in_two_splits_is_named_with_both_rows(table: pd.DataFrame) -> None:
    split = paper_split(table, seed=0)
    double = split[split["lesion_id"].duplicated(keep=False)].index[:2]
    split.loc[double[1], "split"] = "test"
    lesion = split["lesion_id"][double[0]]
    rows = rf"train \(ISIC_\d+, row {double[0] + 2}\) and test \(ISIC_\d+, row {double[1] + 2}\)"
    with pytest.raises(SplitError, match=rf"lesion {lesion} is in two splits: {rows}"):
        check_split(split, table)


def test_a_lesion_with_two_diagnoses_is_refused(table: pd.DataFrame) -> None:
    table = table.assign(lesion_id=table["lesion_id"].where(table.index > 1, "L"))
    table.loc[[0, 1], "dx"] = ["nv", "mel"]
    split = table[["image_id", "lesion_id", "dx"]].assign(split="train")
    with pytest.raises(SplitError, match="row 3 has the dx mel for the lesion L, and an earlier"):
        check_split(split, table)


SPLIT = "image_id,lesion_id,dx,split\na,x,nv,train\nb,y,nv,test\nc,z,nv,test\n"


@pytest.mark.parametrize(
    ("edited", "difference"),
    [
        (SPLIT.replace("a,x,nv,train", "a,x,nv,test"), r"a was in train and is now in test \(1 "),
        (SPLIT.replace("c,z,nv,test\n", ""), "c was in test and is now in no split"),
        (SPLIT + "d,w,nv,train\n", "d was in no split and is now in train"),
        ("", "split.csv is damaged"),
        ("image,part\na,train\n", "split.csv is damaged"),
    ],
)
def test_a_split_that_differs_is_refused(edited: str, difference: str) -> None:
    with pytest.raises(SplitError, match=rf"^resuming: .*{difference}"):
        check_same_split(SPLIT, edited, "resuming")


def test_the_order_of_rows_and_line_ends_are_free() -> None:
    head, *rows = SPLIT.splitlines()
    check_same_split(SPLIT, "\r\n".join([head, *reversed(rows)]), "resuming")


def test_a_repeated_image_is_refused(table: pd.DataFrame) -> None:
    split = paper_split(table, seed=0)
    twice = pd.concat([split, split.iloc[[7]]], ignore_index=True)
    with pytest.raises(SplitError, match=r"is repeated in row 1502"):
        check_split(twice, table)


def test_rows_are_those_of_the_split_and_fold(table: pd.DataFrame) -> None:
    split = kfold_split(table, seed=0, folds=3)
    rows = [set(split_rows(split, table, "test", fold)) for fold in range(3)]
    assert set.union(*rows) == set(range(1500))
    with pytest.raises(SplitError, match="one of the folds 0, 1, 2, found fold=None"):
        split_rows(split, table, "test")
    with pytest.raises(SplitError, match="Closest: train"):
        split_rows(split, table, "trian", fold=0)
    with pytest.raises(SplitError, match="it has no folds"):
        split_rows(paper_split(table, seed=0), table, "test", fold=0)


@pytest.mark.parametrize(
    ("numbers", "name"),
    [
        (range(24_306, 34_321), "HAM10000"),
        (range(24_306, 34_000), "a part of HAM10000"),
        (range(34_300, 34_322), "other data"),
        ([24_306, 9_000_000], "other data"),
    ],
)
def test_data_sets_are_told_apart_by_the_names_of_their_images(
    numbers: range | list[int], name: str
) -> None:
    assert data_name(f"ISIC_{number:07d}" for number in numbers) == name
    assert data_name([*(f"ISIC_{number:07d}" for number in numbers), "photo"]) == "other data"


def test_synthetic_images_are_told_apart_from_others(table: pd.DataFrame) -> None:
    assert data_name(table["image_id"]) == "synthetic data"
