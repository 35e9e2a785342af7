"""The errors that ham10000 raises, and nothing else.

Each is a `Ham10000Error` and also the built-in error that a caller would expect. Each message says
what was being done, which file and row were found wanting, and what would work. The command prints
the message alone and exits with 1.
"""

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path


class Ham10000Error(Exception):
    """Anything that ham10000 refuses to do."""


class ArgumentError(Ham10000Error, ValueError):
    """An argument has a value that can't work."""


class DataError(Ham10000Error, ValueError):
    """A table, an image or a folder of the data set can't be used as it is."""


class MissingDataError(Ham10000Error, FileNotFoundError):
    """A file or folder of the data set is not there."""


class SplitError(Ham10000Error, ValueError):
    """A split is not one, or can't be made."""


class RecipeError(Ham10000Error, ValueError):
    """A recipe has a field that there is not, or a value that can't be."""


class PredictionError(Ham10000Error, ValueError):
    """Predictions can't be measured as they are, or two sets of them can't be compared."""


class MissingPackageError(Ham10000Error, ImportError):
    """Something is wanted for which a package must be installed first."""


class CacheError(Ham10000Error, ValueError):
    """A cache can't be read."""


class CheckpointError(Ham10000Error, ValueError):
    """A checkpoint is damaged, or of something else."""


class TrainingError(Ham10000Error, RuntimeError):
    """Training can't go on."""


class DownloadError(Ham10000Error, ConnectionError):
    """Something can't be downloaded, or what arrived is not what was published."""


class ArchiveError(Ham10000Error, ValueError):
    """An archive holds something that must not be extracted."""


class WriteError(Ham10000Error, OSError):
    """Something can't be written."""


def cannot_write(path: Path, error: OSError) -> WriteError:
    """Turn the system's error at writing a file into one that says what to do about it.

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
    return WriteError(f"writing {path}: {reason}. {remedy}; nothing half-written was left behind.")


def closest(name: str, options: Iterable[str], count: int = 3) -> str:
    """Say which options are nearest to a name that is none of them, as the end of a message.

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
    """List the first few of many, and how many there are besides.

    Example:
        >>> from ham10000.errors import some
        >>> some(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    shown = [str(name) for name in names]
    rest = len(shown) - count
    return ", ".join(shown[:count]) + (f" and {rest} more" if rest > 0 else "")
