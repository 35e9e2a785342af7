import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.ndimage import affine_transform

from ham10000.data import (
    PRESETS,
    Augment,
    Preset,
    augment_offline,
    cutmix,
    kfold_split,
    mixup,
    open_folder,
    paper_split,
)
from ham10000.data.augment.artifacts import draw_hairs, draw_rulers
from ham10000.data.augment.colour import apply, jitter
from ham10000.data.augment.geometry import matrices, warp, warp_bytes
from ham10000.data.augment.offline import offline_counts
from ham10000.errors import ArgumentError, DataError, SplitError


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(12, 3, 6, 6, generator=generator)
    return (torch.nn.functional.interpolate(coarse, 40) * 255).to(torch.uint8)


POSITIONS = torch.arange(12)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_sample_does_not_depend_on_its_batch(images: torch.Tensor, preset: str) -> None:
    augment = Augment(preset, seed=4)
    whole = augment(images, POSITIONS, epoch=1)
    alone = torch.cat([augment(images[i : i + 1], POSITIONS[i : i + 1], 1) for i in range(12)])
    assert torch.equal(whole, alone)
    order = torch.randperm(12)
    assert torch.equal(augment(images[order], POSITIONS[order], 1), whole[order])
    out = torch.empty_like(whole)
    assert augment(images, POSITIONS, 1, out=out) is out
    assert torch.equal(out, whole)


@pytest.mark.parametrize("preset", ["authors", "strong"])
def test_samples_epochs_and_seeds_differ(images: torch.Tensor, preset: str) -> None:
    same = images[:1].expand(12, -1, -1, -1)
    first = Augment(preset, seed=0)(same, POSITIONS, epoch=0)
    assert len({tuple(sample.flatten().tolist()) for sample in first}) == 12
    assert not torch.equal(first, Augment(preset, seed=0)(same, POSITIONS, epoch=1))
    assert not torch.equal(first, Augment(preset, seed=1)(same, POSITIONS, epoch=0))
    assert torch.equal(first, Augment(preset, seed=0)(same, POSITIONS, epoch=0))


def test_no_augmentation_is_the_normalization_alone(images: torch.Tensor) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    expected = images.double() / 255
    expected = (expected - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    for preset in (Preset(), Preset(hairs=1e-9)):  # with one pass over the pixels, and with two
        result = Augment(preset, mean=mean, std=std)(images, POSITIONS, 0)
        assert torch.allclose(result.double(), expected, atol=1e-5)
    coloured = Augment(Preset(brightness=1e-7), mean=mean, std=std)(images, POSITIONS, 0)
    assert torch.allclose(coloured.double(), expected, atol=1e-5)


def test_the_default_gives_minus_one_to_one() -> None:
    extremes = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 8, 8)
    result = Augment("none")(extremes, torch.arange(2), 0)
    assert result.amin().item() == pytest.approx(-1)
    assert result.amax().item() == pytest.approx(1)


def test_the_warp_is_that_of_scipy_with_the_edge_repeated() -> None:
    image = torch.rand(1, 1, 31, 31, dtype=torch.float64)
    angle, shift = 0.7, (0.2, -0.3)
    cosine, sine = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[[cosine, sine, shift[0]], [-sine, cosine, shift[1]]]])
    result = warp(image, matrix)[0, 0].numpy()
    # SciPy's axes are down and across; ours across and down, from -1 to 1.
    turn = np.array([[cosine, -sine], [sine, cosine]])
    centre = np.array([15.0, 15.0])
    offset = centre - turn @ centre + 15 * np.array(shift[::-1])
    expected = affine_transform(image[0, 0].numpy(), turn, offset, order=1, mode="nearest")
    assert np.abs(result - expected).max() < 1e-5


@pytest.mark.parametrize(("height", "width"), [(40, 40), (31, 52), (9, 7), (1, 6), (6, 1)])
@pytest.mark.parametrize("shift", [0.1, 5.0])
def test_bytes_are_warped_as_numbers_are(height: int, width: int, shift: float) -> None:
    images = torch.randint(0, 256, (40, 3, height, width), dtype=torch.uint8)
    draws = torch.rand(40, 7)
    moves = matrices(draws, degrees=180, shift=shift, zoom=0.3, flips=True, aspect=width / height)
    found = warp_bytes(images, moves)
    assert found.dtype == torch.uint8
    assert (found.double() - warp(images.double(), moves)).abs().max() < 1
    assert torch.equal(warp_bytes(images[3:4], moves[3:4])[0], found[3])


