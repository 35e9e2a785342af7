"""Download of the data set from the Dataverse, the mirror on Kaggle or the challenge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import kagglehub

from ham10000.data.download.archive import extract
from ham10000.data.download.http import Patience, fetch
from ham10000.data.folder import convert_challenge
from ham10000.errors import ArgumentError, DownloadError, cannot_write, closest

__all__ = ["KAGGLE_HANDLE", "PARTS", "SOURCES", "Part", "RemoteFile", "by_hand", "download_dataset"]

Part = Literal["images", "metadata", "masks", "test"]

PARTS: tuple[Part, ...] = ("images", "metadata", "masks", "test")
"""`images` and `metadata` are required, `masks` and the official `test` set are optional."""

KAGGLE_HANDLE = "kmader/skin-cancer-mnist-ham10000"

_GIB = 2**30


@dataclass(frozen=True)
class RemoteFile:
    """A file to download."""

    part: Part
    name: str
    """File name on disk."""
    url: str
    sums: str | None = None
    """Checksum in pooch's form, "md5:..."; `None` if none is published."""
    folder: str | None = None
    """Folder for the files of an archive; `None` for a file that is not an archive."""
    most: int = 8 * _GIB
    """Upper bound of its size in bytes."""


def _dataverse(number: int, *, table: bool = False) -> str:
    # The Dataverse serves tables in a tab-separated form of its own by default.
    form = "?format=original" if table else ""
    return f"https://dataverse.harvard.edu/api/access/datafile/{number}{form}"


def _challenge(name: str) -> str:
    return f"https://isic-challenge-data.s3.amazonaws.com/2018/{name}"


SOURCES: dict[str, tuple[RemoteFile, ...]] = {
    "dataverse": (
        RemoteFile(
            "images",
            "HAM10000_images_part_1.zip",
            _dataverse(3172585),
            "md5:4639bfa73ab251610530a97c898e6e46",
            "HAM10000_images_part_1",
        ),
        RemoteFile(
            "images",
            "HAM10000_images_part_2.zip",
            _dataverse(3172584),
            "md5:da43d6cc50f6613013be07e8986b384b",
            "HAM10000_images_part_2",
        ),
        RemoteFile(
            "metadata",
            "HAM10000_metadata.csv",
            _dataverse(4338392, table=True),
            "md5:8f85fb1aa29d80a2797247e434deb79d",
        ),
        RemoteFile(
            "masks",
            "HAM10000_segmentations_lesion_tschandl.zip",
            _dataverse(3838943),
            folder="HAM10000_segmentations_lesion_tschandl",
        ),
        RemoteFile(
            "test",
            "ISIC2018_Task3_Test_Images.zip",
            _dataverse(3855824),
            folder="ISIC2018_Task3_Test_Images",
        ),
        RemoteFile("test", "ISIC2018_Task3_Test_GroundTruth.csv", _dataverse(6924466, table=True)),
    ),
    "isic": (
        RemoteFile(
            "images",
            "ISIC2018_Task3_Training_Input.zip",
            _challenge("ISIC2018_Task3_Training_Input.zip"),
            folder="ISIC2018_Task3_Training_Input",
        ),
        RemoteFile(
            "metadata",
            "ISIC2018_Task3_Training_GroundTruth.zip",
            _challenge("ISIC2018_Task3_Training_GroundTruth.zip"),
            folder="ISIC2018_Task3_Training_GroundTruth",
        ),
        RemoteFile(
            "metadata",
            "ISIC2018_Task3_Training_LesionGroupings.csv",
            _challenge("ISIC2018_Task3_Training_LesionGroupings.csv"),
        ),
        RemoteFile(
            "test",
            "ISIC2018_Task3_Test_Input.zip",
            _challenge("ISIC2018_Task3_Test_Input.zip"),
            folder="ISIC2018_Task3_Test_Input",
        ),
        RemoteFile(
            "test",
            "ISIC2018_Task3_Test_GroundTruth.zip",
            _challenge("ISIC2018_Task3_Test_GroundTruth.zip"),
            folder="ISIC2018_Task3_Test_GroundTruth",
        ),
    ),
}


def download_dataset(
    out: Path,
    source: str = "dataverse",
    parts: Sequence[Part] = ("images", "metadata"),
    *,
    mirror: str | None = None,
    patience: Patience = Patience(),  # noqa: B008 - it is frozen
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Download the missing parts of HAM10000.

    Archives are kept in `out`/archives until you remove them. An interrupted download is resumed
    when this is called again.

    Args:
        out: folder of the data set.
        source: "dataverse", "kaggle" or "isic" (the challenge's archives).
        parts: any of images, metadata, masks and test.
        mirror: base URL that serves the files of the source under their names.
        patience: timeouts and retries.
        say: called with a line of text for each step.

    Raises:
        ArgumentError: there is no such source or part.
        DownloadError: a file can't be downloaded; the message says how to get it by hand.
        ArchiveError: an archive is damaged or has an entry that must not be extracted.
        WriteError: the disk is full or read-only.
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
    except Exception as error:  # kagglehub raises the errors of the libraries that it uses
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DownloadError(
            f"downloading {KAGGLE_HANDLE}: {reason[:200]} By hand: download it in a browser from "
            f"https://www.kaggle.com/datasets/{KAGGLE_HANDLE} and unpack it into {out}"
        ) from error
