import errno
from pathlib import Path

import pytest

from ham10000 import errors


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.ArgumentError, ValueError),
        (errors.DataError, ValueError),
        (errors.MissingDataError, FileNotFoundError),
        (errors.SplitError, ValueError),
        (errors.PredictionError, ValueError),
        (errors.RecipeError, ValueError),
        (errors.MissingPackageError, ImportError),
        (errors.CacheError, ValueError),
        (errors.CheckpointError, ValueError),
        (errors.TrainingError, RuntimeError),
        (errors.LockedError, RuntimeError),
        (errors.DownloadError, ConnectionError),
        (errors.ArchiveError, ValueError),
        (errors.WriteError, OSError),
    ],
)
def test_each_error_is_the_builtin_that_a_caller_expects(
    error: type[Exception], builtin: type[Exception]
) -> None:
    assert issubclass(error, builtin)
    assert issubclass(error, errors.Ham10000Error)
    assert str(error("what happened")) == "what happened"


def test_a_full_disk_is_distinguished_from_missing_permission() -> None:
    full = errors.cannot_write(Path("x"), OSError(errno.ENOSPC, "No space left on device"))
    forbidden = errors.cannot_write(Path("x"), OSError(errno.EACCES, "Permission denied"))
    assert "Free some" in str(full)
    assert "permissions" in str(forbidden)


def test_closest_lists_the_options_when_nothing_is_near() -> None:
    assert errors.closest("zzz", ["akiec", "bcc"]) == "There are: akiec, bcc."
    assert errors.closest("zzz", []) == "There are none."
