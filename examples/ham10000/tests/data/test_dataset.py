import pickle
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from ham10000.data import (
    HAM10000,
    METADATA,
    CachedHAM10000,
    kfold_split,
    paper_split,
    prepare,
    read_table,
    write_split,
)
from ham10000.errors import ArgumentError, MissingDataError, SplitError

SIZE = 24


@pytest.fixture(scope="module")
def cache(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cache") / "cache"
    prepare(synthetic, out, SIZE, masks=True)
    return out


@pytest.fixture(scope="module")
def split(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("split") / "split.csv"
    write_split(paper_split(read_table(synthetic / "HAM10000_metadata.csv"), seed=1), path)
    return path


def flat(item) -> list[object]:
    image, target, extras = item
    return [image.tolist(), target, {name: value.tolist() for name, value in extras.items()}]


@pytest.mark.parametrize("name", [None, "train", "test"])
def test_jpegs_and_cache_have_the_same_items(
    synthetic: Path, cache: Path, split: Path, name: str | None
) -> None:
    options = {"metadata": METADATA, "masks": True, "split_file": split if name else None}
    jpegs = HAM10000(synthetic, name, size=SIZE, **options)
    cached = CachedHAM10000(cache, name, **options)
    assert len(jpegs) == len(cached)
    assert jpegs.targets == cached.targets
    for index in (0, 7, -1):
        assert flat(jpegs[index]) == flat(cached[index])


def test_it_has_the_interface_of_torchvisions_data_sets(synthetic: Path) -> None:
    data = HAM10000(synthetic, transform=v2.ToDtype(torch.float32), target_transform=str)
    assert data.classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert list(data.class_to_idx) == sorted(data.classes)
    image, target = data[0]
    assert image.dtype == torch.float32
    assert target == str(data.targets[0])
    assert "280 images" in repr(data)
    assert data.table["dx"].tolist() == [data.classes[target] for target in data.targets]


def test_image_and_mask_are_transformed_together(synthetic: Path) -> None:
    plain = HAM10000(synthetic, masks=True)
    flipped = HAM10000(synthetic, masks=True, transform=v2.RandomHorizontalFlip(p=1))
    assert torch.equal(flipped[3][0], plain[3][0].flip(-1))
    assert torch.equal(flipped[3][2]["mask"], plain[3][2]["mask"].flip(-1))


def test_a_batch_is_one_read_of_the_same_items(cache: Path) -> None:
    data = CachedHAM10000(cache)
    images, targets = data.read([5, 0, 9])
    buffer = torch.zeros(3, 3, SIZE, SIZE, dtype=torch.uint8)
    assert data.read([5, 0, 9], buffer)[0] is buffer
    for place, index in enumerate((5, 0, 9)):
        assert torch.equal(images[place], data[index][0])
        assert torch.equal(buffer[place], data[index][0])
        assert targets[place] == data[index][1]


def test_a_cached_set_is_pickled_without_its_pixels(cache: Path) -> None:
    data = CachedHAM10000(cache)
    raw = pickle.dumps(data)
    assert len(raw) < data._cache.images.nbytes / 4
    assert torch.equal(pickle.loads(raw)[11][0], data[11][0])


def test_a_loader_takes_items(cache: Path) -> None:
    loader = DataLoader(CachedHAM10000(cache, metadata=["age", "sex"]), batch_size=100)
    images, targets, extras = next(iter(loader))
    assert images.shape == (100, 3, SIZE, SIZE)
    assert targets.shape == extras["age"].shape == extras["sex"].shape == (100,)


def test_an_index_out_of_range_is_an_index_error(cache: Path) -> None:
    with pytest.raises(IndexError):
        CachedHAM10000(cache)[280]


def test_missing_parts_are_reported(
    synthetic: Path, cache: Path, split: Path, tmp_path: Path
) -> None:
    with pytest.raises(MissingDataError, match="ham10000 split --out"):
        HAM10000(synthetic, "train")
    with pytest.raises(SplitError, match="Closest: test"):
        HAM10000(synthetic, "tets", split_file=split)
    with pytest.raises(ArgumentError, match="Pass split='train'"):
        HAM10000(synthetic, split_file=split)
    with pytest.raises(ArgumentError, match="Closest: sex"):
        HAM10000(synthetic, metadata=["sexx"])
    without = tmp_path / "without"
    prepare(synthetic, without, SIZE)
    with pytest.raises(MissingDataError, match="prepare --masks"):
        CachedHAM10000(without, masks=True)


def test_a_fold_is_chosen(synthetic: Path, tmp_path: Path) -> None:
    table = read_table(synthetic / "HAM10000_metadata.csv")
    path = tmp_path / "folds.csv"
    write_split(kfold_split(table, seed=0, folds=3), path)
    parts = [HAM10000(synthetic, "test", split_file=path, fold=fold) for fold in range(3)]
    assert sorted(row for part in parts for row in part.rows) == list(range(280))
