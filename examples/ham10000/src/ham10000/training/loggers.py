"""Loggers for TensorBoard and Weights & Biases: scalars, confusion, attention, model; traces."""

import hashlib
import importlib
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import yaml
from matplotlib.figure import Figure
from softattn.plot import overlay
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, schedule
from torch.utils.tensorboard import SummaryWriter

from ham10000.data import Augment, metadata_features
from ham10000.errors import TrainingError
from ham10000.evaluation import Predictions, confusion
from ham10000.recipe import Recipe, dump_recipe
from ham10000.training.run_dir import RunDir
from ham10000.training.session import Setup
from ham10000.training.state import Counters, TrainState

__all__ = ["Loggers", "attention_overlays", "open_loggers", "sample_images", "trace_steps"]

_LOG = logging.getLogger(__name__)
_NOT_SCALARS = ("epoch", "step", "split")
_WARMUP = 2
"""Number of steps before a trace starts."""


class Loggers:
    """The loggers of a run. Their failures are logged and do not stop training.

    Args:
        tensorboard: A TensorBoard writer.
        wandb: A W&B run.
        images: Number of validation images whose attention maps are shown.
    """

    def __init__(
        self, tensorboard: SummaryWriter | None = None, wandb: Any = None, images: int = 0
    ) -> None:
        self.tensorboard, self.wandb, self.images = tensorboard, wandb, images

    def add(
        self,
        setup: Setup,
        state: TrainState,
        train: dict[str, Any],
        validation: dict[str, Any],
        predictions: Predictions,
    ) -> None:
        """Log the metrics and predictions of an epoch."""
        scalars = _scalars("train", train) | _scalars(str(validation["split"]), validation)
        epoch, attention = int(validation["epoch"]), None
        if self.wandb is None and self.tensorboard is None:
            return
        try:
            if self.images and getattr(state.model, "has_attention", False):
                attention = attention_overlays(setup, state, self.images)
        except Exception as error:
            _LOG.error("No attention maps are logged in epoch %d: %s", epoch, error)
        split = setup.validation_split
        if self.wandb is not None:
            media: dict[str, Any] = {}
            try:
                media = _wandb_media(split, predictions, attention)
            except Exception as error:
                _LOG.error("No pictures of epoch %d in Weights & Biases: %s", epoch, error)
            try:
                self.wandb.log({**scalars, **media}, step=epoch)
            except Exception as error:
                _LOG.error("Logging epoch %d to Weights & Biases failed: %s", epoch, error)
        if self.tensorboard is not None:
            try:
                for name, value in scalars.items():
                    self.tensorboard.add_scalar(name, value, epoch)
                self.tensorboard.add_figure(
                    f"{split}/confusion", _confusion_figure(predictions), epoch
                )
                if attention is not None:
                    self.tensorboard.add_images(f"{split}/attention", attention, epoch)
                self.tensorboard.flush()
            except Exception as error:
                _LOG.error("TensorBoard is off from epoch %d on: %s", epoch, error)
                self.tensorboard = None

    def add_model(self, run: RunDir, recipe: Recipe) -> None:
        """Store the model of a finished run in Weights & Biases: best weights, recipe and split."""
        if self.wandb is None:
            return
        try:
            artifact = importlib.import_module("wandb").Artifact(
                f"model-{self.wandb.id}",
                type="model",
                description=f"Best weights of {recipe.name}, for ham10000.training.open_run",
                metadata={"recipe": recipe.name, "seed": recipe.seed},
            )
            for path in (run.recipe, run.split, run.best):
                artifact.add_file(str(path), name=path.relative_to(run.path).as_posix())
            self.wandb.log_artifact(artifact)
        except Exception as error:
            _LOG.error("Storing the model in Weights & Biases failed: %s", error)

    def close(self) -> None:
        """Flush and close all loggers."""
        try:
            if self.tensorboard is not None:
                self.tensorboard.close()
            if self.wandb is not None:
                self.wandb.finish()
        except Exception as error:
            _LOG.error("Closing the loggers failed: %s", error)


