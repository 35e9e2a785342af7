"""The same small job for thousands of files: on threads, in order, with a bar."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["available_cores", "in_order", "with_bar"]

T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(
    job: Callable[[T], R], items: Sequence[T], label: str, workers: int | None = None
) -> Iterator[R]:
    """Do a job for each item on threads, and yield the results in the order of the items.

    Threads are enough, since decoding and arithmetic let go of Python's lock. At most a few
    results a thread wait to be taken, so that memory doesn't grow with the number of items.

    Example:
        >>> from ham10000.data.parallel import in_order
        >>> list(in_order(abs, [-1, 2, -3], "counting"))
        [1, 2, 3]

    Args:
        job: what to do.
        items: to what.
        label: what the bar says; there is one only where a person looks on.
        workers: how many threads; as many as there are cores unless given.
    """
    workers = workers or available_cores()
    return with_bar(_in_order(job, items, workers), label, len(items))


def _in_order(job: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(job, item))
            if len(waiting) >= 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def with_bar(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Yield the items, with a bar on standard error where that is a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    hidden = not sys.stderr.isatty()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        yield from bar.track(items, total=total, description=label)
