from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from ham10000.data import (
    HAM10000,
    OfflineHAM10000,
    augment_offline,
    kfold_split,
    open_folder,
    paper_split,
)
from ham10000.data.augment.offline import offline_counts
from ham10000.errors import ArgumentError, DataError, MissingDataError, SplitError


@pytest.mark.parametrize(
    ("count", "augmented"),
    [(304, 6688), (488, 7370), (1033, 6898), (109, 5768), (1079, 6824), (6042, 2000), (132, 6964)],
)
def test_the_authors_numbers(count: int, augmented: int) -> None:
    assert offline_counts(count) == (count, augmented)


def test_a_full_or_empty_class_gets_no_copies() -> None:
    assert offline_counts(8000) == (8000, 0)
    assert offline_counts(9000) == (9000, 0)
    assert offline_counts(0) == (0, 0)


def test_offline_augmentation_writes_what_it_planned(
    editable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ham10000.data.augment.offline.TARGET", 60)
    monkeypatch.setattr("ham10000.data.augment.offline.BATCH", 10)
    folder = open_folder(editable)
    split = paper_split(folder.table, seed=1)
    plan = augment_offline(folder, split, tmp_path / "a", size=16, seed=0)
    augment_offline(folder, split, tmp_path / "b", size=16, seed=0, workers=1)
    index = pd.read_csv(tmp_path / "a" / "index.csv")
    assert index["dx"].value_counts().to_dict() == plan["total"].drop("all").to_dict()
    assert len(index) == len(list((tmp_path / "a").rglob("*.jpg"))) == plan.loc["all", "total"]
    assert set(index["image_id"]) == set(split["image_id"][split["split"] == "train"])
    for file in index["file"][::37]:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        with Image.open(tmp_path / "a" / file) as image:
            assert image.size == (16, 16)
    with pytest.raises(ArgumentError, match="exists already"):
        augment_offline(folder, split, tmp_path / "a", size=16, seed=0)
    with pytest.raises(SplitError, match="has folds"):
        augment_offline(folder, kfold_split(folder.table, 0, 3), tmp_path / "c", size=16, seed=0)
    folder.paths()[int((split["split"] == "train").to_numpy().argmax())].write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        augment_offline(folder, split, tmp_path / "d", size=16, seed=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "editable"]


@pytest.fixture
def augmented(
    synthetic: Path, table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, pd.DataFrame]:
    monkeypatch.setattr("ham10000.data.augment.offline.TARGET", 30)
    monkeypatch.setattr("ham10000.data.augment.offline.BATCH", 10)
    split = paper_split(table, seed=1)
    augment_offline(open_folder(synthetic), split, tmp_path / "set", size=16, seed=0)
    return tmp_path / "set", split


def test_copies_have_class_lesion_and_metadata_of_their_image(
    augmented: tuple[Path, pd.DataFrame], synthetic: Path, table: pd.DataFrame
) -> None:
    root, split = augmented
    data = OfflineHAM10000(root, split, table, size=16, metadata=["age", "sex"])
    index = pd.read_csv(root / "index.csv")
    assert data.table["image_id"].tolist() == index["image_id"].tolist()
    assert data.table["lesion_id"].tolist() == index["lesion_id"].tolist()
    parts = split.set_index("lesion_id")["split"].groupby("lesion_id").first()
    assert set(parts[data.table["lesion_id"]]) == {"train"}
    assert [data.classes[target] for target in data.targets] == index["dx"].tolist()
    whole = HAM10000(synthetic, metadata=["age", "sex"], size=16)
    row = table["image_id"].tolist().index(index["image_id"].iloc[-1])
    assert "_aug" in index["file"].iloc[-1]
    for name, values in data.metadata.items():
        assert torch.equal(values[-1], whole.metadata[name][row])
    # The first file is an original: the image itself, but for the compression.
    first = table["image_id"].tolist().index(index["image_id"].iloc[0])
    difference = data.read([0])[0].float() - whole.read([first])[0].float()
    assert difference.abs().mean() < 4


def change(root: Path, column: str, value: str) -> None:
    index = pd.read_csv(root / "index.csv", dtype=str)
    index.loc[3, column] = value
    index.to_csv(root / "index.csv", index=False)


def test_a_set_that_mixes_parts_of_the_split_is_refused(
    augmented: tuple[Path, pd.DataFrame], table: pd.DataFrame
) -> None:
    root, split = augmented
    other = paper_split(table, seed=2)
    with pytest.raises(SplitError, match=r"row \d+, .*, was made from ISIC_\d+, which is in test "):
        OfflineHAM10000(root, other, table, size=16)
    fewer = split.copy()
    gone = fewer.index[fewer["split"] == "train"][:2]
    fewer.loc[gone, "split"] = "val"
    with pytest.raises(SplitError, match="which is in val of the split and not in train"):
        OfflineHAM10000(root, fewer, table, size=16)
    more = split.copy()
    more.loc[more["split"] == "test", "split"] = "train"
    lacking = (split["split"] == "test").sum()
    with pytest.raises(SplitError, match=f"no file of {lacking} images of the training set"):
        OfflineHAM10000(root, more, table, size=16)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("lesion_id", r"row 5, .* has lesion HAM_0 and dx akiec, but ISIC_\d+ has lesion"),
        ("image_id", "row 5, .* was made from HAM_0, which is in no part of the split"),
        ("dx", "row 5, .* has lesion .* and dx HAM_0, but"),
    ],
)
def test_a_copy_keeps_the_lesion_of_its_image(
    augmented: tuple[Path, pd.DataFrame], table: pd.DataFrame, column: str, message: str
) -> None:
    root, split = augmented
    change(root, column, "HAM_0")
    with pytest.raises(SplitError, match=message):
        OfflineHAM10000(root, split, table, size=16)


def test_damaged_sets(augmented: tuple[Path, pd.DataFrame], table: pd.DataFrame) -> None:
    root, split = augmented
    with pytest.raises(DataError, match="16 x 16 pixels, expected 24 x 24"):
        OfflineHAM10000(root, split, table, size=24)
    index = pd.read_csv(root / "index.csv")
    change(root, "file", index["file"].iloc[4])
    with pytest.raises(DataError, match=r"row 5 says that akiec/.* was made from .* is named"):
        OfflineHAM10000(root, split, table, size=16)
    index.to_csv(root / "index.csv", index=False)
    (root / index["file"].iloc[3]).unlink()
    with pytest.raises(MissingDataError, match="files are missing"):
        OfflineHAM10000(root, split, table, size=16)
    with pytest.raises(MissingDataError, match=r"no index\.csv in it\. Make it with"):
        OfflineHAM10000(root.parent, split, table, size=16)
