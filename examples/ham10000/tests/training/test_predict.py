from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ham10000.data import CachedHAM10000
from ham10000.errors import ArgumentError
from ham10000.models import build_model
from ham10000.recipe import Recipe
from ham10000.training.predict import VIEWS, predict

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
