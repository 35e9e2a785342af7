"""Checkpoints that a crash can't take away: whole or not there, and known to be whole.

A checkpoint is a file that `torch.load` reads. It is a zip archive, and the archive's comment is
the SHA-256 of everything before it, so that one file has both and one rename puts it in place.
"""

import hashlib
import io
import logging
import re
from pathlib import Path
from typing import Any

import torch

from ham10000.errors import CheckpointError, Ham10000Error, MissingDataError
from ham10000.utils import PARTIAL, replacing

__all__ = ["BEST", "latest", "read_checkpoint", "save_step", "steps_in", "write_checkpoint"]

BEST = "best.pt"

_LOG = logging.getLogger(__name__)
_STEP = re.compile(r"step-(\d{8,})\.pt")
_LABEL = b"sha256:"
_LENGTH = len(_LABEL) + 64


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers, texts, lists and dicts of them to one file, or leave what was there.

    Raises:
        WriteError: the disk is full, or may not be written to.
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
    """Read what `write_checkpoint` wrote, if it is still that.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.training.checkpoints import read_checkpoint, write_checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "step-00000001.pt"
        ...     write_checkpoint(path, {"step": 1})
        ...     read_checkpoint(path)
        {'step': 1}

    Raises:
        MissingDataError: there is no such file.
        CheckpointError: it was cut short or changed, or holds something that isn't data.
    """
    doing = f"reading the checkpoint {path}"
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingDataError(f"{doing}: there is no such file.") from error
    except OSError as error:
        raise CheckpointError(f"{doing}: {(error.strerror or str(error)).lower()}.") from error
    whole, comment = memoryview(raw)[:-_LENGTH], raw[-_LENGTH:]
    if not comment.startswith(_LABEL) or comment != _comment(whole):
        raise CheckpointError(
            f"{doing}: it was cut short or changed after it was written, as its checksum says. "
            "Use the one before it."
        )
    try:
        content = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise CheckpointError(f"{doing}: it holds no checkpoint ({error}).") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{doing}: it holds a {type(content).__name__}, no checkpoint.")
    return content


def save_step(folder: Path, step: int, content: dict[str, Any], keep: int) -> bool:
    """Write the checkpoint of a step and remove all but the last `keep`, or say that it failed.

    A failure, as of a full disk, is logged, and the older checkpoints stay: training goes on.
    """
    try:
        write_checkpoint(folder / f"step-{step:08d}.pt", content)
    except Ham10000Error as error:
        _LOG.error("No checkpoint of step %d: %s Training goes on.", step, error)
        return False
    for path in steps_in(folder)[keep:]:
        path.unlink(missing_ok=True)
    for path in folder.glob(f"{PARTIAL}*"):  # of a process that was killed while it wrote
        path.unlink(missing_ok=True)
    return True


def latest(folder: Path) -> dict[str, Any] | None:
    """Read the last checkpoint that is whole; `None` if there is none at all.

    Raises:
        CheckpointError: there are some, and none is whole.
    """
    paths = steps_in(folder)
    for path in paths:
        content = _if_whole(path)
        if content is not None:
            return content
    if paths:
        raise CheckpointError(
            f"resuming from {folder}: none of its {len(paths)} checkpoints is whole. "
            "Remove the folder to start anew."
        )
    return None


def steps_in(folder: Path) -> list[Path]:
    """Return the checkpoints of steps, the last one first."""
    if not folder.is_dir():
        return []
    found = [
        (int(match[1]), path) for path in folder.iterdir() if (match := _STEP.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def _if_whole(path: Path) -> dict[str, Any] | None:
    try:
        return read_checkpoint(path)
    except Ham10000Error as error:
        _LOG.error("%s", error)
        return None


def _comment(raw: bytes | memoryview) -> bytes:
    return _LABEL + hashlib.sha256(raw).hexdigest().encode()
