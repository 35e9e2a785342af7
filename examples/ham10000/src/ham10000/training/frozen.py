"""Train attention and head on the feature maps of a frozen backbone.

A run takes seconds. It has no checkpoints and needs neither a launcher nor processes of its own: an
interrupted run is trained again from the start, with the same result.
"""

import hashlib
import json
import logging
import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ham10000.data import EpochSampler, find_dataset, read_split, split_rows
from ham10000.errors import MissingDataError, RecipeError, SplitError, TrainingError
from ham10000.evaluation import (
    Predictions,
    make_predictions,
    round_probabilities,
    summarize,
    write_predictions,
)
from ham10000.models import (
    FeatureMaps,
    LesionClassifier,
    build_model,
    extract_features,
    hash_weights,
)
from ham10000.recipe import Recipe, dump_recipe
from ham10000.training.checkpoint_file import VERSION, write_checkpoint
from ham10000.training.data import EpochPlan, find_features, prepare_data
from ham10000.training.journal import log_to, without_nan, write_metrics
from ham10000.training.losses import (
    ClassLoss,
    MultiWeightedLoss,
    build_loss,
    confirmation_weights,
)
from ham10000.training.optim import Schedule, average_weights, build_optimizer, build_schedule
from ham10000.training.reproducibility import describe_environment
from ham10000.training.run_dir import RunDir, claim_run, lock_run
from ham10000.training.session import check_monitor, class_frequencies
from ham10000.training.state import Counters, RunningMetrics
from ham10000.utils import write_text

__all__ = ["check_frozen", "load_head", "train_frozen", "train_head"]

_LOG = logging.getLogger(__name__)
_BATCH = 256
"""Number of maps per batch of predictions."""
_PREFIX = "network."
"""Prefix of the parameter names of attention and head in a `LesionClassifier`."""


def train_frozen(recipe: Recipe, out: Path) -> None:
    """Train a recipe with `model.frozen`, and store the run in a folder.

    The split, the image cache and the features are created if they are missing. A finished run is
    left unchanged; an interrupted run is trained again.

    Args:
        recipe: The recipe to train.
        out: The folder of the run.

    Raises:
        Ham10000Error: The recipe cannot be trained.
    """
    check_frozen(recipe)
    with lock_run(out):
        run, recipe = claim_run(out, recipe)
        with log_to(run.log, shown=True):
            if run.done:
                _LOG.info("This run is already finished")
                return
            cache = prepare_data(run, recipe)
            folder = find_features(run, recipe)
            features = extract_features(recipe, cache, folder, check=recipe.data.check_cache)
            train_head(recipe, run, features)
            _LOG.info("%s: trained on the features %s", recipe.name, folder)


def check_frozen(recipe: Recipe) -> None:
    """Check that a recipe has no settings that cannot apply to stored feature maps.

    Example:
        >>> from ham10000.recipe import ModelRecipe, Recipe
        >>> from ham10000.training import check_frozen
        >>> check_frozen(Recipe("frozen", model=ModelRecipe(frozen=True)))
        Traceback (most recent call last):
            ...
        ham10000.errors.RecipeError: training frozen: the feature maps of a frozen backbone are...

    Args:
        recipe: Recipe with `model.frozen`.

    Raises:
        RecipeError: The recipe has such a setting.
    """
    required = {
        "data.augment": (recipe.data.augment, "none"),
        "data.mix": (recipe.data.mix, "none"),
        "data.metadata": (recipe.data.metadata, False),
        "model.drop_block_rate": (recipe.model.drop_block_rate, 0.0),
        "optimizer.accumulate": (recipe.optimizer.accumulate, 1),
        "training.tta": (recipe.training.tta, 1),
        "training.crops": (recipe.training.crops, 1),
        "training.precision": (recipe.training.precision, "32"),
        "training.compile": (recipe.training.compile, False),
        "training.head_first_epochs": (recipe.training.head_first_epochs, 0),
    }
    wrong = {name: pair for name, pair in required.items() if pair[0] != pair[1]}
    if wrong:
        name, (found, expected) = next(iter(wrong.items()))
        raise RecipeError(
            f"training {recipe.name}: the feature maps of a frozen backbone are computed once from "
            f"each image, so {name} cannot be {found!r}. Set {name}={expected!r}, or "
            "model.frozen=false."
        )


