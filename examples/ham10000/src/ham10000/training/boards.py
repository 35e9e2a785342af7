"""TensorBoard and Weights & Biases: scalars, the confusion matrix, and where attention goes."""

import hashlib
import importlib
import logging
import math
from dataclasses import asdict
from typing import Any

import torch
from matplotlib.figure import Figure
from softattn.plot import overlay
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ham10000.data import CLASSES, Augment, metadata_features
from ham10000.errors import TrainingError
from ham10000.evaluation import Predictions, confusion
from ham10000.recipe import Recipe
from ham10000.training.folder import RunFolder
from ham10000.training.session import Session

__all__ = ["Boards", "attention_pictures", "fixed_images", "open_boards"]

_LOG = logging.getLogger(__name__)
_APART = ("epoch", "step", "split")


class Boards:
    """What is written for dashboards; whatever goes wrong there doesn't stop a run.

    Args:
        tensorboard: a writer, if there is one.
        wandb: a run of W&B, if there is one.
        images: of how many validation images the attention is shown.
    """

    def __init__(
        self, tensorboard: SummaryWriter | None = None, wandb: Any = None, images: int = 0
    ) -> None:
        self.tensorboard, self.wandb, self.images = tensorboard, wandb, images

    def add(
        self,
        session: Session,
        train: dict[str, Any],
        validation: dict[str, Any],
        predictions: Predictions,
    ) -> None:
        """Add what an epoch gave."""
        scalars = _scalars("train", train) | _scalars(str(validation["split"]), validation)
        epoch = int(validation["epoch"])
        if self.wandb is not None:
            try:
                self.wandb.log(scalars, step=epoch)
            except Exception as error:
                _LOG.error("Weights & Biases got nothing of epoch %d: %s", epoch, error)
        if self.tensorboard is not None:
            try:
                self._draw(self.tensorboard, session, scalars, predictions, epoch)
            except Exception as error:
                _LOG.error("TensorBoard got nothing more from epoch %d on: %s", epoch, error)
                self.tensorboard = None

    def _draw(
        self,
        writer: SummaryWriter,
        session: Session,
        scalars: dict[str, float],
        predictions: Predictions,
        epoch: int,
    ) -> None:
        for name, value in scalars.items():
            writer.add_scalar(name, value, epoch)
        counts = confusion(predictions.targets, predictions.probabilities)
        writer.add_figure(f"{session.split}/confusion", _confusion_figure(counts), epoch)
        if self.images and getattr(session.model, "has_attention", False):
            pictures = attention_pictures(session, self.images)
            writer.add_images(f"{session.split}/attention", pictures, epoch)
        writer.flush()

    def close(self) -> None:
        """Write what is left."""
        try:
            if self.tensorboard is not None:
                self.tensorboard.close()
            if self.wandb is not None:
                self.wandb.finish()
        except Exception as error:
            _LOG.error("Closing the boards: %s", error)


def open_boards(recipe: Recipe, run: RunFolder, epoch: int) -> Boards:
    """Open what a recipe asks for; what was written after an epoch is forgotten there.

    Raises:
        TrainingError: W&B is asked for and isn't installed.
    """
    logging_recipe = recipe.logging
    wandb = None
    if logging_recipe.wandb:
        try:
            module = importlib.import_module("wandb")
        except ImportError as error:
            raise TrainingError(
                "opening Weights & Biases: logging.wandb is set, and it isn't installed. "
                "Install it with: pip install wandb"
            ) from error
        try:
            wandb = module.init(
                project="ham10000",
                name=recipe.name,
                dir=str(run.path),
                config=asdict(recipe),
                resume="allow",
                id=hashlib.sha256(str(run.path.absolute()).encode()).hexdigest()[:16],
            )
        except Exception as error:  # no key, no network
            _LOG.error("Weights & Biases gets nothing of this run: %s", error)
    tensorboard = None
    if logging_recipe.tensorboard:
        tensorboard = SummaryWriter(str(run.path / "tensorboard"), purge_step=epoch + 1)
    return Boards(tensorboard, wandb, logging_recipe.attention_images)


def fixed_images(targets: list[int], count: int) -> list[int]:
    """Choose images to look at, the same each time: of each class in turn, the first ones.

    Example:
        >>> from ham10000.training.boards import fixed_images
        >>> fixed_images([5, 5, 5, 4, 0, 0], count=4)
        [4, 3, 0, 5]
    """
    places = [
        (rank, label, index)
        for label in range(len(CLASSES))
        for rank, index in enumerate(i for i, target in enumerate(targets) if target == label)
    ]
    return [index for _, _, index in sorted(places)[:count]]


@torch.no_grad()
def attention_pictures(session: Session, count: int) -> Tensor:
    """Lay attention over some validation images: (N, 3, H, 2 W), each image beside its overlay."""
    model, recipe, device = session.evaluated, session.recipe, session.fabric.device
    chosen = fixed_images(session.validation.targets, count)
    images, _ = session.validation.read(chosen)
    augment = Augment("none", mean=recipe.model.mean, std=recipe.model.std)
    inputs = [augment(images, torch.arange(len(chosen)), epoch=0).to(device)]
    if session.validation.metadata:
        inputs.append(metadata_features(session.validation.metadata)[chosen].to(device))
    training = model.training
    model.eval()
    try:
        _, maps = model(*inputs, return_maps=True)
    finally:
        model.train(training)
    pictures = []
    for image, map_ in zip(images, maps.sum(1).cpu(), strict=True):
        shown = image.float() / 255
        pictures.append(torch.cat([shown, overlay(shown, map_).permute(2, 0, 1)], dim=2))
    return torch.stack(pictures)


def _scalars(split: str, record: dict[str, Any]) -> dict[str, float]:
    return {
        f"{split}/{name}": float(value)
        for name, value in record.items()
        if name not in _APART and value is not None and math.isfinite(value)
    }


def _confusion_figure(counts: Any) -> Figure:
    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.subplots()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=45)
    axes.set_yticks(range(len(CLASSES)), CLASSES)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for (row, column), count in _cells(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=7)
    return figure


def _cells(counts: Any) -> list[tuple[tuple[int, int], int]]:
    rows, columns = counts.shape
    return [((r, c), int(counts[r, c])) for r in range(rows) for c in range(columns)]
