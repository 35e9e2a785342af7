import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ham10000.data import (
    PUBLISHED_SPLIT,
    Augment,
    Batches,
    CachedHAM10000,
    EpochSampler,
    find_dataset,
    open_folder,
    paper_val_split,
    prepare,
    read_mask,
    read_table,
    synthesize,
    synthetic_table,
    write_split,
)
from ham10000.data.synthetic.synthesize import render
from ham10000.errors import ArgumentError


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed, workers in (("a", 1, 1), ("b", 1, 3), ("c", 2, 1)):
        synthesize(tmp_path / name, 20, seed, width=40, workers=workers)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a") != digests(tmp_path / "c")


def test_the_table_has_the_imbalance_and_the_gaps_of_the_real_one() -> None:
    table = synthetic_table(images=4000, seed=0)
    shares = table["dx"].value_counts(normalize=True)
    assert shares["nv"] == pytest.approx(0.67, abs=0.02)
    assert shares["df"] == pytest.approx(0.0115, abs=0.003)
    assert table["lesion_id"].nunique() / 4000 == pytest.approx(0.746, abs=0.03)
    assert 0 < table["age"].isna().mean() < 0.03
    assert (table.groupby("lesion_id")["dx"].nunique() == 1).all()
    assert table["image_id"].is_unique


def test_two_images_of_a_lesion_show_it_differently() -> None:
    first, second = (render("mel", (45, 60), [0, 5], view)[0] for view in (0, 1))
    other = render("mel", (45, 60), [0, 6], 0)[0]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_masks_cover_the_lesion(synthetic: Path) -> None:
    folder = open_folder(synthetic)
    areas = [read_mask(path).float().mean().item() for path in folder.mask_paths()]
    assert 0.02 < min(areas) < max(areas) < 0.9


def test_impossible_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="at least 14"):
        synthesize(tmp_path / "a", images=5, seed=0)
    with pytest.raises(ArgumentError, match="32 to 2400"):
        synthesize(tmp_path / "a", images=20, seed=0, width=10)
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match="exists already"):
        synthesize(tmp_path, images=20, seed=0, width=40)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def small_network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 7))


@pytest.mark.slow
def test_it_can_be_learned_and_is_not_trivial(tmp_path: Path) -> None:
    synthesize(tmp_path / "set", images=1200, seed=0, width=64)
    table = read_table(tmp_path / "set" / "HAM10000_metadata.csv")
    write_split(paper_val_split(table, seed=0), tmp_path / "split.csv")
    prepare(tmp_path / "set", tmp_path / "cache", 40)
    train = CachedHAM10000(tmp_path / "cache", "train", split_file=tmp_path / "split.csv")
    test = CachedHAM10000(tmp_path / "cache", "test", split_file=tmp_path / "split.csv")
    torch.manual_seed(0)
    network = small_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    for epoch in range(12):
        sampler = EpochSampler(train.targets, "class", seed=0)
        sampler.set_epoch(epoch)
        batches = Batches(train, sampler, 64, Augment("authors", seed=0))
        for number in range(len(batches)):
            images, targets = batches[number][:2]
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), targets).backward()
            optimizer.step()
    images, targets = test.read(range(len(test)))
    with torch.no_grad():
        network.eval()
        guesses = network(Augment("none")(images, torch.arange(len(test)), 0)).argmax(1)
    recalls = [(guesses[targets == label] == label).float().mean() for label in range(7)]
    balanced = torch.stack(recalls).mean().item()
    assert 0.4 < balanced < 0.99, balanced  # chance is 0.14


def test_a_set_like_isic_2017_has_its_parts_and_proportions(tmp_path: Path) -> None:
    for name in ("a", "b"):
        synthesize(tmp_path / name, 55, seed=1, width=40, like="isic2017")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    melanoma, keratosis = (
        open_folder(tmp_path / "a", find_dataset(f"isic2017-{task}")).table
        for task in ("melanoma", "keratosis")
    )
    counts = melanoma[PUBLISHED_SPLIT].value_counts()
    assert counts.sum() == 55
    assert counts["train"] > counts["test"] > counts["val"] >= 6
    of_class = pd.crosstab(melanoma[PUBLISHED_SPLIT], melanoma["dx"])
    assert of_class.to_numpy().min() >= 2
    assert not ((melanoma["dx"] == "mel") & (keratosis["dx"] == "sk")).any()
    with pytest.raises(ArgumentError, match="at least 36"):
        synthesize(tmp_path / "c", 35, seed=1, width=40, like="isic2017")
