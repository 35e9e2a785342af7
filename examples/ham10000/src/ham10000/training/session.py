"""Build a training session: an immutable setup and the initial mutable state."""

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor

from ham10000.data import (
    BALANCES,
    HAM10000,
    Augment,
    BatchLoader,
    EpochSampler,
    find_dataset,
)
from ham10000.errors import TrainingError, closest
from ham10000.evaluation import LOWER_IS_BETTER, metrics_of
from ham10000.models import LesionClassifier, build_model
from ham10000.recipe import Recipe
from ham10000.training.data import EpochPlan, open_split, open_train, splits_of
from ham10000.training.losses import (
    ClassLoss,
    MultiWeightedLoss,
    build_loss,
    confirmation_weights,
)
from ham10000.training.optim import average_weights, build_optimizer, build_schedule
from ham10000.training.reproducibility import seed_all
from ham10000.training.run_dir import RunDir
from ham10000.training.state import TrainState

if TYPE_CHECKING:
    from lightning_fabric import Fabric
from ham10000.utils import read_text

__all__ = [
    "Setup",
    "build_session",
    "check_monitor",
    "class_frequencies",
    "convert_sync_norms",
    "wrap_model",
]


@dataclass(frozen=True)
class Setup:
    """Everything that stays the same during a run, on this rank.

    Sampler and loader have a position of their own, the epoch, which `Counters` determine.
    """

    recipe: Recipe
    run: RunDir
    split_text: str
    """Content of split.csv, which every checkpoint holds."""
    fabric: "Fabric"
    train_data: HAM10000
    validation: HAM10000
    """Images that are evaluated after each epoch."""
    validation_split: str
    """Name of their split: val, or test if the run has no val."""
    loss: ClassLoss | MultiWeightedLoss
    augment: Augment
    plan: EpochPlan
    sampler: EpochSampler
    loader: BatchLoader
    """Training batches of this rank, augmented if training runs on the CPU."""

    @property
    def rank(self) -> int:
        """Rank of this process."""
        return int(self.fabric.global_rank)


def build_session(
    recipe: Recipe, run: RunDir, cache: Path, fabric: "Fabric"
) -> tuple[Setup, TrainState]:
    """Build the session of a recipe: data, model, optimizer and schedule.

    Raises:
        Ham10000Error: The recipe cannot be trained here.
    """
    check_monitor(recipe)
    # Only the seed determines the initial weights, so all ranks start with the same.
    torch.manual_seed(recipe.seed)
    model = _build_model(recipe, fabric)
    seed_all(recipe.seed, fabric.global_rank)
    split_text = read_text(run.split, f"reading {run.split}")
    validation_split = "val" if "val" in splits_of(run) else "test"
    metadata = recipe.data.metadata
    train_data = open_train(cache, run, recipe.data)
    train_data.weights = confirmation_weights(recipe.loss, train_data.table)
    validation = open_split(cache, run, validation_split, metadata=metadata)
    sampler = EpochSampler(
        train_data.targets,
        recipe.data.balance,
        recipe.seed,
        num_samples=recipe.data.epoch_samples,
        rank=fabric.global_rank,
        num_replicas=fabric.world_size,
    )
    plan = EpochPlan(
        sampler.num_samples,
        recipe.training.batch_size,
        fabric.world_size,
        recipe.optimizer.accumulate,
    )
    state = _build_state(recipe, model, plan)
    classes = train_data.classes
    counts = torch.bincount(torch.tensor(train_data.targets), minlength=len(classes))
    augment = Augment(
        recipe.data.augment, recipe.seed, mean=recipe.model.mean, std=recipe.model.std
    )
    on_cpu = fabric.device.type == "cpu"
    setup = Setup(
        recipe=recipe,
        run=run,
        split_text=split_text,
        fabric=fabric,
        train_data=train_data,
        validation=validation,
        validation_split=validation_split,
        loss=build_loss(recipe.loss, counts, class_frequencies(recipe, counts), classes).to(
            fabric.device
        ),
        augment=augment,
        plan=plan,
        sampler=sampler,
        loader=BatchLoader(
            train_data,
            sampler,
            plan.batch_size // plan.replicas,
            augment if on_cpu else None,
            workers=recipe.data.workers,
            reuse_memory=on_cpu,
            pin_memory=not on_cpu,
        ),
    )
    return setup, state


