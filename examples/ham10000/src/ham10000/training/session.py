"""All that a training run works with, built from its recipe, and as a checkpoint has it."""

from dataclasses import dataclass
from dataclasses import field as of
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ham10000.data import BALANCES, CLASSES, HAM10000, Augment, BatchLoader, EpochSampler
from ham10000.errors import CheckpointError, TrainingError, closest
from ham10000.evaluation import METRICS
from ham10000.models import LesionClassifier, build_model
from ham10000.recipe import Recipe, dump_recipe
from ham10000.training.averaging import average_weights
from ham10000.training.consistency import (
    load_recipe_text,
    refuse_other_recipe,
    refuse_other_split,
)
from ham10000.training.folder import RunFolder
from ham10000.training.inputs import open_split, splits_of
from ham10000.training.losses import ClassLoss, build_loss
from ham10000.training.optimizers import build_optimizer
from ham10000.training.plan import EpochPlan
from ham10000.training.processes import gather
from ham10000.training.randomness import random_state, seed_all, set_random_state
from ham10000.training.schedules import Schedule, build_schedule
from ham10000.training.state import State
from ham10000.training.tally import Tally

__all__ = [
    "VERSION",
    "Session",
    "build_session",
    "check_version",
    "restore",
    "snapshot",
    "synchronize",
]

VERSION = 2
"""Version of the content of a checkpoint."""


@dataclass
class Session:
    """The parts of a run on this rank."""

    recipe: Recipe
    run: RunFolder
    split_text: str
    """Content of split.csv, which every checkpoint holds."""
    fabric: Fabric
    data: HAM10000
    """What trains."""
    validation: HAM10000
    """What is evaluated after each epoch."""
    split: str
    """Which split that is: val, or test where the split has no val."""
    model: LesionClassifier
    """As it was built; `wrapped` is the same with what Fabric puts around it."""
    ema: AveragedModel | None
    loss: ClassLoss
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    sampler: EpochSampler
    plan: EpochPlan
    augment: Augment
    loader: BatchLoader
    """Of what trains, augmented where that is done on the CPU."""
    state: State = of(default_factory=State)
    tally: Tally = of(default_factory=Tally)
    wrapped: Any = None
    stepper: Any = None
    """The optimizer as Fabric has it."""
    head_only: bool | None = None
    """Whether the backbone is frozen at the moment."""
    unsaved_best: dict[str, Any] | None = None
    """Content of the file of best weights, while it is not on disk yet; on rank 0."""

    @property
    def evaluated(self) -> nn.Module:
        """The weights that count: the average where there is one."""
        return self.model if self.ema is None else self.ema.module

    @property
    def rank(self) -> int:
        """Which process this is."""
        return int(self.fabric.global_rank)


