"""One training step: an update of the weights, or none if a loss is not finite."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from ham10000.data import Batch, cutmix, mixup
from ham10000.errors import TrainingError, some
from ham10000.training.processes import all_gather
from ham10000.training.run_dir import RunDir
from ham10000.training.session import Setup
from ham10000.training.state import Counters, TrainState

__all__ = ["StepTimer", "TrainBatch", "describe_last_checkpoint", "remaining_batches", "train_step"]

_LOG = logging.getLogger(__name__)


class TrainBatch(NamedTuple):
    """A batch on the training device, augmented and mixed."""

    images: Tensor
    """(B, 3, H, W), float32."""
    targets: Tensor
    """(B,), int64; or probabilities of the classes, (B, C)."""
    metadata: Tensor | None
    """(B, M), float32, if the model uses metadata."""
    positions: Tensor
    """(B,), position of each image in the epoch, over all ranks."""
    weights: Tensor | None = None
    """(B,), float32, weights of the images, if they are not equal."""


@dataclass
class StepTimer:
    """Seconds of the parts of training steps; on a GPU, the time of the CPU that launches them.

    Example:
        >>> from ham10000.training.step import StepTimer
        >>> StepTimer(data=1.0, forward=2.0, backward=4.0, update=1.0).shares()
        'data 12%, forward 25%, backward 50%, update 12%'
    """

    data: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    update: float = 0.0

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Add the duration of the context to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + time.perf_counter() - start)

    def shares(self) -> str:
        """Return the percentage of each part, as text."""
        total = (self.data + self.forward + self.backward + self.update) or 1.0
        return ", ".join(f"{name} {value / total:.0%}" for name, value in vars(self).items())


def remaining_batches(setup: Setup, counters: Counters) -> Iterator[TrainBatch]:
    """Yield this rank's batches of the current epoch, from the next step on."""
    plan = setup.plan
    setup.sampler.set_epoch(counters.epoch, plan.images_before(counters.step_in_epoch))
    left = plan.batches - counters.step_in_epoch * plan.accumulate
    for batch in islice(setup.loader, left):
        yield _to_train_batch(setup, batch, counters.epoch)


def train_step(
    setup: Setup, state: TrainState, batches: Iterator[TrainBatch], timer: StepTimer
) -> float:
    """Train on the batches of the next step of the epoch; a collective operation.

    The losses of a batch are summed and divided by the number of images of the step on all ranks,
    so the gradient does not depend on how the images are distributed.

    Returns:
        The mean loss of this rank's images.

    Raises:
        TrainingError: Too many steps had a loss that is not finite.
    """
    fabric, counters = setup.fabric, state.counters
    model, optimizer = state.wrapped_model, state.wrapped_optimizer
    numbers = setup.plan.batches_of(counters.step_in_epoch)
    # DDP averages gradients over ranks, but the sum is needed.
    scale = setup.plan.replicas / setup.plan.images(counters.step_in_epoch)
    # A forward pass changes the statistics of batch norms even if its loss is not finite.
    buffers = [buffer.clone() for buffer in state.model.buffers()]
    seen: list[tuple[TrainBatch, Tensor, Tensor]] = []
    for number in numbers:
        with timer.time("data"):
            batch = next(batches)
        with fabric.no_backward_sync(model, enabled=number != numbers[-1]):
            with timer.time("forward"):
                inputs = [batch.images] + ([] if batch.metadata is None else [batch.metadata])
                logits = model(*inputs)
                losses = setup.loss(logits, batch.targets)
                if batch.weights is not None:
                    losses = losses * batch.weights
            with timer.time("backward"):
                # A non-finite loss can have a finite gradient. NaN * 0 is NaN, so this poisons it.
                fabric.backward(losses.sum() * (scale + 0 * losses.detach().sum()))
        seen.append((batch, losses.detach(), logits.detach()))
    with timer.time("update"):
        norm = fabric.clip_gradients(
            model,
            optimizer,
            max_norm=setup.recipe.optimizer.clip_norm or math.inf,
            error_if_nonfinite=False,
        )
        # Gradients are summed over ranks, so a failure on one rank is visible on all.
        assert norm is not None  # because of max_norm
        finite = math.isfinite(norm.item())
        scaler = getattr(fabric.strategy.precision, "scaler", None)
        if finite or scaler is not None:  # a scaler itself skips the step, and lowers its scale
            optimizer.step()
        optimizer.zero_grad()
        if finite and state.ema is not None:
            state.ema.update_parameters(state.model)
        state.schedule.step()
    counters.step += 1
    counters.step_in_epoch += 1
    if finite:
        for batch, losses, logits in seen:
            state.metrics.add(losses, logits, batch.targets)
    else:
        torch._foreach_copy_(list(state.model.buffers()), buffers)
        _report_skipped(setup, counters, [(batch, losses) for batch, losses, _ in seen])
    total = sum(float(losses.sum()) for _, losses, _ in seen)
    return total / sum(len(losses) for _, losses, _ in seen)


