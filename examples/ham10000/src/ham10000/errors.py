"""Errors of ham10000, and helpers for their messages.

Each is a `Ham10000Error` and a subclass of the matching built-in exception. A message says what was
being done, what was found (with file and row), and what would work. Commands print it without a
traceback and exit with status 1.
"""

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path


class Ham10000Error(Exception):
    """Base class of all errors of ham10000."""


class ArgumentError(Ham10000Error, ValueError):
    """An argument has an invalid value."""


class DataError(Ham10000Error, ValueError):
    """A table, an image or a folder of a data set is invalid."""


class MissingDataError(Ham10000Error, FileNotFoundError):
    """A file or folder does not exist."""


class SplitError(Ham10000Error, ValueError):
    """A split is invalid or cannot be made."""


class RecipeError(Ham10000Error, ValueError):
    """A recipe has an unknown field or an invalid value."""


class PredictionError(Ham10000Error, ValueError):
    """Predictions are invalid, or two sets of predictions cannot be compared."""


class MissingPackageError(Ham10000Error, ImportError):
    """An optional package is not installed."""


class CacheError(Ham10000Error, ValueError):
    """A cache cannot be read."""


class CheckpointError(Ham10000Error, ValueError):
    """A checkpoint is damaged, or belongs to another run."""


class TrainingError(Ham10000Error, RuntimeError):
    """Training cannot start or continue."""


class ExportError(Ham10000Error, RuntimeError):
    """A model cannot be exported in a format."""


class LockedError(Ham10000Error, RuntimeError):
    """Another process is using a folder."""


class DownloadError(Ham10000Error, ConnectionError):
    """A download failed, or a checksum does not match."""


class ArchiveError(Ham10000Error, ValueError):
    """An archive is damaged, or contains a path that must not be extracted."""


class WriteError(Ham10000Error, OSError):
    """A file or folder cannot be written."""


def cannot_write(path: Path, error: OSError) -> WriteError:
    """Return a `WriteError` for an error of the system, with advice.

    Example:
        >>> from pathlib import Path
        >>> from ham10000.errors import cannot_write
        >>> print(cannot_write(Path("cache"), OSError(28, "No space left on device")))
        writing cache: no space left on device. Free some, or write to another place; ...
    """
    reason = (error.strerror or str(error)).lower()
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = (
        "Free some, or write to another place"
        if full
        else "Write to another place, or change its permissions"
    )
    return WriteError(f"writing {path}: {reason}. {remedy}; no incomplete file was left.")


def closest(name: str, options: Iterable[str], count: int = 3) -> str:
    """Return the closest options to an unknown name, as the last sentence of a message.

    Example:
        >>> from ham10000.errors import closest
        >>> closest("nvs", ["akiec", "mel", "nv"])
        'Closest: nv.'
    """
    options = list(options)
    near = difflib.get_close_matches(name, options, n=count, cutoff=0.5)
    if near:
        return f"Closest: {', '.join(near)}."
    if not options:
        return "There are none."
    shown = ", ".join(options[:10])
    return f"There are: {shown}{', ...' if len(options) > 10 else ''}."


def some(names: Iterable[object], count: int = 3) -> str:
    """Return the first names of a list, and the number of the others.

    Example:
        >>> from ham10000.errors import some
        >>> some(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    shown = [str(name) for name in names]
    rest = len(shown) - count
    return ", ".join(shown[:count]) + (f" and {rest} more" if rest > 0 else "")
