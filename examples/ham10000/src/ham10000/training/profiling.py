"""A trace of the first steps, for chrome://tracing or Perfetto."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from ham10000.training.session import Session

__all__ = ["profiling"]

_LOG = logging.getLogger(__name__)
_WARMUP = 2


@contextmanager
def profiling(session: Session) -> Iterator[Callable[[], object]]:
    """Trace as many steps as the recipe says, after two others, in a run's first epoch.

    Yields what must be called after each step. The trace goes into the run's folder `profile`.
    """
    steps = session.recipe.logging.profile
    if not steps or session.state.epoch or session.rank:
        yield lambda: None
        return
    folder = session.run.path / "profile"

    def write(done: profile) -> None:
        folder.mkdir(exist_ok=True)
        path = folder / "trace.json"
        done.export_chrome_trace(str(path))
        _LOG.info("The trace of %d steps is in %s", steps, path)

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
