"""Estimates of how long runs will take."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import pandas as pd
import torch

from ham10000.data import find_dataset
from ham10000.models import build_model
from ham10000.recipe import Recipe
from ham10000.training import build_loss

__all__ = ["estimate_seconds"]


def estimate_seconds(recipes: Iterable[Recipe], table: pd.DataFrame) -> list[float]:
    """Estimate how long each recipe trains, from one step of its model on this machine.

    Early stopping can end a run earlier. The time to make an augmented set is not included.

    Args:
        recipes: Resolved recipes.
        table: Metadata table of the data set.
    """
    single = int((table.groupby("lesion_id")["image_id"].transform("size") == 1).sum())
    speeds: dict[str, tuple[float, float]] = {}
    found = []
    for recipe in recipes:
        key = repr((recipe.model, recipe.attention, recipe.data.size))
        speeds[key] = speeds.get(key) or _seconds_per_image(recipe)
        train, predict = speeds[key]
        test = round(single * recipe.data.test_share)
        samples = recipe.data.epoch_samples or len(table) - test
        epochs = recipe.training.epochs
        # Each epoch ends with a validation on the test set, and the run with its predictions.
        views = recipe.training.tta * recipe.training.crops
        found.append(epochs * samples * train + (epochs + views) * test * predict)
    return found


def _seconds_per_image(recipe: Recipe) -> tuple[float, float]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = recipe.training.batch_size if device.type == "cuda" else 2
    bare = replace(recipe, model=replace(recipe.model, pretrained=False, weights=None))
    model = build_model(bare).to(device)
    classes = find_dataset(recipe.data.set).classes
    loss = build_loss(recipe.loss, [1] * len(classes), classes=classes).to(device)
    images = torch.randn(count, 3, recipe.data.size, recipe.data.size, device=device)
    targets = torch.arange(count, device=device) % len(classes)

    def timed(step: Callable[[], None]) -> float:
        step()  # allocates memory and chooses algorithms
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / count

    def train() -> None:
        loss(model.train()(images), targets).mean().backward()

    @torch.no_grad()
    def predict() -> None:
        model.eval()(images)

    return timed(train), timed(predict)
