import pickle
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from ham10000.data import (
    HAM10000,
    METADATA,
    Augment,
    Batches,
    CachedHAM10000,
    EpochSampler,
    SequentialShard,
    encode_metadata,
    feature_names,
    kfold_split,
    metadata_features,
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


def test_it_looks_like_a_data_set_of_torchvision(synthetic: Path) -> None:
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


def test_what_is_missing_is_said(synthetic: Path, cache: Path, split: Path, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [None, Augment("authors")])
def test_a_batch_brings_the_metadata_of_its_images(
    cache: Path, workers: int, augment: Augment | None
) -> None:
    data = CachedHAM10000(cache, metadata=["age", "sex", "localization"])
    features = metadata_features(data.metadata)
    sampler = EpochSampler(data.targets, seed=1)
    batches = Batches(data, sampler, 100, augment)
    loader = DataLoader(batches, batch_size=None, num_workers=workers)
    assert torch.equal(torch.cat([batch.metadata for batch in loader]), features[list(sampler)])
    assert Batches(CachedHAM10000(cache), sampler, 100)[0].metadata is None


def epoch(data: HAM10000, *, rank: int, replicas: int, batch: int, workers: int):
    sampler = EpochSampler(data.targets, "class", 7, rank=rank, num_replicas=replicas)
    sampler.set_epoch(2)
    batches = Batches(data, sampler, batch, Augment("strong", seed=7))
    return list(DataLoader(batches, batch_size=None, num_workers=workers))


def test_one_and_two_ranks_with_and_without_workers_see_the_same(cache: Path) -> None:
    data = CachedHAM10000(cache)
    one = epoch(data, rank=0, replicas=1, batch=16, workers=0)
    with_workers = epoch(data, rank=0, replicas=1, batch=16, workers=2)
    ranks = [epoch(data, rank=rank, replicas=2, batch=8, workers=2) for rank in (0, 1)]
    assert len(one) == len(with_workers) == len(ranks[0]) == 18
    for step, batch in enumerate(one):
        assert torch.equal(batch.images, with_workers[step].images)
        assert torch.equal(batch.targets, with_workers[step].targets)
        for rank in (0, 1):
            assert torch.equal(batch.images[rank::2], ranks[rank][step].images)
            assert torch.equal(batch.targets[rank::2], ranks[rank][step].targets)
            assert torch.equal(batch.positions[rank::2], ranks[rank][step].positions)


def test_batches_over_jpegs_and_over_the_cache_are_the_same(synthetic: Path, cache: Path) -> None:
    jpegs = epoch(HAM10000(synthetic, size=SIZE), rank=0, replicas=1, batch=64, workers=0)
    cached = epoch(CachedHAM10000(cache), rank=0, replicas=1, batch=64, workers=0)
    assert all(torch.equal(a.images, b.images) for a, b in zip(jpegs, cached, strict=True))


def test_batches_without_augmentation_are_the_pixels(cache: Path) -> None:
    data = CachedHAM10000(cache)
    batches = Batches(data, SequentialShard(280, 1, 2), 50, drop_last=True)
    assert len(batches) == 2
    assert torch.equal(batches[1].images, data.read(range(190, 240))[0])
    with pytest.raises(IndexError):
        batches[2]
    with pytest.raises(ArgumentError, match="batch_size"):
        Batches(data, SequentialShard(280), 0)
