"""Taking files out of a zip archive that may be hostile."""

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from ham10000.errors import ArchiveError, cannot_write
from ham10000.utils import new_folder, with_bar

__all__ = ["extract"]

MAX_FILES = 50_000
MAX_BYTES = 16 * 2**30
"""Unpacked; all of HAM10000 is 5.6 GiB."""
MAX_FILE_BYTES = 256 * 2**20
MAX_RATIO = 200
"""Unpacked by packed; JPEG doesn't shrink at all, an all-black mask does by about 100."""

_CHUNK = 1 << 20


def extract(archive: Path, out: Path, *, most: int = MAX_BYTES) -> int:
    """Extract an archive into a new folder, all of it or nothing.

    Files keep their names; folders around them that the archive adds are left out, and so is what
    macOS adds. Every entry is checked before the first byte is written.

    Args:
        archive: a zip file.
        out: the folder to make.
        most: refuse more bytes than this, unpacked.

    Returns:
        How many files were extracted.

    Raises:
        ArchiveError: it is no zip or damaged; an entry leads outside, is a link, is too large, or
            has the name of another. The message names the entry.
        WriteError: the disk is full; nothing is left.
    """
    doing = f"extracting {archive}"
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _check(opened, doing, most)
            with new_folder(out) as folder:
                for entry in with_bar(entries, f"Extracting {archive.name}", len(entries)):
                    _extract_one(opened, entry, folder, doing)
            return len(entries)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ArchiveError(
            f"{doing}: it is not a whole zip archive ({error}). Remove it and download it again."
        ) from error


def _check(opened: zipfile.ZipFile, doing: str, most: int) -> list[zipfile.ZipInfo]:
    entries: list[zipfile.ZipInfo] = []
    names: dict[str, str] = {}
    total = 0
    listed = opened.infolist()
    if len(listed) > MAX_FILES:
        raise _refusal(doing, f"it lists {len(listed):,} files, more than {MAX_FILES:,}")
    for entry in listed:
        where = PurePosixPath(entry.filename.replace("\\", "/"))
        if where.is_absolute() or ".." in where.parts or ":" in entry.filename:
            raise _refusal(doing, f"the entry {entry.filename!r} leads outside")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise _refusal(doing, f"the entry {entry.filename!r} is a link")
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
        # Some systems don't tell A from a.
        twin = names.setdefault(where.name.lower(), entry.filename)
        if twin != entry.filename:
            raise _refusal(doing, f"the entries {twin!r} and {entry.filename!r} have one name")
        entries.append(entry)
    if not entries:
        raise _refusal(doing, "it holds no file")
    return entries


def _extract_one(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, doing: str) -> None:
    path = folder / PurePosixPath(entry.filename.replace("\\", "/")).name
    try:
        with opened.open(entry) as packed, path.open("xb") as file:
            # zipfile stops at the size that the archive states, and so does this.
            shutil.copyfileobj(packed, file, _CHUNK)
    except OSError as error:
        raise cannot_write(path, error) from error
    if path.stat().st_size != entry.file_size:
        raise _refusal(doing, f"the entry {entry.filename!r} is cut short")


def _refusal(doing: str, what: str) -> ArchiveError:
    return ArchiveError(
        f"{doing}: {what}. Nothing was extracted. This is not the published archive: "
        "remove it and download it again."
    )
