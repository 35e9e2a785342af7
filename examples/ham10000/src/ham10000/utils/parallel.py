"""Small jobs for thousands of files on threads, with results in order and a progress bar.

And processes that end with the process that started them.
"""

import multiprocessing
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

__all__ = ["available_cores", "end_with_parent", "in_order", "on_threads", "with_bar"]

T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """End this process as soon as the process that started it has ended, for whatever reason.

    Call it in a process that `multiprocessing` started. Otherwise the workers of a pool whose
    parent was killed wait for their next job forever.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def in_order(
    job: Callable[[T], R], items: Sequence[T], label: str, workers: int | None = None
) -> Iterator[R]:
    """Run a job for each item on threads, with a progress bar, and yield the results in order.

    Threads are enough, since decoding and arithmetic release the GIL.

    Example:
        >>> from ham10000.utils import in_order
        >>> list(in_order(abs, [-1, 2, -3], "counting"))
        [1, 2, 3]

    Args:
        job: Function of an item.
        items: The items.
        label: Text of the bar, which is shown only on a terminal.
        workers: Number of threads; the number of cores by default.
    """
    workers = workers or available_cores()
    return with_bar(on_threads(job, items, workers, ahead=4 * workers), label, len(items))


def on_threads(
    job: Callable[[T], R], items: Iterable[T], workers: int, *, ahead: int
) -> Iterator[R]:
    """Run a job for each item on threads, and yield the results in the order of the items.

    Example:
        >>> from ham10000.utils import on_threads
        >>> list(on_threads(abs, [-1, 2, -3], workers=2, ahead=2))
        [1, 2, 3]

    Args:
        job: Function of an item.
        items: The items.
        workers: Number of threads.
        ahead: Largest number of results in progress or waiting, which bounds the memory.
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
    # Threads that compute on one core each. Otherwise each of them would split every operation
    # among as many threads as there are cores, and they would wait for each other.
    ready = threading.Barrier(workers + 1)

    def begin() -> None:
        torch.get_num_threads()  # torch sets it at a thread's first call
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(workers)
    before = torch.get_num_threads()
    for _ in range(workers):
        pool.submit(begin)  # each waits for the others, so every thread runs one
    ready.wait()
    torch.set_num_threads(before)  # a thread sets its own number and that of later threads
    return pool


def with_bar(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Yield the items, with a progress bar if standard error is a terminal."""
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
