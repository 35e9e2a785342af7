"""Memory and threads on a CPU, which decide a third of the time of a training step there.

A step allocates and frees the same large blocks as the one before. glibc gives blocks above a
threshold back to the system at once, so that the next step gets them as fresh pages, each of which
the system clears at its first touch. Told to keep them, it doesn't. `mallopt` does that in the
running process; the variables MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ do it at its start,
and tcmalloc and jemalloc keep blocks by themselves.
"""

import ctypes
import os
import platform
import sys
from pathlib import Path

import torch

from ham10000.utils import available_cores

__all__ = ["keep_memory", "share_cores"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of malloc.h
_PAD = 64 * 2**20
_OTHERS = ("tcmalloc", "jemalloc", "mimalloc")


def keep_memory() -> str:
    """Tell the allocator of this process to keep what is freed, and say what was done."""
    loaded = next((name for name in _OTHERS if name in _loaded_libraries()), None)
    if loaded:
        return f"memory: {loaded} is loaded, which keeps freed blocks by itself"
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return "memory: as the variables MALLOC_*_THRESHOLD_ say"
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return "memory: this system's allocator is left as it is"
    malloc = ctypes.CDLL(None)
    done = malloc.mallopt(_MMAP_MAX, 0) and malloc.mallopt(_TRIM_THRESHOLD, -1)
    if not (done and malloc.mallopt(_TOP_PAD, _PAD)):
        return "memory: glibc refused to keep freed blocks, so that steps take longer"
    return "memory: glibc keeps freed blocks, which saves page faults"


def share_cores(processes: int) -> str:
    """Give this process its part of the cores, unless OMP_NUM_THREADS says how many."""
    if "OMP_NUM_THREADS" in os.environ:
        return f"threads: {torch.get_num_threads()} in each process, as OMP_NUM_THREADS says"
    cores = available_cores()
    torch.set_num_threads(max(1, cores // processes))
    return f"threads: {torch.get_num_threads()} in each process, of {cores} cores"


def _loaded_libraries() -> str:
    try:
        return Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return os.environ.get("LD_PRELOAD", "")
