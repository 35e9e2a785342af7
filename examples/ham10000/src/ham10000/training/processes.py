"""Processes of a run: launch them with torchrun, stop them, and set their memory and threads."""

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

from ham10000.errors import TrainingError
from ham10000.training.run_dir import RunDir
from ham10000.utils import available_cores

__all__ = [
    "INTERRUPTED",
    "LAUNCHED",
    "StopRequest",
    "catch_signals",
    "keep_memory",
    "launch",
    "share_cores",
]

INTERRUPTED = 75
"""Exit status of a run that saved and stopped early: a temporary failure in sysexits.h, so
schedulers can try again later."""

LAUNCHED = "HAM10000_LAUNCHED"
"""Variable that is set in processes that `launch` starts. Such a process exits with 0 instead of
`INTERRUPTED`, because torchrun would treat another status as a failure and start it again."""

_DEFAULTS = {
    # Seconds between the request to stop and the kill. A step or an evaluation of a large model on
    # a CPU, after which the process saves, can take longer than torch's default of 30.
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600",
}
_FIXED = {
    LAUNCHED: "1",
    # Otherwise restarted processes can read the addresses of their predecessors from the shared
    # store, and try to connect to them.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # constants of malloc.h
_PAD = 64 * 2**20
_OTHERS = ("tcmalloc", "jemalloc", "mimalloc")


def launch(run: RunDir, processes: int, restarts: int = 0) -> int:
    """Train a run in several processes, and wait for them.

    Args:
        run: the folder of the run, from `claim_run`.
        processes: number of processes.
        restarts: how many times all processes are restarted from the last checkpoint when one of
            them ends with an error.

    Returns:
        0; or `INTERRUPTED` if the run is not finished.

    Raises:
        TrainingError: a process failed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    threads = str(max(1, available_cores() // processes))
    command = ("-m", "ham10000", "train", "--resume", str(run.path))
    try:
        with _environment(_DEFAULTS | {"OMP_NUM_THREADS": threads} | os.environ | _FIXED):
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=processes,
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                run_id=run.path.name,
                max_restarts=restarts,
                monitor_interval=0.2,
            )
            elastic_launch(config, sys.executable)(*command)
    except SignalException:
        pass  # the processes received the signal too, and have saved
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        how = (
            f"was killed by {signal.Signals(-failure.exitcode).name}"
            if failure.exitcode < 0
            else f"ended with {failure.exitcode}"
        )
        raise TrainingError(
            f"training in {processes} processes: rank {rank} {how}; its messages are above "
            f"and in {run.log}. Resume with: ham10000 train --resume {run.path}"
        ) from error
    return 0 if run.done else INTERRUPTED


class StopRequest:
    """Request to stop this process, with its reason. True once a stop was requested.

    Example:
        >>> from ham10000.training.processes import StopRequest
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
    """Make the allocator of this process keep freed memory; return a line for the log.

    On a CPU the allocator accounts for a third of the time of a training step. Every step allocates
    and frees the same large blocks. By default glibc returns blocks above a threshold to the
    system, so the next step gets new pages, each of which the system clears on first access.
    `mallopt` makes glibc keep them. The variables MALLOC_MMAP_THRESHOLD_ and
    MALLOC_TRIM_THRESHOLD_ do the same at the start of a process, and tcmalloc and jemalloc keep
    blocks by default.
    """
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
    """Limit this process to its share of the cores, unless OMP_NUM_THREADS is set."""
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


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes that start within the context."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
