"""Checkpoint files: written atomically, and verified when they are read.

A checkpoint is a file for `torch.load`, which is a zip archive. The comment of the archive is the
SHA-256 of everything before it, so one rename puts content and checksum in place together.
"""

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import torch

from ham10000.errors import CheckpointError, Ham10000Error, MissingDataError
from ham10000.training.run_dir import RunDir
from ham10000.utils import PARTIAL, replacing

__all__ = [
    "VERSION",
    "check_version",
    "read_checkpoint",
    "read_latest",
    "save_step",
    "write_checkpoint",
]

VERSION = 2
"""Version of the content of a checkpoint."""

_LOG = logging.getLogger(__name__)
_LABEL = b"sha256:"
_LENGTH = len(_LABEL) + 64


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and dicts to a file, atomically.

    Raises:
        WriteError: The file cannot be written; an older one is unchanged.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    # An archive without a comment ends with the comment's length, which is 0.
    buffer.seek(-2, io.SEEK_END)
    buffer.write(_LENGTH.to_bytes(2, "little"))
    raw = buffer.getbuffer()
    with replacing(path) as file:
        file.write(raw)
        file.write(_comment(raw))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file of `write_checkpoint` and verify its checksum.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.training.checkpoint_file import read_checkpoint, write_checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "step-00000001.pt"
        ...     write_checkpoint(path, {"step": 1})
        ...     read_checkpoint(path)
        {'step': 1}

    Raises:
        MissingDataError: The file does not exist.
        CheckpointError: It is truncated or changed, or holds objects other than data.
    """
    doing = f"reading the checkpoint {path}"
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingDataError(f"{doing}: the file does not exist.") from error
    except OSError as error:
        raise CheckpointError(f"{doing}: {(error.strerror or str(error)).lower()}.") from error
    whole, comment = memoryview(raw)[:-_LENGTH], raw[-_LENGTH:]
    if not comment.startswith(_LABEL) or comment != _comment(whole):
        raise CheckpointError(
            f"{doing}: the file is truncated or was changed (its checksum is wrong). "
            "Use an older one."
        )
    try:
        content = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise CheckpointError(f"{doing}: the file is not a checkpoint ({error}).") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{doing}: expected a dict, found a {type(content).__name__}.")
    return content


def check_version(content: dict[str, Any], doing: str) -> None:
    """Check that this version of ham10000 can use a checkpoint.

    Raises:
        CheckpointError: Another version wrote it.
    """
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{doing}: the checkpoint has version {content.get('version')!r}, expected {VERSION}. "
            "Use the version of ham10000 that wrote it."
        )


def save_step(run: RunDir, step: int, content: dict[str, Any], keep: int) -> bool:
    """Write the checkpoint of a step and remove all but the newest `keep`.

    A failure, such as a full disk, is logged, and older checkpoints are kept.

    Returns:
        Whether the checkpoint was written.
    """
    try:
        write_checkpoint(run.step_checkpoint(step), content)
    except Ham10000Error as error:
        _LOG.error("No checkpoint of step %d: %s Training continues.", step, error)
        return False
    for path in run.step_checkpoints()[keep:]:
        path.unlink(missing_ok=True)
    for path in run.checkpoints.glob(f"{PARTIAL}*"):  # of a process that was killed while writing
        path.unlink(missing_ok=True)
    return True


def read_latest(run: RunDir) -> dict[str, Any] | None:
    """Return the newest undamaged checkpoint of a run; `None` if it has no checkpoint.

    Raises:
        CheckpointError: All checkpoints are damaged.
    """
    paths = run.step_checkpoints()
    for path in paths:
        try:
            return read_checkpoint(path)
        except Ham10000Error as error:
            _LOG.error("%s", error)
    if paths:
        raise CheckpointError(
            f"resuming {run.path}: all {len(paths)} checkpoints are damaged. "
            "Remove the folder to train from the beginning."
        )
    return None


def _comment(raw: bytes | memoryview) -> bytes:
    return _LABEL + hashlib.sha256(raw).hexdigest().encode()
