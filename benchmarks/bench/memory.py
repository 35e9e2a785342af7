"""Peak memory of a piece of work, relative to the start."""

import torch
from torch.profiler import ProfilerActivity, profile

from bench.harness import Work


def peak_memory(work: Work) -> int:
    """Return the peak in bytes, from the profiler's records of allocations on the CPU."""
    work()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    assert profiled.profiler is not None
    results = profiled.profiler.kineto_results
    assert results is not None
    return peak([event.nbytes() for event in sorted(results.events(), key=_start)
                 if event.name() == "[memory]"])  # fmt: skip


def _start(event: "torch._C._autograd._KinetoEvent") -> int:
    return event.start_ns()


def peak(changes: list[int]) -> int:
    """Return the largest sum of the first changes, at least 0."""
    held = most = 0
    for change in changes:
        held += change
        most = max(most, held)
    return most
