"""Download of a data set from the Dataverse, the mirror on Kaggle or the challenges.

Archives may be damaged or hostile, so every entry is checked before it is extracted.
"""

import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import kagglehub

from ham10000.data.catalog import HAM10000_INFO
from ham10000.data.descriptions import DatasetInfo
from ham10000.data.download.http import Patience, fetch
from ham10000.data.download.sources import KAGGLE_HANDLE, PARTS, SOURCES, Part, RemoteFile
from ham10000.data.tables import convert_challenge
from ham10000.errors import (
    ArchiveError,
    ArgumentError,
    DownloadError,
    Ham10000Error,
    cannot_write,
    closest,
)
from ham10000.utils import new_folder, with_bar

__all__ = ["by_hand", "download_dataset", "extract"]

MAX_FILES = 50_000
MAX_BYTES = 16 * 2**30
"""Most bytes in all, unpacked. All of HAM10000 has 5.6 GiB."""
MAX_FILE_BYTES = 256 * 2**20
MAX_RATIO = 200
"""Largest ratio of unpacked to packed size. An all-black mask has about 100, a JPEG 1."""
MAX_NAME_BYTES = 255

_CHUNK = 1 << 20


def download_dataset(
    out: Path,
    source: str | None = None,
    parts: Sequence[Part] = ("images", "metadata"),
    *,
    info: DatasetInfo = HAM10000_INFO,
    mirror: str | None = None,
    patience: Patience = Patience(),  # noqa: B008 - it is frozen
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Download the missing parts of a data set.

    Archives are kept in `out`/archives until you remove them. An interrupted download is resumed
    when this is called again.

    Args:
        out: Folder of the data set.
        source: One of `info.sources`; by default the first one. Those of HAM10000 are "dataverse",
            "kaggle" and "isic" (the challenge's archives).
        parts: Any of images, metadata, masks and test.
        info: Description of the data set.
        mirror: Base URL that serves the files of the source under their names.
        patience: Timeouts and retries.
        say: Called with a line of text for each step.

    Raises:
        ArgumentError: The data set can't be downloaded, or there is no such source or part.
        DownloadError: A file can't be downloaded; the message says how to get it by hand.
        ArchiveError: An archive is damaged or has an entry that must not be extracted.
        WriteError: The disk is full or read-only.
    """
    if not info.sources:
        raise ArgumentError(
            f"downloading: no source of {info.title} is known. {info.advice('images')}."
        )
    source = source or info.sources[0]
    if source not in info.sources:
        advice = closest(source, info.sources) if len(info.sources) > 1 else "Leave --source out."
        raise ArgumentError(f"downloading: {info.title} has no source {source!r}. {advice}")
    for part in parts:
        if part not in PARTS:
            raise ArgumentError(f"downloading: there is no part {part!r}. {closest(part, PARTS)}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    if source == "kaggle":
        _from_kaggle(out, parts, say)
        return
    wanted = [file for file in SOURCES[source] if file.part in parts]
    absent = sorted(set(parts) - {file.part for file in wanted})
    if absent:
        others = "The Dataverse has all parts." if len(info.sources) > 1 else "Leave it out."
        raise ArgumentError(f"downloading: {source} doesn't have {', '.join(absent)}. {others}")
    for file in wanted:
        _get(file, out, info, mirror, patience, say)
    if source == "isic" and "metadata" in parts and not (out / "HAM10000_metadata.csv").exists():
        name = "ISIC2018_Task3_Training_GroundTruth"
        convert_challenge(
            out / name / f"{name}.csv",
            out / "ISIC2018_Task3_Training_LesionGroupings.csv",
            out / "HAM10000_metadata.csv",
        )


def extract(
    archive: Path,
    out: Path,
    *,
    most: int = MAX_BYTES,
    leave_out: Callable[[str], bool] = lambda name: False,
) -> int:
    """Extract an archive into a new folder, completely or not at all.

    Files keep their names. The folders of the archive are left out, and so are the files that macOS
    adds. Every entry is checked before the first byte is written.

    Args:
        archive: A zip file.
        out: The folder to make.
        most: Refuse an archive with more bytes than this, unpacked.
        leave_out: Called with the name of a file, without extension; whether not to extract it.

    Returns:
        The number of files extracted.

    Raises:
        ArchiveError: It is not a zip archive or damaged; or an entry has a path outside the
            archive, is a link, is too large, or has an invalid or repeated name. The message names
            the entry.
        ArgumentError: `out` already exists.
        WriteError: The disk is full; nothing is left.
    """
    doing = f"extracting {archive}"
    with _reading(doing):
        opened = zipfile.ZipFile(archive)
    with opened:
        entries = _check_entries(opened, doing, most)
        entries = [entry for entry in entries if not leave_out(_entry_path(entry).stem)]
        with new_folder(out) as folder:
            for entry in with_bar(entries, f"Extracting {archive.name}", len(entries)):
                _extract_one(opened, entry, folder, doing)
    return len(entries)


def by_hand(file: RemoteFile, out: Path) -> str:
    """Return instructions for downloading a file by hand."""
    if file.folder is None:
        return f"By hand: save {file.url} as {out / file.name}"
    return (
        f"By hand: save {file.url} as {out / 'archives' / file.name} and run this again, "
        f"or unpack it into {out / file.folder}"
    )


def _get(
    file: RemoteFile,
    out: Path,
    info: DatasetInfo,
    mirror: str | None,
    patience: Patience,
    say: Callable[[str], None],
) -> None:
    place = out / (file.folder or file.name)
    if file.folder is not None and place.is_dir() and any(place.iterdir()):
        say(f"{place} is there already")
        return
    url = f"{mirror.rstrip('/')}/{file.name}" if mirror else file.url
    path = out / "archives" / file.name if file.folder is not None else place
    say(f"{file.name} from {url}")
    try:
        # A file that was put there by hand is used, if its checksum is right or none is published.
        fetch(url, path, sums=file.sums, most=file.most, patience=patience)
    except DownloadError as error:
        raise DownloadError(f"{error} {by_hand(file, out)}") from error
    if file.folder is not None:
        count = extract(path, place, leave_out=info.is_ignored)
        say(f"{count:,} files in {place}")


def _from_kaggle(out: Path, parts: Sequence[Part], say: Callable[[str], None]) -> None:
    beyond = sorted(set(parts) - {"images", "metadata"})
    if beyond:
        raise ArgumentError(
            f"downloading: the mirror on Kaggle doesn't have {', '.join(beyond)}. "
            "Use --source dataverse for these."
        )
    say(f"{KAGGLE_HANDLE} with kagglehub")
    try:
        kagglehub.dataset_download(KAGGLE_HANDLE, output_dir=str(out))
    except Exception as error:  # kagglehub raises the errors of the libraries that it uses
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DownloadError(
            f"downloading {KAGGLE_HANDLE}: {reason[:200]} By hand: download it in a browser from "
            f"https://www.kaggle.com/datasets/{KAGGLE_HANDLE} and unpack it into {out}"
        ) from error


def _check_entries(opened: zipfile.ZipFile, doing: str, most: int) -> list[zipfile.ZipInfo]:
    entries: list[zipfile.ZipInfo] = []
    names: dict[str, str] = {}
    total = 0
    listed = opened.infolist()
    if len(listed) > MAX_FILES:
        raise _refusal(doing, f"it lists {len(listed):,} files, more than {MAX_FILES:,}")
    for entry in listed:
        where = _entry_path(entry)
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
    path = folder / _entry_path(entry).name
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


def _entry_path(entry: zipfile.ZipInfo) -> PurePosixPath:
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
