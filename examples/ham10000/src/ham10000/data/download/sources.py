"""Where the files of the known data sets are, and their published checksums."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["KAGGLE_HANDLE", "PARTS", "SOURCES", "Part", "RemoteFile"]

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


def _challenge(name: str, year: int = 2018) -> str:
    return f"https://isic-challenge-data.s3.amazonaws.com/{year}/{name}"


# The challenge publishes no checksums. These are the ones that several public projects check
# downloads against, independently of each other: of the archives with images, and of masks; those
# of the tables come from one project.
_SUMS_OF_ISIC2017 = {
    "ISIC-2017_Training_Data.zip": "a14a7e622c67a358797ae59abb8a0b0c",
    "ISIC-2017_Validation_Data.zip": "8d6419d942112f709894c0d82f6c9038",
    "ISIC-2017_Test_v2_Data.zip": "5f6a0b5e1f2972bd1f5ea02680489f09",
    "ISIC-2017_Training_Part1_GroundTruth.zip": "77fdbeb6fbec4139937224416b250f4c",
    "ISIC-2017_Validation_Part1_GroundTruth.zip": "64d3e68fa2deeb8a5e89aa8dec2efd44",
    "ISIC-2017_Test_v2_Part1_GroundTruth.zip": "b1742de6bd257faca3b2b21a4aa3b781",
    "ISIC-2017_Training_Part3_GroundTruth.csv": "0cb4add57c65c22ca1a1cb469ad1f0c5",
    "ISIC-2017_Validation_Part3_GroundTruth.csv": "8d4826a76adcd8fb928ca52a23ebae4c",
    "ISIC-2017_Test_v2_Part3_GroundTruth.csv": "9e957b72a0c4f9e0d924889fd03b36ed",
}


def _of_isic2017(part: Part, ending: str) -> tuple[RemoteFile, ...]:
    names = [name for name in _SUMS_OF_ISIC2017 if name.endswith(ending)]
    return tuple(
        RemoteFile(
            part,
            name,
            _challenge(name, 2017),
            f"md5:{_SUMS_OF_ISIC2017[name]}",
            name.removesuffix(".zip") if name.endswith(".zip") else None,
        )
        for name in names
    )


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
    "isic2017": (
        *_of_isic2017("images", "_Data.zip"),
        *_of_isic2017("metadata", "_Part3_GroundTruth.csv"),
        *_of_isic2017("masks", "_Part1_GroundTruth.zip"),
    ),
}
"""The files of each source."""