def wrap_model(setup: Setup, state: TrainState, *, head_only: bool) -> None:
    """Freeze or unfreeze the backbone, and wrap model and optimizer for all ranks.

    DDP fixes the set of parameters with gradients when it is built, so it is built again when that
    set changes. Weights and the state of the optimizer stay.
    """
    if state.head_only == head_only:
        return
    state.wrapped_model = state.wrapped_optimizer = None
    gc.collect()  # the hooks of an old DDP stay active until it is collected
    if head_only:
        state.model.freeze_backbone()
    else:
        state.model.unfreeze_backbone()
    module: torch.nn.Module = state.model
    if setup.recipe.training.compile:
        module = torch.compile(module)  # type: ignore[assignment]
    state.wrapped_model, state.wrapped_optimizer = setup.fabric.setup(module, state.optimizer)
    state.head_only = head_only


def convert_sync_norms(model: LesionClassifier) -> LesionClassifier:
    """Replace the batch norms of a model by ones that normalize over all ranks.

    timm's norm layers include the activation that follows, which torch's own conversion drops.
    """
    converted: LesionClassifier = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted


def _build_model(recipe: Recipe, fabric: "Fabric") -> LesionClassifier:
    model = build_model(recipe)
    if recipe.training.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if recipe.training.sync_batchnorm and fabric.world_size > 1:
        if fabric.device.type == "cpu":
            raise TrainingError(
                "building the model: training.sync_batchnorm needs GPUs, and this run is on CPUs. "
                "Set it to false, or train in one process."
            )
        model = convert_sync_norms(model)
    return model.to(fabric.device)


def _build_state(recipe: Recipe, model: LesionClassifier, plan: EpochPlan) -> TrainState:
    optimizer = build_optimizer(recipe.optimizer, model, fused=recipe.training.precision != "fp16")
    return TrainState(
        model=model,
        ema=average_weights(model, recipe.training.ema),
        optimizer=optimizer,
        schedule=build_schedule(
            recipe.schedule, optimizer, plan.steps, recipe.training.epochs, recipe.training.mode
        ),
    )


def check_monitor(recipe: Recipe) -> None:
    """Check that the metrics that select weights and stop training exist, and their directions.

    Raises:
        TrainingError: One of them is not a metric, or its mode selects the worst value.
    """
    for field, more in (("monitor", ["epoch"]), ("stop_monitor", [])):
        known = ("loss", *more, *metrics_of(find_dataset(recipe.data.set).classes))
        name = getattr(recipe.training, field)
        if name is not None and name not in known:
            raise TrainingError(
                f"building the session: training.{field} {name!r} is not a metric. "
                f"{closest(name, known)}"
            )
        mode = field.replace("monitor", "mode")
        best = "min" if name in ("loss", *LOWER_IS_BETTER) else "max"
        if name is not None and getattr(recipe.training, mode) != best:
            raise TrainingError(
                f"building the session: training.{field} is {name}, whose best value is its "
                f"{best}imum, and training.{mode} is {getattr(recipe.training, mode)}. Set "
                f"training.{mode}={best}."
            )
    needs = "schedule.name plateau" if recipe.schedule.name == "plateau" else ""
    if recipe.training.patience is not None and recipe.training.stop_monitor is None:
        needs = "training.patience"
    if needs and recipe.training.monitor == "epoch":
        raise TrainingError(
            f"building the session: {needs} waits for a metric to improve, and training.monitor is "
            "epoch, which always does. Set training.monitor to a metric."
        )


def class_frequencies(recipe: Recipe, counts: Tensor) -> Tensor:
    """Return how often each class is sampled, in any unit, from the counts of the training set."""
    return torch.where(counts > 0, counts.double() ** BALANCES[recipe.data.balance], 0.0)
