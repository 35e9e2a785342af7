"""Where the time of training goes: seconds of each part of a step, and a trace of some steps."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from ham10000.training.session import Setup
from ham10000.training.state import Counters

__all__ = ["StepTimer", "trace_steps"]

_LOG = logging.getLogger(__name__)
_WARMUP = 2


@dataclass
class StepTimer:
    """Seconds of the parts of training steps; on a GPU, the time of the CPU that launches them.

    Example:
        >>> from ham10000.training.profiling import StepTimer
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
