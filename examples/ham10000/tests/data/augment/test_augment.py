import pytest
import torch
from torchvision.transforms import v2

from ham10000.data import (
    PRESETS,
    Augment,
    Preset,
    cutmix,
    mixup,
)
from ham10000.data.augment.augment import draw_hairs, draw_rulers
from ham10000.data.samplers import uniform
from ham10000.errors import ArgumentError


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


@pytest.mark.parametrize("preset", ["authors", "strong", "trivial", "rand"])
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


def test_the_strong_preset_stays_in_range(images: torch.Tensor) -> None:
    result = Augment("strong")(images.repeat(20, 1, 1, 1), torch.arange(240), 0)
    assert result.min() >= -1 - 1e-5
    assert result.max() <= 1 + 1e-5


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


@pytest.mark.parametrize("draw", [draw_hairs, draw_rulers])
def test_artefacts_darken_a_share_of_the_images(draw) -> None:
    images = torch.full((400, 3, 32, 32), 0.8)
    draw(images, 0, 0, torch.arange(400), 0.3)
    darkened = (images < 0.79).flatten(1)
    assert darkened.any(1).float().mean().item() == pytest.approx(0.3, abs=0.07)
    assert darkened[darkened.any(1)].float().mean().item() < 0.35
    assert images.min() >= 0


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


@pytest.mark.parametrize(
    ("policy", "transform"), [("trivial", v2.TrivialAugmentWide), ("rand", v2.RandAugment)]
)
def test_a_policy_is_that_of_torchvision(
    images: torch.Tensor, policy: str, transform: type[v2.Transform]
) -> None:
    preset = Preset(policy=policy)  # type: ignore[arg-type]
    state = torch.get_rng_state()
    found = Augment(preset, seed=5, mean=(0, 0, 0), std=(1, 1, 1))(images, POSITIONS, epoch=2)
    assert torch.equal(torch.get_rng_state(), state)
    reference = transform(interpolation=v2.InterpolationMode.BILINEAR)
    for number, draw in enumerate(uniform(5, 2, POSITIONS, 1, stream=4)[:, 0].tolist()):
        torch.manual_seed(int(draw * 2**24))
        expected = reference(images[number]).float() / 255
        torch.testing.assert_close(found[number], expected)
    assert not torch.equal((found * 255).round().to(torch.uint8), images)
