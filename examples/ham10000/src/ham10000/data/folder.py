"""Where the files of a data set are: the Dataverse's layout, Kaggle's and the challenge's."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ham10000.data.metadata import read_table
from ham10000.errors import DataError, MissingDataError, some

__all__ = ["DATA_VARIABLE", "Folder", "data_folder", "find_files", "find_table", "open_folder"]

DATA_VARIABLE = "HAM10000_DIR"

# Kaggle's mirror spells the folders both ways, and unpacking makes a folder in a folder.
_IMAGES = re.compile(r"(ham10000_images_part_\d|isic2018_task3_training_input)", re.IGNORECASE)
_MASKS = re.compile(r"ham10000_segmentations_lesion_tschandl", re.IGNORECASE)
_MASK_ENDING = "_segmentation"


_NAMES = tuple(f"HAM10000_metadata{suffix}" for suffix in (".csv", ".tab", ".tsv", ".txt", ""))


@dataclass(frozen=True)
class Folder:
    """A data set on disk: its table, and for each image where its file and its mask are."""

    root: Path
    table_path: Path
    table: pd.DataFrame
    """As `read_table` gives it, in the file's order."""
    images: dict[str, Path]
    masks: dict[str, Path]
    repeats: dict[str, list[Path]] = field(default_factory=dict)
    """Images that are there more than once, and where else."""

    def paths(self) -> list[Path]:
        """Return the image files in the order of the table.

        Raises:
            MissingDataError: a row has no image.
        """
        missing = [name for name in self.table["image_id"] if name not in self.images]
        if missing:
            row = self.table["image_id"].tolist().index(missing[0]) + 2
            raise MissingDataError(
                f"opening {self.root}: there is no image {missing[0]}.jpg, which row {row} of "
                f"{self.table_path.name} names ({len(missing)} images are missing: "
                f"{some(missing)}). Get them with: ham10000 download --parts images"
            )
        return [self.images[name] for name in self.table["image_id"]]

    def mask_paths(self) -> list[Path]:
        """Return the mask files in the order of the table.

        Raises:
            MissingDataError: an image has no mask.
        """
        missing = [name for name in self.table["image_id"] if name not in self.masks]
        if missing:
            raise MissingDataError(
                f"opening {self.root}: there is no mask {missing[0]}{_MASK_ENDING}.png "
                f"({len(missing)} are missing). Get them with: ham10000 download --parts masks"
            )
        return [self.masks[name] for name in self.table["image_id"]]


def data_folder(data: Path | None) -> Path:
    """Return the folder that an argument names, or else the variable HAM10000_DIR.

    Raises:
        MissingDataError: neither names one, or it is not there.
    """
    named = data if data is not None else os.environ.get(DATA_VARIABLE)
    if not named:
        raise MissingDataError(
            f"finding the data set: neither --data nor the variable {DATA_VARIABLE} names a "
            "folder. Get it with: ham10000 download --out DIR, or make one with: "
            "ham10000 synthesize --out DIR"
        )
    folder = Path(named)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "is not there"
        raise MissingDataError(
            f"opening {folder}: it {what}. Get the data set with: ham10000 download --out {folder}"
        )
    return folder


def open_folder(root: Path) -> Folder:
    """Read the table of a data set and find its files, which are not opened.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.data import open_folder
        >>> from ham10000.data import synthesize
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     synthesize(Path(folder) / "set", images=20, seed=0, width=60)
        ...     found = open_folder(Path(folder) / "set")
        >>> len(found.table), len(found.images), len(found.masks)
        (20, 20, 20)

    Raises:
        MissingDataError: there is no table.
        DataError: the table can't be used, or there is no folder of images.
    """
    root = data_folder(root)
    table_path = find_table(root)
    table = read_table(table_path)
    images, repeats = find_files(root, _IMAGES, (".jpg", ".jpeg"))
    if not images:
        raise DataError(
            f"opening {root}: there is no image in it. Expected folders HAM10000_images_part_1 and "
            "HAM10000_images_part_2 with ISIC_*.jpg in them. Get them with: "
            "ham10000 download --parts images"
        )
    masks, _ = find_files(root, _MASKS, (".png",))
    masks = {name.removesuffix(_MASK_ENDING): path for name, path in masks.items()}
    return Folder(root, table_path, table, images, masks, repeats)


def find_table(root: Path) -> Path:
    """Find the table of a data folder; the Dataverse's arrives under several names.

    Raises:
        MissingDataError: there is none.
    """
    for name in _NAMES:
        if (root / name).is_file():
            return root / name
    raise MissingDataError(
        f"opening {root}: there is no table HAM10000_metadata.csv (nor .tab, .tsv, .txt, nor "
        "without an extension). Get it with: ham10000 download --parts metadata"
    )


def find_files(
    root: Path, folders: re.Pattern[str], endings: tuple[str, ...]
) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """Find files by their names without extension, in the folders whose names match.

    Returns:
        Where each is, and for those that are there more than once, where else. The first in the
        order of the folders' names counts.
    """
    found: dict[str, Path] = {}
    repeats: dict[str, list[Path]] = {}
    for folder in _matching(root, folders):
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            path = Path(entry.path)
            # macOS puts ._ files beside the real ones.
            if path.suffix.lower() not in endings or path.name.startswith(".") or entry.is_dir():
                continue
            if path.stem in found:
                repeats.setdefault(path.stem, []).append(path)
            else:
                found[path.stem] = path
    return found, repeats


def _matching(root: Path, folders: re.Pattern[str], depth: int = 2) -> list[Path]:
    matching: list[Path] = []
    for path in sorted(path for path in root.iterdir() if path.is_dir()):
        if folders.fullmatch(path.name):
            matching.append(path)
        if depth > 0 and not path.name.startswith("."):
            matching += _matching(path, folders, depth - 1)
    return matching
