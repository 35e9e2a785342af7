"""Images of a run with what its model said of them: which to show, and what there is to show."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ham10000.data.facts import CLASSES
from ham10000.data.images import read_mask, resize
from ham10000.data.layout import data_folder, open_folder
from ham10000.errors import ArgumentError, MissingDataError, closest
from ham10000.evaluation.attribution import attention_maps
from ham10000.evaluation.gaze import reader
from ham10000.evaluation.looking import image_network
from ham10000.evaluation.predictions import Predictions
from ham10000.reporting.pictures import Case
from ham10000.training.run import Run

__all__ = ["choose", "gallery", "make_cases"]


def choose(
    predictions: Predictions,
    images: Sequence[str] = (),
    *,
    worst: int | None = None,
    dx: str | None = None,
) -> list[str]:
    """Choose images by their names, their class, or how wrong the model is about them.

    Args:
        predictions: of a run.
        images: their names, as ISIC_0024306; all unless given.
        worst: so many of them whose true class got the least probability.
        dx: only those of this class.

    Returns:
        Names, the worst first where `worst` is given.

    Raises:
        ArgumentError: an image or class is not there, or there is nothing to show.
    """
    doing = "choosing images to explain"
    table = predictions.table
    if dx is not None and dx not in CLASSES:
        raise ArgumentError(f"{doing}: there is no class {dx!r}. {closest(dx, CLASSES)}")
    if worst is not None and worst < 1:
        raise ArgumentError(f"{doing}: worst must be at least 1, found {worst}.")
    known = table["image_id"].tolist()
    for name in images:
        if name not in known:
            raise ArgumentError(
                f"{doing}: the predictions have no image {name!r}. {closest(name, known)}"
            )
    truth = predictions.probabilities[np.arange(len(table)), predictions.targets]
    rows = table[["image_id", "dx"]].assign(truth=truth)
    if images:
        rows = rows.set_index("image_id").loc[list(images)].reset_index()
    if dx is not None:
        rows = rows[rows["dx"] == dx]
    if worst is not None:
        rows = rows.sort_values("truth", kind="stable").head(worst)
    if rows.empty:
        raise ArgumentError(f"{doing}: none of these images is of the class {dx}.")
    return [str(name) for name in rows["image_id"]]


def gallery(predictions: Predictions, each: int = 1, seed: int = 0) -> list[str]:
    """Draw images of every class, so many that the model is right about and as many not.

    Args:
        predictions: of a run.
        each: how many of a class that are right, and how many that are wrong.
        seed: of the draw. They are drawn and not chosen, so that the gallery doesn't flatter.
    """
    right = predictions.probabilities.argmax(axis=1) == predictions.targets
    table = predictions.table[["image_id", "dx"]].assign(right=right)
    drawn = table.sample(frac=1, random_state=seed)
    names: list[str] = []
    for dx in CLASSES:
        for kind in (True, False):
            rows = drawn[(drawn["dx"] == dx) & (drawn["right"] == kind)]
            names += rows["image_id"].head(each).tolist()
    return names


def make_cases(
    run: Run,
    predictions: Predictions,
    names: Sequence[str],
    *,
    side: str = "test",
    data: Path | None = None,
    batch_size: int = 32,
) -> Iterator[Case]:
    """Read images, their masks where there are some, and the model's attention to them.

    Args:
        run: from `open_run`.
        predictions: its own, which hold the images.
        names: of the images.
        side: where they are: "train", "val" or "test".
        data: the data set's folder, for the masks; the recipe's unless given.
        batch_size: of images.

    Raises:
        Ham10000Error: something of the run or the data set is not there or damaged.
    """
    images = run.dataset(side)
    places = pd.Index(images.table["image_id"]).get_indexer(pd.Index(names))
    if (places < 0).any():
        name = names[int((places < 0).argmax())]
        raise MissingDataError(f"explaining {name}: the run's side {side} doesn't have this image.")
    model = run.load_model()
    network, read = image_network(model), reader(run, images)
    masks = open_folder(data_folder(data if data is not None else run.recipe.data.root)).masks
    rows_of = {name: row for row, name in enumerate(predictions.table["image_id"])}
    for start in range(0, len(names), batch_size):
        rows = places[start : start + batch_size].tolist()
        pixels = images.read(rows)[0]
        maps = attention_maps(network, read(rows)) if model.has_attention else None
        for number, name in enumerate(names[start : start + batch_size]):
            mask = None
            if name in masks:
                mask = resize(read_mask(masks[name]), pixels.shape[-1], mask=True)[0].bool()
            yield Case(
                image_id=name,
                truth=CLASSES[predictions.targets[rows_of[name]]],
                probabilities=dict(
                    zip(CLASSES, predictions.probabilities[rows_of[name]].tolist(), strict=True)
                ),
                image=pixels[number].to(torch.uint8),
                attention=None if maps is None else maps[number],
                mask=mask,
            )