def build_session(recipe: Recipe, run: RunFolder, cache: Path, fabric: Fabric) -> Session:
    """Build everything that a recipe asks for.

    Raises:
        Ham10000Error: a part can't be as asked.
    """
    _check_monitor(recipe)
    # The weights are drawn from the seed alone, so that all ranks start with the same.
    torch.manual_seed(recipe.seed)
    model = build_model(recipe.model, size=recipe.data.size, metadata=recipe.data.metadata)
    if recipe.training.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if recipe.training.sync_batchnorm and fabric.world_size > 1:
        if fabric.device.type == "cpu":
            raise TrainingError(
                "building the model: training.sync_batchnorm works on GPUs only, and this run is "
                "on CPUs. Leave it out, or train in one process."
            )
        model = synchronize(model)
    model = model.to(fabric.device)
    seed_all(recipe.seed, fabric.global_rank)
    split_text = run.split.read_text(encoding="utf-8")
    split = "val" if "val" in splits_of(run) else "test"
    metadata = recipe.data.metadata
    data = open_split(cache, run, "train", metadata=metadata)
    validation = open_split(cache, run, split, metadata=metadata)
    sampler = EpochSampler(
        data.targets,
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
    optimizer = build_optimizer(recipe.optimizer, model, fused=recipe.training.precision != "fp16")
    counts = torch.bincount(torch.tensor(data.targets), minlength=len(CLASSES))
    augment = Augment(
        recipe.data.augment, recipe.seed, mean=recipe.model.mean, std=recipe.model.std
    )
    on_cpu = fabric.device.type == "cpu"
    return Session(
        recipe=recipe,
        run=run,
        split_text=split_text,
        fabric=fabric,
        data=data,
        validation=validation,
        split=split,
        model=model,
        ema=average_weights(model, recipe.training.ema),
        loss=build_loss(recipe.loss, counts, _drawn(recipe, counts)).to(fabric.device),
        optimizer=optimizer,
        schedule=build_schedule(
            recipe.schedule,
            optimizer,
            plan.steps,
            recipe.training.epochs,
            recipe.training.mode,
        ),
        sampler=sampler,
        plan=plan,
        augment=augment,
        loader=BatchLoader(
            data,
            sampler,
            plan.batch_size // plan.replicas,
            augment if on_cpu else None,
            workers=recipe.data.workers,
            reuse_memory=on_cpu,
            pin_memory=not on_cpu,
        ),
    )


def synchronize(model: LesionClassifier) -> LesionClassifier:
    """Let the batch norms of a model see the batches of all processes.

    timm's norms have the activation that follows in them, which torch's own conversion drops.
    """
    converted: LesionClassifier = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted


def snapshot(session: Session) -> dict[str, Any]:
    """Return what a checkpoint holds; all ranks must call this at the same step."""
    scaler = getattr(session.fabric.strategy.precision, "scaler", None)
    done = session.plan.done_before(session.state.step_in_epoch)
    session.sampler.set_epoch(session.state.epoch, done)
    ranks = gather({"random": random_state(), "tally": session.tally.state_dict()})
    return {
        "version": VERSION,
        "recipe": dump_recipe(session.recipe),
        "split": session.split_text,
        "state": session.state.state_dict(),
        "model": session.model.state_dict(),
        "ema": None if session.ema is None else session.ema.state_dict(),
        "optimizer": session.optimizer.state_dict(),
        "schedule": session.schedule.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "sampler": session.sampler.state_dict(),
        "ranks": ranks,
    }


def restore(session: Session, content: dict[str, Any]) -> None:
    """Put a session where another one was when it took a snapshot.

    Of another number of ranks it goes on too, with new random numbers for dropout.

    Raises:
        CheckpointError: the checkpoint is of another version or another model.
        RecipeError: the run's recipe was changed after the checkpoint was written.
        SplitError: its split was.
    """
    doing = f"resuming {session.run.path}"
    check_version(content, doing)
    refuse_other_recipe(load_recipe_text(content["recipe"]), session.recipe, doing)
    refuse_other_split(content["split"], session.split_text, doing)
    try:
        session.model.load_state_dict(content["model"])
        if session.ema is not None:
            session.ema.load_state_dict(content["ema"])
        session.optimizer.load_state_dict(content["optimizer"])
        session.schedule.load_state_dict(content["schedule"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"resuming: the checkpoint is of another model or optimizer ({error})."
        ) from error
    if content["scaler"] is not None:
        session.fabric.strategy.precision.load_state_dict(content["scaler"])
    session.sampler.load_state_dict(content["sampler"])
    session.state = State(**content["state"])
    ranks, rank = content["ranks"], session.rank
    if len(ranks) == session.fabric.world_size:
        session.tally = Tally.sum([ranks[rank]["tally"]])
        set_random_state(ranks[rank]["random"])
        return
    session.tally = Tally.sum([part["tally"] for part in ranks] if rank == 0 else [])
    seed_all(session.recipe.seed + session.state.step, rank)


def check_version(content: dict[str, Any], doing: str) -> None:
    """Check that this version of ham10000 can read a checkpoint.

    Raises:
        CheckpointError: another version wrote it.
    """
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{doing}: the checkpoint is of version {content.get('version')!r}, and this is "
            f"version {VERSION}. Use the version of ham10000 that wrote it."
        )


def _check_monitor(recipe: Recipe) -> None:
    for field, more in (("monitor", ["epoch"]), ("stop_monitor", [])):
        known = ("loss", *more, *METRICS)
        name = getattr(recipe.training, field)
        if name is not None and name not in known:
            raise TrainingError(
                f"judging epochs: there is no metric {name!r}, which training.{field} names. "
                f"{closest(name, known)}"
            )


def _drawn(recipe: Recipe, counts: Tensor) -> Tensor:
    return torch.where(counts > 0, counts.double() ** BALANCES[recipe.data.balance], 0.0)
