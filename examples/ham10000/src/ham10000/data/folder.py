"""The files of a data set on disk: its table, images and masks.

Images are searched for in this order, and the first location with images is used:

1. folders with a published name: for HAM10000, HAM10000_images_part_1 and 2 (Dataverse, Kaggle, in
   any case) or ISIC2018_Task3_Training_Input (challenge),
2. folders such as `images`, `HAM10000_images` or `train`, if an image of the table is in them,
3. the folder of the data set itself, where only images of the table count,
4. folders named after the classes, likewise.

Folders are found up to three levels deep, since archives are often unpacked into a folder of their
own. Images are JPEG or PNG.
"""

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ham10000.data.catalog import HAM10000_INFO
from ham10000.data.descriptions import DatasetInfo
from ham10000.data.images import IMAGE_ENDINGS
from ham10000.data.tables import Labels, read_labels
from ham10000.errors import DataError, MissingDataError, cannot_write, some
from ham10000.utils import new_folder

__all__ = [
    "DATA_VARIABLE",
    "Folder",
    "data_folder",
    "find_files",
    "link_sample",
    "open_folder",
]

DATA_VARIABLE = "HAM10000_DIR"

_PLAIN = re.compile(
    r"((ham10000|ham|all|train|training)[ _-]?)?(images?|imgs?|jpe?gs?|pngs?)|train|training",
    re.IGNORECASE,
)
_PLAIN_MASKS = ("mask", "masks", "segmentation", "segmentations")
_MASK_ENDING = "_segmentation"


@dataclass(frozen=True)
class Folder:
    """A data set on disk: its table, and the files of each image."""

    root: Path
    labels: Labels
    images: dict[str, Path]
    masks: dict[str, Path]
    repeats: dict[str, list[Path]] = field(default_factory=dict)
    """Further files of images that are there more than once."""
    info: DatasetInfo = HAM10000_INFO
    """Description of the data set."""

    @property
    def table(self) -> pd.DataFrame:
        """The table as `read_table` returns it, in the order of its files."""
        return self.labels.table

    def paths(self) -> list[Path]:
        """Return the image files in the order of the table.

        Raises:
            MissingDataError: A row has no image.
        """
        missing = [name for name in self.table["image_id"] if name not in self.images]
        if missing:
            row = self.table["image_id"].tolist().index(missing[0])
            raise MissingDataError(
                f"opening {self.root}: there is no image {missing[0]}.jpg, which "
                f"{self.labels.place_of(row)} names ({len(missing)} images are missing: "
                f"{some(missing)}). {self.info.advice('images')}"
            )
        return [self.images[name] for name in self.table["image_id"]]

    def mask_paths(self) -> list[Path]:
        """Return the mask files in the order of the table.

        Raises:
            MissingDataError: An image has no mask.
        """
        missing = [name for name in self.table["image_id"] if name not in self.masks]
        if missing:
            raise MissingDataError(
                f"opening {self.root}: there is no mask {missing[0]}{_MASK_ENDING}.png "
                f"({len(missing)} are missing). {self.info.advice('masks')}"
            )
        return [self.masks[name] for name in self.table["image_id"]]


def data_folder(data: Path | None, *, exists: bool = True) -> Path:
    """Return the folder that an argument names, or else the variable HAM10000_DIR.

    Args:
        data: The argument.
        exists: Whether the folder must exist.

    Raises:
        MissingDataError: Neither is set, or the folder does not exist.
    """
    named = data if data is not None else os.environ.get(DATA_VARIABLE)
    if not named:
        raise MissingDataError(
            f"finding the data set: neither --data nor the variable {DATA_VARIABLE} names a "
            "folder. Get it with: ham10000 download --out DIR, or make one with: "
            "ham10000 synthesize --out DIR"
        )
    folder = Path(named)
    if exists and not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise MissingDataError(
            f"opening {folder}: it {what}. Get the data set with: ham10000 download --out {folder}"
        )
    return folder


def open_folder(root: Path, info: DatasetInfo = HAM10000_INFO) -> Folder:
    """Read the table of a data set and find its files, without opening them.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.data import open_folder, synthesize
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     synthesize(Path(folder) / "set", images=20, seed=0, width=60)
        ...     found = open_folder(Path(folder) / "set")
        >>> len(found.table), len(found.images), len(found.masks)
        (20, 20, 20)

    Raises:
        MissingDataError: There is no table.
        DataError: The table can't be used, or there are no images.
    """
    root = data_folder(root)
    labels = read_labels(root, info)
    ids = set(labels.table["image_id"])
    images, repeats = _find_images(root, ids, info)
    if info.image_ending:
        images = {_spelled(name, ids, info.image_ending): path for name, path in images.items()}
    if not images:
        raise DataError(
            f"opening {root}: there are no images in it. Expected a folder "
            f"{', '.join([*info.image_folders, 'images'])} or the like, with the images of the "
            f"table. {info.advice('images')}"
        )
    masks, _ = find_files(root, _any_of(*info.mask_folders, *_PLAIN_MASKS), (".png",))
    masks = {name.removesuffix(_MASK_ENDING): path for name, path in masks.items()}
    return Folder(root, labels, images, masks, repeats, info)


