"""Estimates of how long runs will take, and a list of runs with them."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from ham10000.data import PUBLISHED_SPLIT, find_dataset
from ham10000.models import build_model
from ham10000.recipe import Recipe
from ham10000.study.plan import PlannedRun
from ham10000.training import RunDir, build_loss

__all__ = ["describe_plan", "estimate_seconds"]


def estimate_seconds(recipes: Iterable[Recipe], table: pd.DataFrame) -> list[float]:
    """Estimate how long each recipe trains, from one step of its model on this machine.

    Early stopping can end a run earlier. The time to make an augmented set is not included.

    Args:
        recipes: Resolved recipes, with the protocol paper or published.
        table: Metadata table of the data set.
    """
    speeds: dict[str, tuple[float, float]] = {}
    found = []
    for recipe in recipes:
        key = repr((recipe.model, recipe.attention, recipe.data.size))
        speeds[key] = speeds.get(key) or _seconds_per_image(recipe)
        train, predict = speeds[key]
        own, validated, test = _split_sizes(recipe, table)
        samples, epochs = recipe.data.epoch_samples or own, recipe.training.epochs
        # Each epoch ends with a validation, and the run with predictions of the test set.
        views = recipe.training.tta * recipe.training.crops
        found.append(epochs * samples * train + (epochs * validated + views * test) * predict)
    return found


def _split_sizes(recipe: Recipe, table: pd.DataFrame) -> tuple[int, int, int]:
    """Return the number of images for training, validation and test."""
    if recipe.data.protocol == "published":
        counts = table[PUBLISHED_SPLIT].value_counts()
        return int(counts["train"]), int(counts.get("val", 0)), int(counts["test"])
    single = (table.groupby("lesion_id")["image_id"].transform("size") == 1).sum()
    test = round(int(single) * recipe.data.test_share)
    return len(table) - test, test, test  # the authors validate on the test set


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
        _synchronize(device)
        start = time.perf_counter()
        step()
        _synchronize(device)
        return (time.perf_counter() - start) / count

    def train() -> None:
        loss(model.train()(images), targets).mean().backward()

    @torch.no_grad()
    def predict() -> None:
        model.eval()(images)

    return timed(train), timed(predict)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def describe_plan(
    runs: Mapping[PlannedRun, Recipe], seconds: Sequence[float], out: Path
) -> list[str]:
    """Return a line for each run with its state and estimate, and one for their sum.

    Example:
        >>> from pathlib import Path
        >>> from ham10000.recipe import load_recipe
        >>> from ham10000.study import PlannedRun, describe_plan
        >>> runs = {PlannedRun("irv2", 0): load_recipe("irv2")}
        >>> for line in describe_plan(runs, [9000.0], Path("out")): print(line)
        runs/irv2-seed0: timm:inception_resnet_v2.tf_in1k, 299 pixels, at most 2 h 30 min
        1 of 1 runs to train, at most 2 h 30 min on this machine, one after the other

    Args:
        runs: Runs with their recipes.
        seconds: From `estimate_seconds`.
        out: Folder with the folder `runs`.
    """
    lines, total, missing = [], 0.0, 0
    for (run, recipe), duration in zip(runs.items(), seconds, strict=True):
        done = RunDir(out / run.folder).done
        state = "finished" if done else f"at most {_duration(duration)}"
        total += 0.0 if done else duration
        missing += not done
        lines.append(f"{run.folder}: {recipe.model.backbone}, {recipe.data.size} pixels, {state}")
    lines.append(
        f"{missing} of {len(runs)} runs to train, at most {_duration(total)} on this machine, one "
        "after the other"
    )
    return lines


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"
