from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from ham10000.data import (
    augment_offline,
    kfold_split,
    open_folder,
    paper_split,
)
from ham10000.data.augment.offline import offline_counts
from ham10000.errors import ArgumentError, DataError, SplitError


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
