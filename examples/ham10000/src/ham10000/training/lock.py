"""Lock the folder of a run, so that only one set of processes trains in it at a time."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ham10000.errors import TrainingError, WriteError, cannot_write

if sys.platform != "win32":
    import fcntl

__all__ = ["LAUNCHER_LOCK", "TRAINER_LOCK", "lock_run"]

LAUNCHER_LOCK = ".launcher.lock"
TRAINER_LOCK = ".trainer.lock"
"""Locks of a run. There are two, because a launcher and rank 0 are two processes and either can
outlive the other. Without our launcher, rank 0 holds both."""


@contextmanager
def lock_run(folder: Path, *names: str) -> Iterator[None]:
    """Hold locks of the folder of a run, and create the folder if it does not exist.

    The operating system releases a lock when the process that holds it ends, however it ends, so
    there are no stale locks. Processes that are forked within the context do not hold it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.training.lock import TRAINER_LOCK, lock_run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with lock_run(Path(folder), TRAINER_LOCK), lock_run(Path(folder), TRAINER_LOCK):
        ...         pass
        Traceback (most recent call last):
        ham10000.errors.TrainingError: training into ...: process ... is already training there...

    Args:
        folder: the folder of the run.
        names: names of the locks; both by default.

    Raises:
        TrainingError: another process holds one of them.
        WriteError: the folder or the lock file cannot be created, or the file system has no locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    with ExitStack() as held:
        for name in names or (LAUNCHER_LOCK, TRAINER_LOCK):
            held.enter_context(_locked(folder, name))
        yield


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    path = folder / name
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise cannot_write(path, error) from error
    _HELD.add(handle)
    try:
        _acquire(handle, folder, path)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        if handle in _HELD:  # in a forked process it is closed already
            _HELD.remove(handle)
            os.close(handle)


def _acquire(handle: int, folder: Path, path: Path) -> None:
    if sys.platform == "win32":
        return  # no flock
    # On NFS the kernel turns flock into a lock on the server, which other hosts see unless the
    # mount has `nolock` or `local_lock`. Lustre needs the mount option `flock`.
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = path.read_text(errors="replace") or "another process"
        raise TrainingError(
            f"training into {folder}: {holder} is already training there. Nothing was changed. "
            "Wait until it has ended, stop it (SIGTERM saves a checkpoint), or choose another "
            "folder."
        ) from error
    except OSError as error:
        raise WriteError(
            f"locking {path}: {(error.strerror or str(error)).lower()}. Two runs could overwrite "
            "each other there. Choose a folder on a file system with locks (NFS with a lock "
            "manager, Lustre mounted with -o flock, or a local disk)."
        ) from error


_HELD: set[int] = set()


def _forget() -> None:
    # A forked process shares the open file, and with it the lock: loader workers would keep the
    # folder locked for seconds after their trainer was killed.
    while _HELD:
        os.close(_HELD.pop())


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget)
