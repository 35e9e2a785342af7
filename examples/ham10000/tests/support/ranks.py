"""Processes of a run, forked from this one, so that torch is not imported again."""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

TIMEOUT = 240.0


def start(
    function: Callable[..., Any], *arguments: Any, ranks: int = 1, torchrun: bool = False
) -> list[BaseProcess]:
    """Start processes; several, or one with `torchrun`, get the environment of torchrun."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes: list[BaseProcess] = []
    for rank in range(ranks):
        told = {}
        if ranks > 1 or torchrun:
            told = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "GROUP_RANK": 0,
                "WORLD_SIZE": ranks,
                "LOCAL_WORLD_SIZE": ranks,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "TORCHELASTIC_RUN_ID": "test",
            }
        process = context.Process(target=_child, args=(function, arguments, told))
        process.start()
        processes.append(process)
    return processes


def wait(processes: list[BaseProcess], timeout: float = TIMEOUT) -> list[int | None]:
    """Return how they ended: a status, a signal as a negative number, `None` if they hang."""
    until = time.monotonic() + timeout
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    codes = [process.exitcode for process in processes]
    kill(processes)
    return codes


def run(function: Callable[..., Any], *arguments: Any, ranks: int = 1) -> list[int | None]:
    """Do both."""
    return wait(start(function, *arguments, ranks=ranks))


def kill(processes: list[BaseProcess], how: int = signal.SIGKILL) -> None:
    """Send a signal to the processes that still run, and wait if it is SIGKILL."""
    for process in processes:
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, how)
    if how == signal.SIGKILL:
        for process in processes:
            process.join()


def wait_for(condition: Callable[[], bool], timeout: float = TIMEOUT) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("it didn't happen")
        time.sleep(0.01)


def _child(function: Callable[..., Any], arguments: tuple[Any, ...], told: dict[str, Any]) -> None:
    os.environ.update({name: str(value) for name, value in told.items()})
    # The parent's handlers are pytest's.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    log = os.environ.get("RANKS_LOG")
    if log:
        handle = os.open(Path(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 2)
    status = function(*arguments)
    os._exit(status if isinstance(status, int) else 0)
