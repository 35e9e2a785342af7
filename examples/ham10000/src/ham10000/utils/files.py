"""Atomic writes: a temporary name in the same folder, fsync, rename."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ham10000.errors import ArgumentError, Ham10000Error, cannot_write

__all__ = ["new_folder", "replacing", "sync_folder", "write_text"]

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
        WriteError: it can't be written. A previous file is unchanged.
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


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder atomically: under a temporary name, and renamed at the end.

    Raises:
        ArgumentError: `path` exists and is not an empty folder.
        WriteError: it can't be written; nothing is left.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ArgumentError(
            f"writing {path}: it exists already and isn't an empty folder. "
            "Choose another path, or remove it first."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=path.parent))
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        partial.replace(path)
        sync_folder(path.parent)
    except Ham10000Error:
        raise
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk. No effect on Windows."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
