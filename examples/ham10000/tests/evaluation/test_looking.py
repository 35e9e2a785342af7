from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from softattn import SoftAttention, SoftAttentionClassifier, wrap_backbone
from torch import Tensor, nn

from ham10000.data import open_folder
from ham10000.errors import ArgumentError, MissingDataError
from ham10000.evaluation.attribution import attention_maps, feature_size, grad_cam_maps
from ham10000.evaluation.faithfulness import area
from ham10000.evaluation.localisation import SCORES, localise
from ham10000.evaluation.looking import follow, look, read_masks

HUES = torch.rand(7, 3, generator=torch.Generator().manual_seed(99)) * 4 - 2


def planted(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Four coloured corners, of which one has stripes: its colour alone tells the class."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randint(0, 7, (count, 4), generator=generator)
    corner = torch.randint(0, 4, (count,), generator=generator)
    striped = nn.functional.one_hot(corner, 4).reshape(count, 1, 2, 2)
    stripes = (torch.arange(32) // 2 % 2 * 2 - 1).float()
    quarters = HUES[colours].permute(0, 2, 1).reshape(count, 3, 2, 2)
    large = quarters.repeat_interleave(16, 2).repeat_interleave(16, 3)
    masks = striped.repeat_interleave(16, 2).repeat_interleave(16, 3)
    noise = 0.3 * torch.randn(count, 3, 32, 32, generator=generator)
    images = large + masks * stripes + noise
    return images, colours.gather(1, corner[:, None])[:, 0], masks[:, 0].bool()


@pytest.fixture(scope="module")
def model() -> SoftAttentionClassifier:
    """Trained for seconds on the planted case."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU()]
    layers += [nn.Conv2d(24, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()]
    attention = partial(SoftAttention, num_maps=4, gamma=None)
    built = wrap_backbone(nn.Sequential(*layers), 7, block=attention, input_size=32)
    images, targets, _ = planted(2000, seed=1)
    optimizer = torch.optim.Adam(built.parameters(), 3e-3)
    for _ in range(6):
        for part in torch.randperm(2000).split(50):
            loss = nn.functional.cross_entropy(built(images[part]), targets[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return built.eval()


def test_attention_is_found_where_it_was_planted(model: SoftAttentionClassifier) -> None:
    images, targets, masks = planted(240, seed=2)
    assert (model(images).argmax(1) == targets).float().mean() > 0.95

    def read(rows: Sequence[int]) -> Tensor:
        return images[list(rows)]

    found = look(model, read, range(240), masks)
    chance = {"pointing_game": 0.25, "energy_inside": 0.25, "iou": 0.25 / 1.75}
    for score in SCORES:
        assert found["attention"][score].mean() > chance[score] + 0.4
        assert found["grad_cam"][score].mean() > chance[score] + 0.4
        # A Gaussian in the middle and noise are at the level of chance, which is a quarter here.
        for blind in ("gaussian", "random"):
            assert found[blind][score].mean() == pytest.approx(chance[score], abs=0.1)
    # The next image's map is at that level too.
    shifted = localise(attention_maps(model, images).roll(1, 0), masks)
    for score in ("pointing_game", "energy_inside"):
        assert shifted[score].mean() == pytest.approx(0.25, abs=0.1)
    assert shifted["iou"].mean() < found["attention"]["iou"].mean() / 2

    curves = follow(model, read, range(40), steps=8)
    for method in ("gaussian", "random"):
        for curve, sign in (("deletion", -1), ("insertion", 1)):
            seen, blind_area = (area(curves[m][curve]).mean() for m in ("attention", method))
            assert sign * (seen - blind_area) > 0.05


def test_batches_dont_matter(model: SoftAttentionClassifier) -> None:
    images, _, masks = planted(10, seed=3)
    one, other = (
        look(model, lambda rows: images[list(rows)], range(10), masks, batch_size=size)
        for size in (3, 10)
    )
    for method, scores in one.items():
        for score, values in scores.items():
            np.testing.assert_allclose(values, other[method][score], atol=1e-5)


def test_grad_cam_leaves_the_model_as_it_was(model: SoftAttentionClassifier) -> None:
    images, targets, _ = planted(4, seed=4)
    before = model(images)
    maps = grad_cam_maps(model, images, targets)
    assert maps.shape == (4, 32, 32)
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert torch.equal(model(images), before)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert feature_size(model, images[0]) == (8, 8)


def test_grad_cam_works_on_a_frozen_backbone() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
    frozen = wrap_backbone(layers, 7, input_size=32).eval()
    frozen.requires_grad_(False)
    assert grad_cam_maps(frozen, torch.randn(2, 3, 32, 32), torch.tensor([0, 1])).shape[0] == 2


def test_a_model_without_a_backbone_to_look_at_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"Linear holds no softattn\.SpatialBackbone"):
        grad_cam_maps(nn.Linear(1, 1), torch.zeros(1, 3, 8, 8), torch.tensor([0]))


def test_images_without_a_mask_are_counted(editable: Path) -> None:
    folder = open_folder(editable)
    names = folder.table["image_id"].tolist()[:6]
    paths = {name: folder.masks[name] for name in names if name != names[2]}
    Image.new("L", (48, 36), 0).save(paths[names[4]])
    found = read_masks(paths, names, 16)
    assert found.kept == [0, 1, 3, 5]
    assert (found.missing, found.empty) == (1, 1)
    assert found.masks.shape == (4, 16, 16)
    assert found.masks.any(dim=2).any(dim=1).all()
    with pytest.raises(MissingDataError, match="none of the 6 images has one"):
        read_masks({}, names, 16)
