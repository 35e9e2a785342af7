"""One step of training: an update of the weights, or none if a loss is no number."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ham10000.errors import TrainingError, some
from ham10000.training.checkpoints import steps_in
from ham10000.training.feed import Fed
from ham10000.training.processes import gather
from ham10000.training.session import Session

__all__ = ["Clock", "last_good", "update"]

_LOG = logging.getLogger(__name__)


@dataclass
class Clock:
    """Where the time of training goes, in seconds; on a GPU as the CPU that drives it sees it."""

    data: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    update: float = 0.0

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Add what happens within to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + time.perf_counter() - start)

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return self.data + self.forward + self.backward + self.update

    def shares(self) -> str:
        """Return each part in per cent."""
        whole = self.total or 1.0
        return ", ".join(f"{name} {value / whole:.0%}" for name, value in vars(self).items())


def update(session: Session, fed: Iterator[Fed], clock: Clock) -> float:
    """Do the next step of the epoch, on all ranks at once.

    A batch's losses are summed and divided by the number of images of the step on all ranks, so
    that a gradient is the same however the images are shared out.

    Returns:
        The mean loss of this rank's images.

    Raises:
        TrainingError: too many losses were no numbers.
    """
    fabric, model, optimizer = session.fabric, session.wrapped, session.stepper
    step = session.state.step_in_epoch
    numbers = session.plan.batches_of(step)
    # DDP takes the mean over ranks, and the sum is wanted.
    scale = session.plan.replicas / session.plan.images(step)
    # A pass through batch norms changes their statistics, also one that turns out to be no number.
    buffers = [buffer.clone() for buffer in session.model.buffers()]
    seen: list[tuple[Fed, Tensor, Tensor]] = []
    for number in numbers:
        with clock.time("data"):
            batch = next(fed)
        with fabric.no_backward_sync(model, enabled=number != numbers[-1]):
            with clock.time("forward"):
                inputs = [batch.images] + ([] if batch.metadata is None else [batch.metadata])
                scores = model(*inputs)
                losses = session.loss(scores, batch.targets)
            with clock.time("backward"):
                # A loss that is no number may have a gradient that is one. Times 0 it isn't 0.
                fabric.backward(losses.sum() * (scale + 0 * losses.detach().sum()))
        seen.append((batch, losses.detach(), scores.detach()))
    with clock.time("update"):
        norm = fabric.clip_gradients(
            model,
            optimizer,
            max_norm=session.recipe.optimizer.clip_norm or math.inf,
            error_if_nonfinite=False,
        )
        # Gradients are of all ranks, so that all of them see here whether one has failed.
        assert norm is not None  # a norm was asked for
        good = math.isfinite(norm.item())
        scaler = getattr(fabric.strategy.precision, "scaler", None)
        if good or scaler is not None:  # a scaler skips by itself, and takes a smaller scale
            optimizer.step()
        optimizer.zero_grad()
        if good and session.ema is not None:
            session.ema.update_parameters(session.model)
        session.schedule.step()
    session.state.step += 1
    session.state.step_in_epoch += 1
    if good:
        for batch, losses, scores in seen:
            session.tally.add(losses, scores, batch.targets)
    else:
        torch._foreach_copy_(list(session.model.buffers()), buffers)
        _skipped(session, [(batch, losses) for batch, losses, _ in seen], scaler is not None)
    total = sum(float(losses.sum()) for _, losses, _ in seen)
    return total / sum(len(losses) for _, losses, _ in seen)


def last_good(session: Session) -> str:
    """Say where one can go on from, for a message."""
    good = steps_in(session.run.checkpoints)
    return f"The last good checkpoint is {good[0]}" if good else "There is no checkpoint yet"


def _skipped(session: Session, seen: list[tuple[Fed, Tensor]], scaled: bool) -> None:
    wrong = [batch.positions[~losses.isfinite().cpu()] for batch, losses in seen]
    positions = [position for part in gather(torch.cat(wrong).tolist()) for position in part]
    state = session.state
    if scaled and not positions:
        return  # only the scaled gradient was too large, which is how a scaler finds its scale
    state.skipped += 1
    if not positions:  # the losses were finite, and the gradient wasn't: it may be any image
        everything = torch.cat([batch.positions for batch, _ in seen]).tolist()
        positions = [position for part in gather(everything) for position in part]
    indices = session.sampler.draw()[sorted(positions)].tolist()
    names = [str(session.data.table["image_id"].iloc[index]) for index in indices]
    if session.rank == 0:
        _LOG.warning(
            "Step %d was skipped: the loss of %s is not a finite number (%d skipped so far).",
            state.step,
            some(names, 64),
            state.skipped,
        )
    limit = session.recipe.training.max_bad_steps
    if state.skipped > limit:
        raise TrainingError(
            f"training: {state.skipped} steps were skipped, more than training.max_bad_steps "
            f"{limit}, for losses that are no finite numbers; last with {some(names)}. "
            f"{last_good(session)}. "
            "Lower optimizer.lr, set optimizer.clip_norm, or use training.precision 32."
        )
