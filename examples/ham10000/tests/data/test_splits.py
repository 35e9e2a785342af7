import hashlib
from pathlib import Path

import pandas as pd
import pytest

from ham10000.data import (
    kfold_split,
    known_pairs,
    lesion_split,
    load_table,
    offline_plan,
    paper_split,
    paper_val_split,
    split_by_protocol,
    split_counts,
    synthetic_table,
)
from ham10000.errors import ArgumentError, SplitError

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
OBVIOUS = pd.DataFrame(
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


def test_the_test_set_of_the_paper_has_the_share_that_is_asked_for(table: pd.DataFrame) -> None:
    single = table.groupby("lesion_id")["image_id"].transform("size") == 1
    for make in (paper_split, paper_val_split):
        test = make(table, seed=0, test_share=0.3)["split"] == "test"
        assert test.sum() == pytest.approx(0.3 * single.sum(), abs=1)
    with pytest.raises(ArgumentError, match=r"test_share must be above 0 .* found 0"):
        paper_split(table, seed=0, test_share=0)


def test_paper_val_tests_on_what_the_paper_tests_on(table: pd.DataFrame) -> None:
    paper, other = paper_split(table, seed=5), paper_val_split(table, seed=5)
    assert (paper["split"] == "test").equals(other["split"] == "test")


def test_a_protocol_is_chosen_by_name(
    table: pd.DataFrame, pairs: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    made = {
        "lesion": lesion_split(table, 1, pairs),
        "kfold": kfold_split(table, 1, 4, pairs, validation=True),
        "paper": paper_split(table, 1, 0.2),
        "paper_val": paper_val_split(table, 1, pairs, test_share=0.2),
    }
    options = {"folds": 4, "validation": True, "test_share": 0.2}
    for name, split in made.items():
        assert split.equals(split_by_protocol(table, name, 1, pairs, **options))
    assert not caplog.records
    assert made["paper_val"].equals(split_by_protocol(table, "honest", 1, pairs, **options))
    assert "now called paper_val" in caplog.text


def test_duplicates_stay_in_one_split(table: pd.DataFrame, pairs: pd.DataFrame) -> None:
    ids = set(pairs.iloc[0])
    for split in (
        lesion_split(table, 0, pairs),
        paper_val_split(table, 0, pairs),
        kfold_split(table, 0, 3, pairs, validation=True),
    ):
        of_them = split[split["lesion_id"].isin(ids)]
        keys = ["fold"] if "fold" in split else ["dx_is_irrelevant"]
        of_them = of_them.assign(dx_is_irrelevant=0)
        assert (of_them.groupby(keys)["split"].nunique() == 1).all()
    assert (
        paper_val_split(table, 0)["split"].value_counts()["test"]
        == 1 + (paper_val_split(table, 0, pairs)["split"].value_counts()["test"])
    )


def test_each_fold_tests_once_and_validates_once(table: pd.DataFrame) -> None:
    split = kfold_split(table, seed=1, folds=4, validation=True)
    for name in ("test", "val"):
        ids = split[split["split"] == name]["image_id"]
        assert sorted(ids) == sorted(table["image_id"])


def test_without_validation_all_other_folds_train(table: pd.DataFrame) -> None:
    split = kfold_split(table, seed=1, folds=2)
    assert sorted(split[split["split"] == "test"]["image_id"]) == sorted(table["image_id"])
    assert set(split["split"]) == {"train", "test"}


@pytest.mark.parametrize("make", [lesion_split, paper_split, paper_val_split, kfold_split])
def test_the_seed_alone_decides(table: pd.DataFrame, make) -> None:
    assert make(table, seed=3).equals(make(table, seed=3))
    assert not make(table, seed=3).equals(make(table, seed=4))


def test_a_set_that_is_too_small_is_refused(table: pd.DataFrame) -> None:
    few = synthetic_table(images=20, seed=0)
    with pytest.raises(SplitError, match="too few lesions"):
        paper_split(few, seed=0)
    with pytest.raises(SplitError, match="fewer than the 3 parts"):
        lesion_split(few, seed=0)
    with pytest.raises(SplitError, match="fewer than the 5 parts"):
        kfold_split(few, seed=0)
    with pytest.raises(ArgumentError, match="Pass at least 3 folds"):
        kfold_split(table, seed=0, folds=2, validation=True)
    with pytest.raises(ArgumentError, match="val_share"):
        paper_val_split(table, seed=0, val_share=0)


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
        assert shared(paper_val_split(table, seed, OBVIOUS)) == 0


def digest(split: pd.DataFrame) -> str:
    return hashlib.sha256(split.to_csv(index=False).encode()).hexdigest()[:16]


def test_the_splits_of_the_paper_do_not_change(real: Path) -> None:
    table = load_table(real)
    assert digest(paper_split(table, 42)) == "213008029053f951"
    assert digest(paper_val_split(table, 42)) == "f64bdaaaaffe1d8b"
    assert digest(paper_val_split(table, 42, OBVIOUS)) == "715fcc576be2a53d"


def check_sides(table: pd.DataFrame, sides: pd.Series) -> None:
    """Check the sides of the images of a table, with code that is independent of `lesion_split`."""
    assert (sides.groupby(table["lesion_id"].to_numpy()).nunique() == 1).all()
    side_of = pd.Series(sides.to_numpy(), index=table["image_id"])
    known = known_pairs(table)
    assert len(known) == 18
    assert side_of[known["image_id"]].tolist() == side_of[known["other_image_id"]].tolist()
    of_lesion = dict(zip(table["lesion_id"], sides, strict=True))
    for pair in OBVIOUS.itertuples():
        assert of_lesion[pair.lesion_id] == of_lesion[pair.other_lesion_id]
    several = table.groupby("lesion_id")["image_id"].transform("size") > 1
    strata = [table["dx"], several, table["dx_type"] == "follow_up"]
    for columns in (strata, [table["dx"]], [several], [strata[2]]):
        shares = pd.crosstab(columns, sides.to_numpy(), normalize="columns")
        assert (shares.max(axis=1) - shares.min(axis=1)).max() <= 0.01


def check_protocols(table: pd.DataFrame, seed: int) -> None:
    split = lesion_split(table, seed, OBVIOUS)["split"]
    check_sides(table, split)
    shares = split.value_counts(normalize=True)
    assert shares[["train", "val", "test"]].tolist() == pytest.approx([0.7, 0.1, 0.2], abs=0.002)
    folds = kfold_split(table, seed, 5, OBVIOUS)
    tests = folds[folds["split"] == "test"].set_index("image_id")["fold"]
    check_sides(table, tests[table["image_id"]])


def test_lesion_and_kfold_are_grouped_and_stratified(real: Path) -> None:
    table = load_table(real)
    for seed in (0, 42):
        check_protocols(table, seed)


@pytest.mark.slow
def test_lesion_and_kfold_are_grouped_and_stratified_for_100_seeds(real: Path) -> None:
    table = load_table(real)
    for seed in range(100):
        check_protocols(table, seed)
