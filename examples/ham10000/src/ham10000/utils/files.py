"""Text files, atomic writes (under another name, fsync, rename), and locks on folders."""

import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ham10000.errors import (
    ArgumentError,
    DataError,
    Ham10000Error,
    LockedError,
    MissingDataError,
    WriteError,
    cannot_write,
)

if sys.platform != "win32":
    import fcntl

__all__ = [
    "is_locked",
    "lock_folder",
    "new_folder",
    "read_text",
    "replacing",
    "sync_folder",
    "write_text",
]

PARTIAL = ".ham10000-part-"
"""Prefix of the names of unfinished files."""


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file atomically: under a temporary name, and renamed when it is on disk.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.utils import replacing
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a.txt") as file:
        ...         _ = file.write(b"whole")
        ...     [path.name for path in Path(folder).iterdir()]
        ['a.txt']

    Raises:
        WriteError: It can't be written. A previous file is unchanged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read; results get the usual permissions.
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
        sync_folder(path.parent)
    except Ham10000Error:
        raise
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8 and with Unix line ends."""
    with replacing(path) as file:
        file.write(text.encode())


def read_text(path: Path, doing: str) -> str:
    """Read a file as UTF-8.

    Raises:
        MissingDataError: It does not exist, or cannot be read.
        DataError: It is not text.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingDataError(f"{doing}: there is no such file.") from error
    except OSError as error:
        raise MissingDataError(f"{doing}: {(error.strerror or str(error)).lower()}.") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw[: error.start].count(b"\n") + 1
        raise DataError(
            f"{doing}: row {row} is not UTF-8 (byte 0x{raw[error.start]:02x} at {error.start}). "
            "Save it as UTF-8, or get it again."
        ) from error
    if "\0" in text:
        row = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{doing}: row {row} holds a null byte. Save it as UTF-8, or get it again.")
    return text


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Fill a folder under a temporary name, and rename it at the end.

    Args:
        path: The folder.
        replace: Replace an existing folder, which is removed after the new one has its name.

    Raises:
        ArgumentError: `path` exists, is not an empty folder, and is not to be replaced.
        WriteError: It can't be written; nothing is left, and an existing folder is unchanged.
    """
    empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not empty and not (replace and path.is_dir()):
        raise ArgumentError(
            f"writing {path}: it exists already and isn't an empty folder. "
            "Choose another path, or remove it first."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=path.parent))
    except OSError as error:
        raise cannot_write(path, error) from error
    before = partial.with_name(f"{partial.name}-before")
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        if path.exists() and not empty:
            path.replace(before)
        partial.replace(path)
        sync_folder(path.parent)
    except Ham10000Error:
        raise
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if before.exists() and not path.exists():
            before.replace(path)
        for leftover in (partial, before):
            shutil.rmtree(leftover, ignore_errors=True)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk. No effect on Windows."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def lock_folder(folder: Path, name: str, doing: str, advice: str) -> Iterator[None]:
    """Hold a lock of a folder, and create the folder if it does not exist.

    The operating system releases a lock when the process that holds it ends, however it ends, so
    there are no stale locks. Processes that are forked within the context do not hold it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.utils import lock_folder
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     with lock_folder(folder, ".lock", "writing", ""):
        ...         with lock_folder(folder, ".lock", "writing there", "Wait until it has ended."):
        ...             pass
        Traceback (most recent call last):
        ham10000.errors.LockedError: writing there: process ... has locked ... Wait until it has...

    Args:
        folder: The folder.
        name: Name of the lock file in it.
        doing: The operation, as the start of the error message.
        advice: What to do while another process holds the lock, as the end of the error message.

    Raises:
        LockedError: Another process holds the lock.
        WriteError: The folder or the lock file cannot be created, or the file system has no locks.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise cannot_write(path, error) from error
    _HELD.add(handle)
    try:
        _acquire(handle, path, doing, advice)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        if handle in _HELD:  # in a forked process it is closed already
            _HELD.remove(handle)
            os.close(handle)


def _acquire(handle: int, path: Path, doing: str, advice: str) -> None:
    if sys.platform == "win32":
        return  # no flock
    # On NFS the kernel turns flock into a lock on the server, which other hosts see unless the
    # mount has `nolock` or `local_lock`. Lustre needs the mount option `flock`.
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = path.read_text(errors="replace") or "another process"
        raise LockedError(
            f"{doing}: {holder} has locked {path.parent}. Nothing was changed. {advice}"
        ) from error
    except OSError as error:
        raise WriteError(
            f"locking {path}: {(error.strerror or str(error)).lower()}. Two processes could "
            "overwrite each other's files there. Choose a folder on a file system with locks (NFS "
            "with a lock manager, Lustre mounted with -o flock, or a local disk)."
        ) from error


def is_locked(folder: Path, name: str) -> bool:
    """Return whether a process holds a lock of a folder.

    Args:
        folder: The folder.
        name: Name of the lock file in it.
    """
    path = folder / name
    try:
        holder = re.fullmatch(r"process (\d+) on (.+)", path.read_text(errors="replace"))
    except OSError:
        return False
    # Testing a lock takes it for a moment, in which another process could not start. So test it
    # only if its last holder may be alive.
    if holder is not None and holder[2] == socket.gethostname() and not _is_alive(int(holder[1])):
        return False
    return sys.platform != "win32" and not _can_share(path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        return True
    return True


def _can_share(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        return True
    finally:
        os.close(handle)
    return True


_HELD: set[int] = set()


def _forget() -> None:
    # A forked process shares the open file, and with it the lock: loader workers would keep the
    # folder locked for seconds after their trainer was killed.
    while _HELD:
        os.close(_HELD.pop())


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
