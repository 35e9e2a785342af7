"""Settings of this process: its memory allocator, its threads, and requests to stop.

On a CPU the allocator accounts for a third of the time of a training step. Every step allocates and
frees the same large blocks. By default glibc returns blocks above a threshold to the system, so the
next step gets new pages, each of which the system clears on first access. `mallopt` makes glibc
keep them. The variables MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ do the same at the start
of a process, and tcmalloc and jemalloc keep blocks by default.
"""

import ctypes
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from ham10000.utils import available_cores

__all__ = ["INTERRUPTED", "StopRequest", "catch_signals", "keep_memory", "share_cores"]

INTERRUPTED = 75
"""Exit status of a run that saved and stopped early: a temporary failure in sysexits.h, so
schedulers can try again later."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # constants of malloc.h
_PAD = 64 * 2**20
_OTHERS = ("tcmalloc", "jemalloc", "mimalloc")


class StopRequest:
    """Whether this process was asked to stop, and why; true if it was.

    Example:
        >>> from ham10000.training.process import StopRequest
        >>> request = StopRequest(max_minutes=0)
        >>> bool(request), request.reason
        (True, 'max_minutes is over')

    Args:
        max_minutes: request a stop after this many minutes.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        self.reason: str | None = None
        self._until = None if max_minutes is None else time.monotonic() + 60 * max_minutes

    def __bool__(self) -> bool:
        if self.reason is None and self._until is not None and time.monotonic() >= self._until:
            self.reason = "max_minutes is over"
        return self.reason is not None


@contextmanager
def catch_signals(request: StopRequest) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into a request to stop; a second SIGINT raises KeyboardInterrupt.

    Only the main thread receives signals; in another thread this has no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.reason = f"{signal.Signals(number).name} was received"

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def keep_memory() -> str:
    """Make the allocator of this process keep freed memory; return a line for the log."""
    loaded = next((name for name in _OTHERS if name in _loaded_libraries()), None)
    if loaded:
        return f"memory: {loaded} is loaded, which keeps freed blocks by default"
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return "memory: as set by the variables MALLOC_*_THRESHOLD_"
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return "memory: the allocator of this system is unchanged"
    malloc = ctypes.CDLL(None)
    done = malloc.mallopt(_MMAP_MAX, 0) and malloc.mallopt(_TRIM_THRESHOLD, -1)
    if not (done and malloc.mallopt(_TOP_PAD, _PAD)):
        return "memory: glibc refused to keep freed blocks, so steps take longer"
    return "memory: glibc keeps freed blocks, which saves page faults"


def share_cores(processes: int) -> str:
    """Give this process its share of the cores, unless OMP_NUM_THREADS is set."""
    if "OMP_NUM_THREADS" in os.environ:
        return f"threads: {torch.get_num_threads()} in each process, as set by OMP_NUM_THREADS"
    cores = available_cores()
    torch.set_num_threads(max(1, cores // processes))
    return f"threads: {torch.get_num_threads()} in each process, of {cores} cores"


def _loaded_libraries() -> str:
    try:
        return Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return os.environ.get("LD_PRELOAD", "")
