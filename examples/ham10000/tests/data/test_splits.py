from pathlib import Path

import pandas as pd
import pytest

from ham10000.data import (
    check_split,
    honest_split,
    kfold_split,
    load_table,
    offline_plan,
    paper_split,
    read_split,
    split_counts,
    split_rows,
    synthetic_table,
    write_split,
)
from ham10000.errors import ArgumentError, DataError, MissingDataError, SplitError

COUNTS = {"akiec": 23, "bcc": 26, "bkl": 66, "df": 6, "mel": 34, "nv": 663, "vasc": 10}
OFFLINE = {
    "akiec": (304, 6688),
    "bcc": (488, 7370),
    "bkl": (1033, 6898),
    "df": (109, 5768),
    "mel": (1079, 6824),
    "nv": (6042, 2000),
    "vasc": (132, 6964),
}
# Obvious duplicates across lesion ids.
KNOWN = pd.DataFrame(
    {
        "lesion_id": ["HAM_0000140", "HAM_0007604", "HAM_0001109"],
        "other_lesion_id": ["HAM_0004919", "HAM_0000955", "HAM_0007525"],
    }
)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return synthetic_table(images=1500, seed=0)


@pytest.fixture
def pairs(table: pd.DataFrame) -> pd.DataFrame:
    """A pair of a test image of seed 0 and an image outside its test set."""
    split = paper_split(table, seed=0)
    test = split[split["split"] == "test"]["lesion_id"].iloc[0]
    train = split[split["split"] == "train"]["lesion_id"].iloc[0]
    return pd.DataFrame({"lesion_id": [test], "other_lesion_id": [train]})


def shared(split: pd.DataFrame) -> int:
    folds = [rows for _, rows in split.groupby("fold")] if "fold" in split else [split]
    return sum(int((rows.groupby("lesion_id")["split"].nunique() > 1).sum()) for rows in folds)


def test_the_test_set_of_the_paper_is_15_percent_of_the_single_lesions(table: pd.DataFrame) -> None:
    split = paper_split(table, seed=0)
    single = table.groupby("lesion_id")["image_id"].transform("size") == 1
    test = split["split"] == "test"
    assert single[test].all()
    assert test.sum() == pytest.approx(0.15 * single.sum(), abs=1)


def test_honest_tests_on_what_the_paper_tests_on(table: pd.DataFrame) -> None:
    paper, honest = paper_split(table, seed=5), honest_split(table, seed=5)
    assert (paper["split"] == "test").equals(honest["split"] == "test")


def test_duplicates_stay_in_one_split(table: pd.DataFrame, pairs: pd.DataFrame) -> None:
    ids = set(pairs.iloc[0])
    for split in (honest_split(table, 0, pairs), kfold_split(table, 0, 3, pairs)):
        of_them = split[split["lesion_id"].isin(ids)]
        keys = ["fold"] if "fold" in split else ["dx_is_irrelevant"]
        of_them = of_them.assign(dx_is_irrelevant=0)
        assert (of_them.groupby(keys)["split"].nunique() == 1).all()
    assert (
        honest_split(table, 0)["split"].value_counts()["test"]
        == 1 + (honest_split(table, 0, pairs)["split"].value_counts()["test"])
    )


def test_each_fold_tests_once_and_validates_once(table: pd.DataFrame) -> None:
    split = kfold_split(table, seed=1, folds=4)
    for name in ("test", "val"):
        ids = split[split["split"] == name]["image_id"]
        assert sorted(ids) == sorted(table["image_id"])


@pytest.mark.parametrize("make", [paper_split, honest_split, kfold_split])
def test_the_seed_alone_decides(table: pd.DataFrame, make) -> None:
    assert make(table, seed=3).equals(make(table, seed=3))
    assert not make(table, seed=3).equals(make(table, seed=4))


def test_a_set_that_is_too_small_is_refused(table: pd.DataFrame) -> None:
    few = synthetic_table(images=20, seed=0)
    with pytest.raises(SplitError, match="too few lesions"):
        paper_split(few, seed=0)
    with pytest.raises(SplitError, match="fewer than the 5 folds"):
        kfold_split(few, seed=0)
    with pytest.raises(ArgumentError, match="Pass at least 3 folds"):
        kfold_split(table, seed=0, folds=2)
    with pytest.raises(ArgumentError, match="val_share"):
        honest_split(table, seed=0, val_share=0)


def test_the_summary_counts_every_class(table: pd.DataFrame) -> None:
    counts = split_counts(honest_split(table, seed=0))
    assert counts.index.tolist() == ["train", "val", "test"]
    assert int(counts.to_numpy().sum()) == 1500


@pytest.mark.parametrize("make", [paper_split, honest_split, kfold_split])
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


def test_the_split_of_the_paper_is_the_known_one(real: Path) -> None:
    split = paper_split(load_table(real), seed=42)
    counts = split_counts(split)
    assert counts.loc["test"].to_dict() == COUNTS
    assert int(counts.loc["train"].sum()) == 9_187
    plan = offline_plan(split)
    assert {name: tuple(plan.loc[name])[:2] for name in OFFLINE} == OFFLINE
    assert int(plan.loc["all", "total"]) == 51_699


def test_no_lesion_is_shared_for_any_of_100_seeds(real: Path) -> None:
    table = load_table(real)
    for seed in range(100):
        # Each split was checked by `check_split`; this repeats the check with independent code.
        assert shared(paper_split(table, seed)) == 0
        assert shared(honest_split(table, seed, KNOWN)) == 0


@pytest.mark.slow
def test_no_lesion_is_shared_in_the_folds(real: Path) -> None:
    table = load_table(real)
    for seed in range(10):
        assert shared(kfold_split(table, seed, 5, KNOWN)) == 0
