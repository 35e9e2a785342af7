"""Processes of a run: launch, connect and stop them, and set their memory and threads."""

import ctypes
import logging
import os
import platform
import re
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from inspect import signature
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ham10000.errors import ArgumentError, TrainingError
from ham10000.training.run_dir import RunDir
from ham10000.utils import available_cores

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = [
    "INTERRUPTED",
    "LAUNCHED",
    "StopRequest",
    "all_gather",
    "all_reduce_any",
    "broadcast_tensors",
    "catch_signals",
    "launch",
    "limit_threads",
    "local_processes",
    "start_fabric",
    "tune_allocator",
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

_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
# Newer versions of torch renamed broadcast_buffers.
_SYNC_BUFFERS = "forward_sync_buffers"
_DDP_PARAMETERS = signature(DistributedDataParallel).parameters
_NO_BUFFERS: dict[str, Any] = {
    _SYNC_BUFFERS if _SYNC_BUFFERS in _DDP_PARAMETERS else "broadcast_buffers": False
}

_TIMEOUT_VARIABLE = "HAM10000_TIMEOUT"
"""Variable with the seconds after which a rank that waits for another one raises an error."""
_DEFAULT_TIMEOUT = "600"

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # constants of malloc.h
_TOP_PAD_BYTES = 64 * 2**20
"""Memory that glibc requests at once: more than the activations of a layer, so few requests."""
_OTHER_ALLOCATORS = ("tcmalloc", "jemalloc", "mimalloc")


def launch(run: RunDir, processes: int, restarts: int = 0) -> int:
    """Train a run in several processes, and wait for them.

    Args:
        run: The folder of the run, from `claim_run`.
        processes: Number of processes.
        restarts: How many times all processes are restarted from the last checkpoint when one of
            them ends with an error.

    Returns:
        0; or `INTERRUPTED` if the run is not finished.

    Raises:
        TrainingError: A process failed.
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


def local_processes() -> int:
    """Return the number of processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def start_fabric(precision: Literal["32", "bf16", "fp16"]) -> "Fabric":
    """Join the other processes of the run, with gloo on CPUs and NCCL on GPUs.

    In a run of several processes, SIGINT ends this process from now on, like SIGTERM, until
    `catch_signals`.

    Raises:
        ArgumentError: The variable HAM10000_TIMEOUT is not a number of seconds.
        TrainingError: There are fewer GPUs than processes, or fp16 was requested on a CPU.
    """
    local, world = local_processes(), int(os.environ.get("WORLD_SIZE", "1"))
    on_gpu = torch.cuda.is_available()
    if on_gpu and local > torch.cuda.device_count():
        raise TrainingError(
            f"starting {local} processes: this machine has {torch.cuda.device_count()} GPUs, and "
            "each process needs one. Start fewer, or set CUDA_VISIBLE_DEVICES= to use the CPU."
        )
    if precision == "fp16" and not on_gpu:
        raise TrainingError(
            "starting: training.precision fp16 needs a GPU, and none was found. Use bf16 or 32."
        )
    # Takes seconds to import, which only training needs.
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its messages repeat ours
    if world % local:
        raise TrainingError(
            f"starting {world} processes: {local} of them are on this machine, and every machine "
            "must have the same number. Pass the same --nproc-per-node on all machines."
        )
    strategy: DDPStrategy | str = "auto"
    if "WORLD_SIZE" in os.environ:  # from torchrun, also for a single process
        # Buffers are broadcast only where they matter: see `broadcast_tensors`.
        strategy = DDPStrategy(
            process_group_backend="nccl" if on_gpu else "gloo",
            timeout=_timeout(),
            gradient_as_bucket_view=True,
            **_NO_BUFFERS,
        )
        if threading.current_thread() is threading.main_thread():
            # Python's handler would run only when all other processes have joined.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    fabric = Fabric(
        accelerator="cuda" if on_gpu else "cpu",
        devices=local,
        num_nodes=max(1, world // local),
        strategy=strategy,
        precision=_PRECISION[precision],  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def all_gather(value: Any) -> list[Any]:
    """Return the values of all ranks, on every rank."""
    if not _is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce_any(flags: Iterable[bool], device: torch.device) -> list[bool]:
    """Return for each flag whether it is set on at least one rank."""
    flags = list(flags)
    if not _is_distributed():
        return flags
    votes = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return [bool(vote) for vote in votes.tolist()]


def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Copy tensors of rank 0 to all ranks.

    Weights are equal on all ranks. Running statistics of batch norms are not, because each rank
    sees its part of a batch. Training does not use them, so those of rank 0 can be taken.
    """
    if _is_distributed():
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


class StopRequest:
    """Request to stop this process, with its reason. True once a stop was requested.

    Example:
        >>> from ham10000.training.processes import StopRequest
        >>> request = StopRequest(max_minutes=0)
        >>> bool(request), request.reason
        (True, 'max_minutes is over')

    Args:
        max_minutes: Request a stop after this many minutes.
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


def tune_allocator() -> str:
    """Make the allocator of this process keep freed memory; return a line for the log.

    On a CPU the allocator accounts for a third of the time of a training step. Every step allocates
    and frees the same large blocks. By default glibc returns blocks above a threshold to the
    system, so the next step gets new pages, each of which the system clears on first access.
    `mallopt` makes glibc keep them. The variables MALLOC_MMAP_THRESHOLD_ and
    MALLOC_TRIM_THRESHOLD_ do the same at the start of a process, and tcmalloc and jemalloc keep
    blocks by default.
    """
    loaded = next((name for name in _OTHER_ALLOCATORS if name in _loaded_libraries()), None)
    if loaded:
        return f"memory: {loaded} is loaded, which keeps freed blocks by default"
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return "memory: as set by the variables MALLOC_*_THRESHOLD_"
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return "memory: the allocator of this system is unchanged"
    malloc = ctypes.CDLL(None)
    done = malloc.mallopt(_MMAP_MAX, 0) and malloc.mallopt(_TRIM_THRESHOLD, -1)
    if not (done and malloc.mallopt(_TOP_PAD, _TOP_PAD_BYTES)):
        return "memory: glibc refused to keep freed blocks, so steps take longer"
    return "memory: glibc keeps freed blocks, which saves page faults"


def limit_threads(processes: int) -> str:
    """Limit this process to its share of the cores, unless OMP_NUM_THREADS is set."""
    if "OMP_NUM_THREADS" in os.environ:
        return f"threads: {torch.get_num_threads()} in each process, as set by OMP_NUM_THREADS"
    cores = available_cores()
    torch.set_num_threads(max(1, cores // processes))
    return f"threads: {torch.get_num_threads()} in each process, of {cores} cores"


def _timeout() -> timedelta:
    given = os.environ.get(_TIMEOUT_VARIABLE, _DEFAULT_TIMEOUT)
    if not re.fullmatch(r"[1-9]\d{0,5}", given):
        raise ArgumentError(
            f"starting: {_TIMEOUT_VARIABLE} must be a whole number of seconds from 1 to 999999, "
            f"found {given!r}. Without it, a process waits {_DEFAULT_TIMEOUT} s for another one."
        )
    return timedelta(seconds=int(given))


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


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
