import hashlib
from pathlib import Path

import pandas as pd
import pytest

from ham10000.data import (
    PUBLISHED_SPLIT,
    find_dataset,
    kfold_split,
    known_pairs,
    lesion_split,
    load_table,
    offline_plan,
    paper_split,
    paper_val_split,
    published_split,
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


def digest(split: pd.DataFrame) -> str:
    return hashlib.sha256(split.to_csv(index=False).encode()).hexdigest()[:16]


def test_splits_of_a_seed_do_not_change(table: pd.DataFrame, pairs: pd.DataFrame) -> None:
    found = {
        "lesion": lesion_split(table, 1, pairs),
        "kfold": kfold_split(table, 1, 4, pairs, validation=True),
        "paper": paper_split(table, 1),
        "paper_val": paper_val_split(table, 1, pairs),
    }
    assert {name: digest(split) for name, split in found.items()} == {
        "lesion": "0af49d2b22537f01",
        "kfold": "ceb206d1289c1159",
        "paper": "e049d2ce5f19d9b4",
        "paper_val": "bfb8d12c29b63d6b",
    }


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
    for make in (paper_split, paper_val_split):
        for share in (0, 0.501, 1):
            with pytest.raises(
                ArgumentError, match=rf"test_share must be above 0 .* found {share}"
            ):
                make(table, seed=0, test_share=share)
        half = make(table, seed=0, test_share=0.5)["split"] == "test"
        assert half.sum() == pytest.approx(0.5 * single.sum(), abs=1)


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


def test_a_fold_validates_on_the_next_fold(table: pd.DataFrame) -> None:
    split = kfold_split(table, seed=1, folds=4, validation=True)
    of = {
        (fold, name): set(rows["image_id"])
        for (fold, name), rows in split.groupby(["fold", "split"])
    }
    for fold in range(4):
        assert of[fold, "val"] == of[(fold + 1) % 4, "test"]


@pytest.mark.parametrize("seed", range(3))
def test_every_stratum_has_its_share_of_each_split(table: pd.DataFrame, seed: int) -> None:
    splits = lesion_split(table, seed)["split"]
    several = table.groupby("lesion_id")["image_id"].transform("size") > 1
    follow_up = table["dx_type"] == "follow_up"
    for stratum in (table["dx"], several, follow_up, table["dx"] + several.astype(str)):
        for _, inside in splits.groupby(stratum):
            for name, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
                assert (inside == name).sum() == pytest.approx(share * len(inside), abs=6)


def test_without_validation_all_other_folds_train(table: pd.DataFrame) -> None:
    split = kfold_split(table, seed=1, folds=2)
    assert sorted(split[split["split"] == "test"]["image_id"]) == sorted(table["image_id"])
    assert set(split["split"]) == {"train", "test"}


@pytest.mark.parametrize("make", [lesion_split, paper_split, paper_val_split, kfold_split])
def test_the_seed_alone_decides(table: pd.DataFrame, make) -> None:
    assert make(table, seed=3).equals(make(table, seed=3))
    assert not make(table, seed=3).equals(make(table, seed=4))


def few(lesions: dict[str, int], others: int = 40) -> pd.DataFrame:
    """Return a table of lesions with one image each: counts by class, and the others are nevi."""
    dx = [name for name, count in {**lesions, "nv": others}.items() for _ in range(count)]
    return pd.DataFrame(
        {
            "lesion_id": [f"L{number}" for number in range(len(dx))],
            "image_id": [f"I{number}" for number in range(len(dx))],
            "dx": dx,
            "dx_type": "histo",
        }
    )


def test_a_class_needs_a_lesion_for_each_part() -> None:
    splits = lesion_split(few({"mel": 3}), seed=0)
    assert sorted(splits[splits["dx"] == "mel"]["split"]) == ["test", "train", "val"]
    with pytest.raises(SplitError, match="mel has 2 lesions, fewer than the 3 parts"):
        lesion_split(few({"mel": 2}), seed=0)
    folds = kfold_split(few({"mel": 5}), seed=0)
    assert folds[(folds["dx"] == "mel") & (folds["split"] == "test")]["fold"].nunique() == 5
    with pytest.raises(SplitError, match="mel has 4 lesions, fewer than the 5 parts"):
        kfold_split(few({"mel": 4}), seed=0)


def test_the_test_set_of_the_paper_needs_two_single_lesions_of_a_class() -> None:
    # 12 of 24 lesions: enough for each of two classes, whichever they are.
    assert set(paper_split(few({"mel": 2}, 22), 0, 0.5)["split"]) == {"train", "test"}
    with pytest.raises(SplitError, match="drawing the test set: mel has too few lesions with one"):
        paper_split(few({"mel": 1}, 23), 0, 0.5)
    pair = few({"mel": 2}, 22).replace({"lesion_id": {"L0": "L1"}})
    with pytest.raises(SplitError, match="drawing the test set: mel has too few lesions with one"):
        paper_split(pair, 0, 0.5)
    # As many test images as classes are enough, fewer are not.
    assert (paper_split(few({"mel": 10}, 10), 0, 0.1)["split"] == "test").sum() == 2
    with pytest.raises(
        SplitError, match=r"some class has too few .* for 9% of them .* \(20 in all"
    ):
        paper_split(few({"mel": 10}, 10), 0, 0.09)


def test_the_validation_set_needs_two_lesions_of_a_class() -> None:
    # Of 24 lesions 12 are tested, one of them of mel; 3 and 21 leave 2 of mel, and 2 leave 1.
    split = paper_val_split(few({"mel": 4}, 20), 0, val_share=0.5, test_share=0.5)
    assert (split["split"] == "val").sum() == 6
    with pytest.raises(SplitError, match="drawing the validation set: mel has 1 lesions left, and"):
        paper_val_split(few({"mel": 2}, 22), 0, val_share=0.5, test_share=0.5)
    # 40 are left after the test, and as many lesions as there are classes must validate.
    assert (
        paper_val_split(few({"mel": 25}, 25), 0, val_share=0.05, test_share=0.2)["split"] == "val"
    ).sum() == 2
    with pytest.raises(SplitError, match="4% of 40 must contain every class"):
        paper_val_split(few({"mel": 25}, 25), 0, val_share=0.04, test_share=0.2)
    for share in (0, 0.51):
        with pytest.raises(ArgumentError, match=f"val_share must be above 0 .* found {share}"):
            paper_val_split(few({"mel": 25}, 25), 0, val_share=share)


def test_the_number_of_folds_has_a_lower_bound(table: pd.DataFrame) -> None:
    for folds, validation in ((1, False), (2, True)):
        with pytest.raises(ArgumentError, match=f"Pass at least {folds + 1} folds") as caught:
            kfold_split(table, seed=0, folds=folds, validation=validation)
        assert ("one validates" in str(caught.value)) == validation
    assert set(kfold_split(table, 0, 3, validation=True)["split"]) == {"train", "val", "test"}


def test_the_split_of_the_paper_is_the_known_one(real: Path) -> None:
    split = paper_split(load_table(real), seed=42)
    counts = split_counts(split)
    assert counts.loc["test"].to_dict() == COUNTS
    assert int(counts.loc["train"].sum()) == 9_187
    plan = offline_plan(split)
    assert {name: tuple(plan.loc[name])[:2] for name in OFFLINE} == OFFLINE
    assert int(plan.loc["all", "total"]) == 51_699


@pytest.mark.slow
def test_no_lesion_is_shared_for_any_of_100_seeds(real: Path) -> None:
    table = load_table(real)
    for seed in range(100):
        # Each split was checked by `check_split`; this repeats the check with independent code.
        assert shared(paper_split(table, seed)) == 0
        assert shared(paper_val_split(table, seed, OBVIOUS)) == 0


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


def test_the_published_split_is_that_of_the_tables(isic2017: Path, table: pd.DataFrame) -> None:
    labels = load_table(isic2017, find_dataset("isic2017-keratosis"))
    split = published_split(labels)
    assert split["split"].tolist() == labels[PUBLISHED_SPLIT].tolist()
    assert split["image_id"].tolist() == labels["image_id"].tolist()
    assert split_by_protocol(labels, "published", seed=3).equals(split)
    assert split_counts(split, ["other", "sk"]).sum().sum() == 72
    with pytest.raises(SplitError, match=r"no published split\. Use the protocol lesion"):
        published_split(table)


def test_a_published_split_that_tears_a_lesion_is_refused(isic2017: Path) -> None:
    labels = load_table(isic2017, find_dataset("isic2017-keratosis"))
    ends = [labels.index[0], labels.index[-1]]
    labels.loc[ends, ["lesion_id", "dx"]] = ["L", "other"]
    with pytest.raises(SplitError, match="lesion L is in two splits"):
        published_split(labels)
