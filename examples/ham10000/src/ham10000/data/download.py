"""`download`: the data set from one of its sources into the layout that everything here reads."""

from collections.abc import Callable, Sequence
from pathlib import Path

import kagglehub

from ham10000.data.archive import extract
from ham10000.data.challenge import convert_challenge
from ham10000.data.fetch import Patience, fetch
from ham10000.data.sources import KAGGLE_HANDLE, PARTS, SOURCES, Part, RemoteFile
from ham10000.errors import ArgumentError, DownloadError, cannot_write, closest

__all__ = ["by_hand", "download"]


def download(
    out: Path,
    source: str = "dataverse",
    parts: Sequence[Part] = ("images", "metadata"),
    *,
    mirror: str | None = None,
    patience: Patience = Patience(),  # noqa: B008 - it is frozen
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Download the parts of HAM10000 that aren't there yet.

    Archives are kept in `out`/archives until you remove them; a broken download goes on where it
    stopped when this is called again.

    Args:
        out: the data set's folder.
        source: "dataverse", "kaggle" or "isic" (the challenge's archives).
        parts: of images, metadata, masks and test.
        mirror: an address that serves the source's files under their names, instead of its own.
        patience: how long to wait for a server.
        say: is told what is being done.

    Raises:
        ArgumentError: there is no such source or part.
        DownloadError: it can't be downloaded; the message says what to put where by hand.
        ArchiveError: an archive holds what must not be extracted.
        WriteError: the disk is full, or may not be written to.
    """
    names = [*SOURCES, "kaggle"]
    if source not in names:
        raise ArgumentError(f"downloading: there is no source {source!r}. {closest(source, names)}")
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
        raise ArgumentError(
            f"downloading: {source} doesn't have {', '.join(absent)}. The Dataverse has all parts."
        )
    for file in wanted:
        _get(file, out, mirror, patience, say)
    if source == "isic" and "metadata" in parts and not (out / "HAM10000_metadata.csv").exists():
        name = "ISIC2018_Task3_Training_GroundTruth"
        convert_challenge(
            out / name / f"{name}.csv",
            out / "ISIC2018_Task3_Training_LesionGroupings.csv",
            out / "HAM10000_metadata.csv",
        )


def by_hand(file: RemoteFile, out: Path) -> str:
    """Say what to put where when nothing can be downloaded."""
    if file.folder is None:
        return f"By hand: save {file.url} as {out / file.name}"
    return (
        f"By hand: save {file.url} as {out / 'archives' / file.name} and run this again, "
        f"or unpack it into {out / file.folder}"
    )


def _get(
    file: RemoteFile,
    out: Path,
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
        # A file that was put there by hand counts, if its sum is right or none is known.
        fetch(url, path, sums=file.sums, most=file.most, patience=patience)
    except DownloadError as error:
        raise DownloadError(f"{error} {by_hand(file, out)}") from error
    if file.folder is not None:
        count = extract(path, place)
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
    except Exception as error:  # kagglehub lets through whatever its own libraries raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DownloadError(
            f"downloading {KAGGLE_HANDLE}: {reason[:200]} By hand: download it in a browser from "
            f"https://www.kaggle.com/datasets/{KAGGLE_HANDLE} and unpack it into {out}"
        ) from error
