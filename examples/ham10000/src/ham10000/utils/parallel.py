"""The same small job for thousands of files: on threads, in order, with a bar."""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["available_cores", "in_order", "on_threads", "with_bar"]

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
    """Do a job for each item on threads with a bar, and yield the results in the items' order.

    Threads are enough, since decoding and arithmetic let go of Python's lock.

    Example:
        >>> from ham10000.utils import in_order
        >>> list(in_order(abs, [-1, 2, -3], "counting"))
        [1, 2, 3]

    Args:
        job: what to do.
        items: to what.
        label: what the bar says; there is one only where a person looks on.
        workers: how many threads; as many as there are cores unless given.
    """
    workers = workers or available_cores()
    return with_bar(on_threads(job, items, workers, ahead=4 * workers), label, len(items))


def on_threads(
    job: Callable[[T], R], items: Iterable[T], workers: int, *, ahead: int
) -> Iterator[R]:
    """Do a job for each item on threads, and yield the results in the order of the items.

    Example:
        >>> from ham10000.utils import on_threads
        >>> list(on_threads(abs, [-1, 2, -3], workers=2, ahead=2))
        [1, 2, 3]

    Args:
        job: what to do.
        items: to what.
        workers: how many threads.
        ahead: how many results may be under way or wait to be taken, so that memory doesn't grow
            with the number of items.
    """
    waiting: deque[Future[R]] = deque()
    pool = _pool(workers)
    try:
        for item in items:
            waiting.append(pool.submit(job, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(workers: int) -> ThreadPoolExecutor:
    """Start threads that compute on one core each.

    Otherwise each of them would share out every small sum among as many threads again as there are
    cores, and they would spend their time waiting for one another.
    """
    ready = threading.Barrier(workers + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread's first look at it is when torch sets it
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(workers)
    before = torch.get_num_threads()
    for _ in range(workers):
        pool.submit(begin)  # each waits for the others, so that every thread gets one
    ready.wait()
    torch.set_num_threads(before)  # what a thread sets goes for itself, and for any to come
    return pool


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