def open_loggers(recipe: Recipe, run: RunDir, epoch: int) -> Loggers:
    """Open the loggers of a recipe; TensorBoard discards events after the given epoch.

    Raises:
        TrainingError: W&B is requested and not installed.
    """
    logging_recipe = recipe.logging
    wandb = None
    if logging_recipe.wandb:
        try:
            module = importlib.import_module("wandb")
        except ImportError as error:
            raise TrainingError(
                "opening Weights & Biases: logging.wandb is true, and wandb is not installed. "
                "Install it with: pip install wandb"
            ) from error
        try:
            wandb = module.init(
                project="ham10000",
                name=recipe.name,
                dir=str(run.path),
                config=yaml.safe_load(dump_recipe(recipe)),
                resume="allow",
                id=hashlib.sha256(str(run.path.absolute()).encode()).hexdigest()[:16],
            )
        except Exception as error:  # no key, no network
            _LOG.error("Weights & Biases is off in this run: %s", error)
    tensorboard = None
    if logging_recipe.tensorboard:
        tensorboard = SummaryWriter(str(run.path / "tensorboard"), purge_step=epoch + 1)
    return Loggers(tensorboard, wandb, logging_recipe.attention_images)


def sample_images(targets: list[int], count: int) -> list[int]:
    """Return indices of images to show, always the same: the first of each class in turn.

    Example:
        >>> from ham10000.training.loggers import sample_images
        >>> sample_images([5, 5, 5, 4, 0, 0], count=4)
        [4, 3, 0, 5]
    """
    ranked = [
        (rank, label, index)
        for label in sorted(set(targets))
        for rank, index in enumerate(i for i, target in enumerate(targets) if target == label)
    ]
    return [index for _, _, index in sorted(ranked)[:count]]


@torch.no_grad()
def attention_overlays(setup: Setup, state: TrainState, count: int) -> Tensor:
    """Return some validation images, each next to its attention overlay: (N, 3, H, 2 W)."""
    model, recipe, device = state.evaluated_model, setup.recipe, setup.fabric.device
    data = setup.validation
    chosen = sample_images(data.targets, count)
    images, _ = data.read(chosen)
    augment = Augment("none", mean=recipe.model.mean, std=recipe.model.std)
    inputs = [augment(images, torch.arange(len(chosen)), epoch=0).to(device)]
    if data.metadata:
        inputs.append(metadata_features(data.metadata)[chosen].to(device))
    training = model.training
    model.eval()
    try:
        _, maps = model(*inputs, return_maps=True)
    finally:
        model.train(training)
    overlays = []
    for image, map_ in zip(images, maps.sum(1).cpu(), strict=True):
        shown = image.float() / 255
        overlays.append(torch.cat([shown, overlay(shown, map_).permute(2, 0, 1)], dim=2))
    return torch.stack(overlays)


@contextmanager
def trace_steps(setup: Setup, counters: Counters) -> Iterator[Callable[[], object]]:
    """Trace as many steps as logging.profile says, after two others, in the first epoch of a run.

    Yields a function to call after each step. The trace, for chrome://tracing or Perfetto, is
    written to the folder `profile` of the run.
    """
    steps = setup.recipe.logging.profile
    if not steps or counters.epoch or setup.rank:
        yield lambda: None
        return
    folder = setup.run.path / "profile"

    def write(done: profile) -> None:
        folder.mkdir(exist_ok=True)
        path = folder / "trace.json"
        done.export_chrome_trace(str(path))
        _LOG.info("Wrote the trace of %d steps to %s", steps, path)

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(
        activities=activities,
        schedule=schedule(wait=0, warmup=_WARMUP, active=steps, repeat=1),
        on_trace_ready=write,
        record_shapes=True,
    ) as tracer:
        yield tracer.step


def _scalars(split: str, record: dict[str, Any]) -> dict[str, float]:
    return {
        f"{split}/{name}": float(value)
        for name, value in record.items()
        if name not in _NOT_SCALARS and value is not None and math.isfinite(value)
    }


def _wandb_media(split: str, predictions: Predictions, attention: Tensor | None) -> dict[str, Any]:
    module = importlib.import_module("wandb")
    media: dict[str, Any] = {
        f"{split}/confusion": module.plot.confusion_matrix(
            y_true=predictions.targets.tolist(),
            preds=predictions.probabilities.argmax(axis=1).tolist(),
            class_names=list(predictions.classes),
            title=f"Confusion matrix, {split}",
        )
    }
    if attention is not None:
        pictures = (255 * attention).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        media[f"{split}/attention"] = [module.Image(picture) for picture in pictures]
    return media


def _confusion_figure(predictions: Predictions) -> Figure:
    counts = confusion(predictions.targets, predictions.probabilities)
    classes = predictions.classes
    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.subplots()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(classes)), classes, rotation=45)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for (row, column), count in _cells(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=7)
    return figure


def _cells(counts: Any) -> list[tuple[tuple[int, int], int]]:
    rows, columns = counts.shape
    return [((r, c), int(counts[r, c])) for r in range(rows) for c in range(columns)]