def train_head(recipe: Recipe, run: RunDir, features: FeatureMaps) -> None:
    """Train attention and head of a run, and write its weights, metrics and predictions.

    Training runs on one thread, so the result does not depend on the number of cores.

    Args:
        recipe: The recipe of the run.
        run: The folder of the run, with its split.
        features: The features of all images.

    Raises:
        Ham10000Error: The split is invalid, or training diverges.
    """
    with _one_thread():
        session = _build_session(recipe, run, features)
        environment = describe_environment(torch.device("cpu"), processes=1)
        write_text(run.environment, json.dumps(environment, indent=2) + "\n")
        best: dict[str, Any] | None = None
        counters, training = Counters(), recipe.training
        while not counters.finished(training.epochs, training.patience):
            _train_epoch(session, counters)
            if _end_epoch(session, counters):
                best = {
                    name: value.clone() for name, value in session.evaluated.state_dict().items()
                }
        if best is None:
            raise TrainingError(
                f"finishing {run.path}: training.monitor {training.monitor} was NaN in every "
                "epoch. Choose another metric, such as log_loss."
            )
        _check_split(run, session.split_hash)
        session.evaluated.load_state_dict(best)
        predicted = {
            split: _predict(session, split) for split in ("val", "test") if split in session.rows
        }
        if "val" not in predicted:
            counters.records.append(without_nan(_record(counters, predicted["test"], "test")))
        content = {
            "version": VERSION,
            "recipe": dump_recipe(recipe),
            "split": session.split_hash,
            "classes": find_dataset(recipe.data.set).classes,
            "backbone": features.weights,
            "model": {f"{_PREFIX}{name}": value for name, value in best.items()},
            "epoch": counters.best_epoch,
        }
        write_checkpoint(run.best, content)
        write_metrics(run, counters)
        # The test set comes last, because its file marks the run as done.
        for split, predictions in predicted.items():
            write_predictions(predictions, run.predictions(split))


def load_head(model: LesionClassifier, content: dict[str, Any], run: RunDir) -> None:
    """Load trained attention and head into a complete model.

    Args:
        model: The model, with the pretrained weights of its backbone.
        content: Content of the run's file of best weights.
        run: The folder of the run.

    Raises:
        SplitError: The split was changed after training.
        TrainingError: The weights of the backbone differ from those used in training.
    """
    doing = f"loading the model of {run.path}"
    if run.split.exists() and _hash_split(run) != content["split"]:
        raise SplitError(
            f"{doing}: split.csv was changed after training. Change it back, or train in another "
            "folder."
        )
    if hash_weights(model.network.backbone) != content["backbone"]:
        raise TrainingError(
            f"{doing}: the weights of the backbone are not those that its features were computed "
            "with. Restore the file in model.weights, or train in another folder."
        )
    own = {name for name in model.state_dict() if not name.startswith("network.backbone.")}
    if own != set(content["model"]):
        raise TrainingError(f"{doing}: its weights are of another attention or head.")
    model.load_state_dict(content["model"], strict=False)


@dataclass
class _Session:
    recipe: Recipe
    features: FeatureMaps
    split_hash: str
    """SHA-256 of split.csv."""
    rows: dict[str, npt.NDArray[np.int64]]
    """Rows of each split."""
    targets: Tensor
    """Class of each row."""
    head: nn.Module
    """Attention and head."""
    evaluated: nn.Module
    """The same, or its moving average."""
    loss: ClassLoss | MultiWeightedLoss
    weights: Tensor | None
    """Weight of each row in the loss."""
    sampler: EpochSampler
    plan: EpochPlan
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    ema: AveragedModel | None
    metrics: RunningMetrics


def _build_session(recipe: Recipe, run: RunDir, features: FeatureMaps) -> _Session:
    check_monitor(recipe)
    split, training = read_split(run.split, features.table), recipe.training
    rows = {
        name: np.array(split_rows(split, features.table, name), dtype=np.int64)
        for name in ("train", "val", "test")
        if (split["split"] == name).any()
    }
    selects = training.monitor != "epoch" or training.patience is not None
    if "val" not in rows and (selects or recipe.schedule.name == "plateau"):
        raise RecipeError(
            f"training {recipe.name}: the split has no validation set, and {training.monitor} "
            "selects the weights. Set training.monitor=epoch training.mode=max "
            "training.patience=null, or use a split with one."
        )
    classes = find_dataset(recipe.data.set).classes
    names = {name: index for index, name in enumerate(classes)}
    targets = torch.tensor([names[name] for name in features.table["dx"]])
    torch.manual_seed(recipe.seed)
    _, channels, height, width = features.maps.shape
    model = build_model(recipe, feature_map=(channels, height, width))
    head = nn.Sequential(
        OrderedDict(attention=model.network.attention, head=model.network.head)
    ).train()
    own = targets[rows["train"]]
    sampler = EpochSampler(
        own.tolist(), recipe.data.balance, recipe.seed, num_samples=recipe.data.epoch_samples
    )
    plan = EpochPlan(sampler.num_samples, training.batch_size)
    counts = torch.bincount(own, minlength=len(classes))
    optimizer = build_optimizer(recipe.optimizer, model, fused=True)
    ema = average_weights(head, training.ema)
    return _Session(
        recipe=recipe,
        features=features,
        split_hash=_hash_split(run),
        rows=rows,
        targets=targets,
        head=head,
        evaluated=head if ema is None else ema.module,
        loss=build_loss(recipe.loss, counts, class_frequencies(recipe, counts), classes),
        weights=confirmation_weights(recipe.loss, features.table),
        sampler=sampler,
        plan=plan,
        optimizer=optimizer,
        schedule=build_schedule(
            recipe.schedule, optimizer, plan.steps, training.epochs, training.mode
        ),
        ema=ema,
        metrics=RunningMetrics(),
    )