def test_rotations_keep_shapes_in_images_that_are_not_square() -> None:
    image = torch.zeros(1, 1, 60, 120)
    image[:, :, 25:35, 55:65] = 1  # a square of 10 pixels
    draws = torch.full((1, 7), 0.5)
    draws[:, 0] = 0.75  # a quarter turn of at most half a turn
    turned = warp(
        image, matrices(draws, degrees=180, shift=0, zoom=0, flips=False, aspect=119 / 59)
    )
    assert turned.sum().item() == pytest.approx(100, rel=0.1)
    rows = torch.nonzero(turned[0, 0] > 0.5)
    assert (rows.amax(0) - rows.amin(0) + 1).tolist() == pytest.approx([10, 10], abs=1)


def test_parameters_stay_within_their_bounds() -> None:
    draws = torch.rand(2000, 7)
    found = matrices(draws, degrees=0, shift=0.1, zoom=0.1, flips=True)
    assert found[:, [0, 1], [0, 1]].abs().min() >= 0.9 - 1e-6
    assert found[:, [0, 1], [0, 1]].abs().max() <= 1.1 + 1e-6
    assert found[:, :, 2].abs().max() <= 0.2 + 1e-6
    assert (found[:, 0, 0] < 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_contrast_keeps_the_mean_and_hue_keeps_the_greys() -> None:
    image = torch.rand(1, 3, 16, 16)
    grey = torch.full((1, 3, 2, 2), 0.4)
    means = image.mean((2, 3))
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    draws = torch.ones(1, 4)
    strong = jitter(draws, means, **{**still, "contrast": 0.5})
    out = torch.empty_like(image)
    apply(image, strong, out)
    luma = torch.tensor([0.299, 0.587, 0.114])
    assert (out.mean((2, 3)) @ luma).item() == pytest.approx((means @ luma).item(), abs=1e-5)
    assert out.std() == pytest.approx(1.5 * image.std().item(), rel=0.01)
    out = torch.empty_like(grey)
    apply(grey, jitter(draws, grey.mean((2, 3)), **{**still, "hue": 0.3, "saturation": 0.9}), out)
    assert torch.allclose(out, grey, atol=1e-6)


@pytest.mark.parametrize("draw", [draw_hairs, draw_rulers])
def test_artefacts_darken_a_share_of_the_images(draw) -> None:
    images = torch.full((400, 3, 32, 32), 0.8)
    draw(images, 0, 0, torch.arange(400), 0.3)
    darkened = (images < 0.79).flatten(1)
    assert darkened.any(1).float().mean().item() == pytest.approx(0.3, abs=0.07)
    assert darkened[darkened.any(1)].float().mean().item() < 0.35
    assert images.min() >= 0


def test_the_strong_preset_stays_in_range(images: torch.Tensor) -> None:
    result = Augment("strong")(images.repeat(20, 1, 1, 1), torch.arange(240), 0)
    assert result.min() >= -1 - 1e-5
    assert result.max() <= 1 + 1e-5


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_mixed_targets_say_what_is_in_the_image(mix) -> None:
    targets = torch.arange(7)
    images = targets.float().reshape(7, 1, 1, 1).expand(7, 3, 24, 24).contiguous()
    mixed, soft = mix(images, targets, torch.arange(7), num_classes=7, seed=1, epoch=0)
    # Each image is as bright as its class's number, so its mean is the mean of its target.
    assert torch.allclose(mixed.mean((1, 2, 3)), soft @ targets.float(), atol=1e-4)
    assert torch.allclose(soft.sum(1), torch.ones(7))
    assert (soft.argmax(1) == targets).all()
    assert len(set(soft.amax(1).tolist())) > 3
    with pytest.raises(ArgumentError, match="Augment them first"):
        mix(images.byte(), targets, torch.arange(7), num_classes=7, seed=1, epoch=0)


def test_what_cannot_be_augmented_is_refused(images: torch.Tensor) -> None:
    with pytest.raises(ArgumentError, match="Closest: strong"):
        Augment("stong")
    with pytest.raises(ArgumentError, match="expected uint8 images"):
        Augment("none")(images.float(), POSITIONS, 0)
    with pytest.raises(ArgumentError, match="a position for each of 12"):
        Augment("none")(images, POSITIONS[:3], 0)


def test_an_empty_batch_stays_one() -> None:
    for name in PRESETS:
        empty = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
        assert Augment(name)(empty, torch.arange(0), 0).shape == (0, 3, 8, 8)


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
