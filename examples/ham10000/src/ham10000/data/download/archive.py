"""Extraction of a zip archive that may be damaged or hostile."""

import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ham10000.errors import ArchiveError, Ham10000Error, cannot_write
from ham10000.utils import new_folder, with_bar

__all__ = ["extract"]

MAX_FILES = 50_000
MAX_BYTES = 16 * 2**30
"""Most bytes in all, unpacked. All of HAM10000 has 5.6 GiB."""
MAX_FILE_BYTES = 256 * 2**20
MAX_RATIO = 200
"""Largest ratio of unpacked to packed size. An all-black mask has about 100, a JPEG 1."""
MAX_NAME_BYTES = 255

_CHUNK = 1 << 20


def extract(archive: Path, out: Path, *, most: int = MAX_BYTES) -> int:
    """Extract an archive into a new folder, completely or not at all.

    Files keep their names. The folders of the archive are left out, and so are the files that macOS
    adds. Every entry is checked before the first byte is written.

    Args:
        archive: a zip file.
        out: the folder to make.
        most: refuse an archive with more bytes than this, unpacked.

    Returns:
        The number of files extracted.

    Raises:
        ArchiveError: it is not a zip archive or damaged; or an entry has a path outside the
            archive, is a link, is too large, or has an invalid or repeated name. The message names
            the entry.
        ArgumentError: `out` already exists.
        WriteError: the disk is full; nothing is left.
    """
    doing = f"extracting {archive}"
    with _reading(doing):
        opened = zipfile.ZipFile(archive)
    with opened:
        entries = _check(opened, doing, most)
        with new_folder(out) as folder:
            for entry in with_bar(entries, f"Extracting {archive.name}", len(entries)):
                _extract_one(opened, entry, folder, doing)
    return len(entries)


def _check(opened: zipfile.ZipFile, doing: str, most: int) -> list[zipfile.ZipInfo]:
    entries: list[zipfile.ZipInfo] = []
    names: dict[str, str] = {}
    total = 0
    listed = opened.infolist()
    if len(listed) > MAX_FILES:
        raise _refusal(doing, f"it lists {len(listed):,} files, more than {MAX_FILES:,}")
    for entry in listed:
        where = _path(entry)
        if where.is_absolute() or ".." in where.parts or ":" in entry.filename:
            raise _refusal(doing, f"the entry {entry.filename!r} has a path outside the archive")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise _refusal(doing, f"the entry {entry.filename!r} is a link")
        if not where.name or len(where.name.encode(errors="replace")) > MAX_NAME_BYTES:
            raise _refusal(doing, f"the entry {entry.filename!r} has no valid name")
        if entry.is_dir() or where.name.startswith(".") or "__MACOSX" in where.parts:
            continue
        packed = max(1, entry.compress_size)
        if entry.file_size > MAX_FILE_BYTES or (
            entry.file_size > _CHUNK and entry.file_size / packed > MAX_RATIO
        ):
            raise _refusal(
                doing,
                f"the entry {entry.filename!r} unpacks {packed:,} to {entry.file_size:,} bytes",
            )
        total += entry.file_size
        if total > most:
            raise _refusal(doing, f"it unpacks to more than {most:,} bytes")
        # Some file systems don't distinguish A from a.
        twin = names.setdefault(where.name.lower(), entry.filename)
        if twin != entry.filename:
            raise _refusal(doing, f"the entries {twin!r} and {entry.filename!r} have the same name")
        entries.append(entry)
    if not entries:
        raise _refusal(doing, "it contains no files")
    return entries


def _extract_one(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, doing: str) -> None:
    path = folder / _path(entry).name
    size = 0
    with _writing(path):
        file = path.open("xb")
    with file, _reading(doing), opened.open(entry) as packed:
        # zipfile stops at the size that the archive states.
        while chunk := packed.read(_CHUNK):
            size += len(chunk)
            with _writing(path):
                file.write(chunk)
                file.flush()
    if size != entry.file_size:
        raise _refusal(doing, f"the entry {entry.filename!r} is cut short")


def _path(entry: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(entry.filename.replace("\\", "/"))


@contextmanager
def _reading(doing: str) -> Iterator[None]:
    try:
        yield
    except Ham10000Error:
        raise
    except Exception as error:  # zipfile lets through whatever its decompressors raise
        raise ArchiveError(
            f"{doing}: it can't be read as a zip archive ({error}). Remove it and download it "
            "again."
        ) from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def _refusal(doing: str, what: str) -> ArchiveError:
    return ArchiveError(
        f"{doing}: {what}. Nothing was extracted. This is not the published archive: "
        "remove it and download it again."
    )