def describe_last_checkpoint(run: RunDir) -> str:
    """Return a sentence that names the newest checkpoint, for an error message."""
    paths = run.step_checkpoints()
    return f"The last good checkpoint is {paths[0]}" if paths else "There is no checkpoint yet"


def _to_train_batch(setup: Setup, batch: Batch, epoch: int) -> TrainBatch:
    recipe, device = setup.recipe, setup.fabric.device
    images = batch.images.to(device, non_blocking=True)
    targets = batch.targets.to(device, non_blocking=True)
    if images.dtype == torch.uint8:
        images = setup.augment(images, batch.positions, epoch)
    if recipe.data.mix != "none":
        mix = mixup if recipe.data.mix == "mixup" else cutmix
        images, targets = mix(
            images,
            targets,
            batch.positions,
            num_classes=len(setup.train_data.classes),
            seed=recipe.seed,
            epoch=epoch,
        )
    if recipe.training.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    metadata = None if batch.metadata is None else batch.metadata.to(device, non_blocking=True)
    weights = None if batch.weights is None else batch.weights.to(device, non_blocking=True)
    return TrainBatch(images, targets, metadata, batch.positions, weights)


def _report_skipped(
    setup: Setup, counters: Counters, seen: list[tuple[TrainBatch, Tensor]]
) -> None:
    wrong = [batch.positions[~losses.isfinite().cpu()] for batch, losses in seen]
    positions = [position for part in all_gather(torch.cat(wrong).tolist()) for position in part]
    if not positions and getattr(setup.fabric.strategy.precision, "scaler", None) is not None:
        return  # only the scaled gradient overflowed, which is how a scaler finds its scale
    counters.skipped += 1
    problem = "the loss of {} is not a finite number"
    if not positions:  # any of the images can be the reason
        problem = "the gradient of {} is not finite, although each loss is"
        everything = torch.cat([batch.positions for batch, _ in seen]).tolist()
        positions = [position for part in all_gather(everything) for position in part]
    indices = setup.sampler.draw()[sorted(positions)].tolist()
    names = [str(setup.train_data.table["image_id"].iloc[index]) for index in indices]
    if setup.rank == 0:
        _LOG.warning(
            "Step %d was skipped: %s (%d skipped so far).",
            counters.step,
            problem.format(some(names, 64)),
            counters.skipped,
        )
    limit = setup.recipe.training.max_bad_steps
    if counters.skipped > limit:
        raise TrainingError(
            f"training: {counters.skipped} steps were skipped, more than training.max_bad_steps "
            f"{limit}; in the last one, {problem.format(some(names))}. "
            f"{describe_last_checkpoint(setup.run)}. "
            "Lower optimizer.lr, set optimizer.clip_norm, or use training.precision 32."
        )
