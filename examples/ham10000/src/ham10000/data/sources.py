"""Where HAM10000 can be had: the Dataverse, the mirror on Kaggle, and the challenge's archives.

File numbers and sums of the Dataverse are of version 4 of doi:10.7910/DVN/DBW86T. The sums come
from third parties; where none is known, what arrives is judged by `verify`.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["KAGGLE_HANDLE", "PARTS", "SOURCES", "Part", "RemoteFile"]

Part = Literal["images", "metadata", "masks", "test"]

PARTS: tuple[Part, ...] = ("images", "metadata", "masks", "test")
"""`images` and `metadata` are needed; masks and the official test set are for who wants them."""

KAGGLE_HANDLE = "kmader/skin-cancer-mnist-ham10000"

_GIB = 2**30


@dataclass(frozen=True)
class RemoteFile:
    """One file to download."""

    part: Part
    name: str
    """What it is called on disk."""
    url: str
    sums: str | None = None
    """As pooch takes it, "md5:..."; `None` where nobody publishes one."""
    folder: str | None = None
    """Where an archive's files belong; `None` for a file that is no archive."""
    most: int = 8 * _GIB
    """More bytes than the file can have."""


def _dataverse(number: int, *, table: bool = False) -> str:
    # The Dataverse turns tables into tab-separated ones of its own, unless asked not to.
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
