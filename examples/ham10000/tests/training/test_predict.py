from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ham10000.data import CachedHAM10000
from ham10000.errors import ArgumentError
from ham10000.models import build_model
from ham10000.recipe import Recipe
from ham10000.training.predict import VIEWS, grid_crops, normalize, predict

MakeRecipe = Callable[..., Recipe]


def test_the_views_are_the_symmetries_of_a_square() -> None:
    image = torch.arange(16).reshape(1, 1, 4, 4)
    views = {tuple(view(image).flatten().tolist()) for view in VIEWS}
    turned = {
        tuple(torch.rot90(side, turns, (2, 3)).flatten().tolist())
        for side in (image, image.flip(3))
        for turns in range(4)
    }
    assert views == turned
    assert torch.equal(VIEWS[0](image), image)


def test_the_mode_of_the_model_is_restored(recipe: MakeRecipe, cache: Path) -> None:
    torch.manual_seed(0)
    mine = recipe()
    model = build_model(mine)
    data = CachedHAM10000(cache)
    first = predict(model, data, mine, split="test")
    assert model.training
    # In eval mode: dropout and batch statistics would make the second call differ.
    assert first.table.equals(predict(model.eval(), data, mine, split="test").table)
    assert not model.training
    assert set(first.table["split"]) == {"test"}
    assert first.table["image_id"].tolist() == data.table["image_id"].tolist()


def test_the_size_of_a_batch_does_not_change_the_order(recipe: MakeRecipe, cache: Path) -> None:
    torch.manual_seed(0)
    mine = recipe()
    model, data = build_model(mine), CachedHAM10000(cache)
    one = predict(model, data, mine, split="test")
    two = predict(model, data, recipe(training={"eval_batch_size": 7}), split="test")
    assert abs(one.probabilities - two.probabilities).max() < 1e-6


def test_another_number_of_views_is_refused(recipe: MakeRecipe, cache: Path) -> None:
    mine = recipe()
    model = build_model(mine)
    with pytest.raises(ArgumentError, match="tta must be 1, 2, 4 or 8, found 3"):
        predict(model, CachedHAM10000(cache), mine, split="test", tta=3)


def plain_crops(images: torch.Tensor, per_side: int, side: int) -> list[torch.Tensor]:
    """Crops row by row, one at a time, resized by the definition of bilinear interpolation."""
    size = images.shape[-1]
    weights = torch.zeros(size, side, dtype=torch.float64)
    for pixel in range(size):
        place = min(max((pixel + 0.5) * side / size - 0.5, 0), side - 1)
        low = int(place)
        weights[pixel, low] += 1 - (place - low)
        weights[pixel, min(low + 1, side - 1)] += place - low
    found = []
    for row in range(per_side):
        for column in range(per_side):
            top, left = (round(n * (size - side) / (per_side - 1)) for n in (row, column))
            crop = images[:, :, top : top + side, left : left + side].double()
            found.append((weights @ crop @ weights.T).float())
    return found


@pytest.mark.parametrize(("crops", "scale", "side"), [(4, 0.75, 18), (9, 0.6, 14), (4, 0.01, 1)])
def test_crops_cover_a_grid_row_by_row(crops: int, scale: float, side: int) -> None:
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    found = list(grid_crops(images, crops, scale))
    expected = plain_crops(images, round(crops**0.5), side)
    torch.testing.assert_close(found, expected)


def test_one_crop_is_the_whole_image() -> None:
    images = torch.randn(2, 3, 24, 24)
    (only,) = grid_crops(images, 1, 0.5)
    assert only is images


@pytest.mark.parametrize("tta", [1, 2])
def test_logits_of_crops_and_probabilities_of_views_are_averaged(
    tta: int, recipe: MakeRecipe, cache: Path
) -> None:
    torch.manual_seed(0)
    mine = recipe(training={"crops": 4, "crop_scale": 0.75})
    model, data = build_model(mine).eval(), CachedHAM10000(cache)
    with torch.no_grad():  # so that averages of logits and of probabilities differ
        model.network.get_classifier().weight.mul_(50)
    side = round(0.75 * mine.data.size)
    rows = []
    for row in range(8):
        image = normalize(data.read([row])[0], mine)
        total = torch.zeros(7, dtype=torch.float64)
        for view in VIEWS[:tta]:
            with torch.no_grad():
                logits = [model(crop)[0].double() for crop in plain_crops(view(image), 2, side)]
            total += torch.stack(logits).mean(0).softmax(0)
        rows.append(total / tta)
    found = predict(model, data, mine, split="test", tta=tta, crops=4)
    probabilities = torch.from_numpy(found.probabilities[:8])
    torch.testing.assert_close(probabilities, torch.stack(rows), rtol=1e-3, atol=2e-5)
    whole = predict(model, data, mine, split="test", tta=tta)
    assert abs(found.probabilities - whole.probabilities).max() > 1e-3
