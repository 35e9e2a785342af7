"""Signals in loader workers, so that a signal to the process group stops only the trainer.

systemd, Slurm and a terminal's Ctrl-C send their signal to every process of a job. The trainer
handles it: it finishes the step, for which it needs its workers, saves and exits. A worker that
died of the same signal would make the trainer fail instead.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["blocked_signals", "obey_parent_only"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Block SIGTERM and SIGINT; processes that are started meanwhile keep them blocked.

    A signal that arrives in the meantime is delivered at the end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent_only(worker: int) -> None:
    """Ignore SIGINT in this worker, and SIGTERM unless the parent process sent it.

    Pass it as `worker_init_fn` to a `DataLoader` whose workers start within `blocked_signals`. The
    parent uses SIGTERM to end workers that don't end by themselves. Workers whose parent has died
    end within seconds, since torch's worker loop checks for it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    while True:
        received = signal.sigwaitinfo({signal.SIGTERM})
        if parent is not None and received.si_pid == parent.pid:
            os._exit(0)
