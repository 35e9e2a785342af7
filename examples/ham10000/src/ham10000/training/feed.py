"""What a step of training is fed with."""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from ham10000.data import CLASSES, Batch, cutmix, mixup
from ham10000.training.session import Session

__all__ = ["Fed", "rest_of_epoch"]


class Fed(NamedTuple):
    """A batch on the device that trains, augmented and mixed."""

    images: Tensor
    targets: Tensor
    """(B,), or shares of the classes (B, 7)."""
    metadata: Tensor | None
    positions: Tensor


def rest_of_epoch(session: Session) -> Iterator[Fed]:
    """Yield this rank's batches of the epoch, from the step on that comes next."""
    plan, state = session.plan, session.state
    done = plan.done_before(state.step_in_epoch)
    session.sampler.set_epoch(state.epoch, done)
    left = plan.batches - state.step_in_epoch * plan.accumulate
    for batch in islice(session.loader, left):
        yield _ready(session, batch)


def _ready(session: Session, batch: Batch) -> Fed:
    recipe, device = session.recipe, session.fabric.device
    images = batch.images.to(device, non_blocking=True)
    targets = batch.targets.to(device, non_blocking=True)
    epoch = session.state.epoch
    if images.dtype == torch.uint8:
        images = session.augment(images, batch.positions, epoch)
    if recipe.data.mix != "none":
        mix = mixup if recipe.data.mix == "mixup" else cutmix
        images, targets = mix(
            images,
            targets,
            batch.positions,
            num_classes=len(CLASSES),
            seed=recipe.seed,
            epoch=epoch,
        )
    if recipe.training.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    metadata = None if batch.metadata is None else batch.metadata.to(device, non_blocking=True)
    return Fed(images, targets, metadata, batch.positions)