def _train_epoch(session: _Session, counters: Counters) -> None:
    recipe, size = session.recipe, session.plan.batch_size
    session.head.train()
    session.sampler.set_epoch(counters.epoch)
    session.loss.set_epoch(counters.epoch)
    drawn = session.rows["train"][session.sampler.draw().numpy()]
    for step in range(session.plan.steps):
        rows = drawn[step * size : (step + 1) * size]
        targets = session.targets[rows]
        logits = session.head(session.features.read(rows))
        losses = session.loss(logits, targets)
        if session.weights is not None:
            losses = losses * session.weights[rows]
        mean = losses.mean()
        if not math.isfinite(mean.item()):
            raise TrainingError(
                f"training {recipe.name}: the loss of step {counters.step + 1} is not finite. "
                "Lower optimizer.lr, or set optimizer.clip_norm."
            )
        session.optimizer.zero_grad()
        mean.backward()
        if recipe.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(session.head.parameters(), recipe.optimizer.clip_norm)
        session.optimizer.step()
        session.schedule.step()
        if session.ema is not None:
            session.ema.update_parameters(session.head)
        session.metrics.add(losses.detach(), logits.detach(), targets)
        counters.step += 1


def _end_epoch(session: _Session, counters: Counters) -> bool:
    """Record an epoch, and return whether its weights are the best so far."""
    training = session.recipe.training
    counters.epoch += 1
    common = {"epoch": counters.epoch, "step": counters.step}
    lr = session.schedule.lr
    counters.records.append({**common, "split": "train", **session.metrics.summarize(), "lr": lr})
    session.metrics = RunningMetrics()
    measured: dict[str, Any] = {"epoch": counters.epoch}
    if "val" in session.rows:
        measured |= _record(counters, _predict(session, "val"), "val")
        counters.records.append(without_nan(measured))
    value = measured[training.monitor]
    session.schedule.step(value)
    if training.stop_monitor is None:
        counters.update_patience(value, training.mode, training.min_delta)
    elif training.stop_monitor in measured:
        stop = measured[training.stop_monitor]
        counters.update_patience(stop, training.stop_mode, training.min_delta)
    return counters.update_best(value, training.mode)


def _record(counters: Counters, predictions: Predictions, split: str) -> dict[str, Any]:
    """Return a line of metrics.jsonl."""
    measured = summarize(predictions.targets, predictions.probabilities, predictions.classes)
    return {
        "epoch": counters.epoch,
        "step": counters.step,
        "split": split,
        "loss": measured["log_loss"],
        **measured,
    }


@torch.no_grad()
def _predict(session: _Session, split: str) -> Predictions:
    rows, head = session.rows[split], session.evaluated.eval()
    parts = [
        head(session.features.read(rows[start : start + _BATCH])).double().softmax(1)
        for start in range(0, len(rows), _BATCH)
    ]
    table = session.features.table.iloc[rows][["image_id", "lesion_id", "dx"]]
    known = table.reset_index(drop=True).assign(split=split)
    classes = find_dataset(session.recipe.data.set).classes
    return make_predictions(known, round_probabilities(torch.cat(parts)), "predicting", classes)


def _check_split(run: RunDir, trained: str) -> None:
    """Check that split.csv is still the one of the training."""
    if _hash_split(run) != trained:
        raise SplitError(
            f"training {run.path}: split.csv was changed during training, so predictions would be "
            f"of other images. Train again with: ham10000 train --resume {run.path}"
        )


def _hash_split(run: RunDir) -> str:
    try:
        return hashlib.sha256(run.split.read_bytes()).hexdigest()
    except OSError as error:
        raise MissingDataError(
            f"training {run.path}: split.csv cannot be read any more ({error}). It is made again "
            f"by: ham10000 train --resume {run.path}"
        ) from error


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