def find_files(
    root: Path, names: re.Pattern[str], endings: tuple[str, ...]
) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """Find files by their names without extension, in the folders whose whole names match.

    Args:
        root: The folder to search, three levels deep.
        names: Names of the folders.
        endings: The extensions that count, in lower case.

    Returns:
        The path of each file, the first in the order of the folders' names, and further paths of
        those that are there more than once.
    """
    return _list_files(_find_folders(root, names), endings)


def link_sample(root: Path, out: Path, num_images: int, seed: int) -> int:
    """Make a data set of random lesions of another one, with links to its images and masks.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.data import link_sample, open_folder, synthesize
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     synthesize(Path(folder) / "set", images=60, seed=0, width=60)
        ...     number = link_sample(Path(folder) / "set", Path(folder) / "sample", 20, seed=0)
        ...     len(open_folder(Path(folder) / "sample").paths()) == number >= 20
        True

    Args:
        root: The data set to draw from.
        out: Folder to write, new or empty.
        num_images: Lesions are drawn until they have this many images, or there are no more.
        seed: Seed of the draw.

    Returns:
        The number of images.

    Raises:
        MissingDataError: There is no table, or an image is missing.
        DataError: The table can't be used, or there are no images.
        WriteError: The links can't be created; nothing is left.
    """
    folder = open_folder(root)
    images = dict(zip(folder.table["image_id"], folder.paths(), strict=True))
    lesions = folder.table["lesion_id"]
    drawn = np.random.default_rng(seed).permutation(lesions.unique())
    counts = lesions.value_counts()[drawn].cumsum()
    table = folder.table[lesions.isin(drawn[: 1 + int((counts < num_images).sum())])]
    with new_folder(out) as sample:
        try:
            for name in ("images", "masks"):
                (sample / name).mkdir()
            for image in table["image_id"]:
                link = sample / "images" / f"{image}{images[image].suffix}"
                link.symlink_to(images[image].resolve())
                if image in folder.masks:
                    link = sample / "masks" / f"{image}{_MASK_ENDING}.png"
                    link.symlink_to(folder.masks[image].resolve())
            table.to_csv(sample / "HAM10000_metadata.csv", index=False, lineterminator="\n")
        except OSError as error:
            raise cannot_write(out, error) from error
    return len(table)


def _find_folders(root: Path, names: re.Pattern[str], depth: int = 2) -> list[Path]:
    matching: list[Path] = []
    for path in sorted(path for path in root.iterdir() if path.is_dir()):
        if names.fullmatch(path.name):
            matching.append(path)
        if depth > 0 and not path.name.startswith("."):
            matching += _find_folders(path, names, depth - 1)
    return matching


def _list_files(
    folders: Iterable[Path], endings: tuple[str, ...]
) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    found: dict[str, Path] = {}
    repeats: dict[str, list[Path]] = {}
    for folder in folders:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            path = Path(entry.path)
            # macOS writes ._ files next to the real ones.
            if path.suffix.lower() not in endings or path.name.startswith(".") or entry.is_dir():
                continue
            if path.stem in found:
                repeats.setdefault(path.stem, []).append(path)
            else:
                found[path.stem] = path
    return found, repeats


def _find_images(
    root: Path, ids: Collection[str], info: DatasetInfo
) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    for names in (_any_of(*info.image_folders), _PLAIN):
        found, repeats = find_files(root, names, IMAGE_ENDINGS)
        found = {name: path for name, path in found.items() if not info.is_ignored(name)}
        if any(name in ids for name in found) or (found and names is not _PLAIN):
            return found, {name: paths for name, paths in repeats.items() if name in found}
    by_class = _any_of(*info.classes)
    for folders in ([root], _find_folders(root, by_class)):
        found, repeats = _list_files(folders, IMAGE_ENDINGS)
        found = {name: path for name, path in found.items() if name in ids}
        if found:
            return found, {name: paths for name, paths in repeats.items() if name in ids}
    return {}, {}


def _spelled(name: str, ids: Collection[str], ending: str) -> str:
    """Return the name that a file has in the table, which may differ in its ending."""
    other = name.removesuffix(ending) if name.endswith(ending) else name + ending
    return other if name not in ids and other in ids else name


def _any_of(*names: str) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, names)), re.IGNORECASE)
