"""The files of a data set on disk: its table, images and masks.

Images are searched for in this order, and the first location with images is used:

1. folders with a published name: HAM10000_images_part_1 and 2 (Dataverse, Kaggle, in any case) or
   ISIC2018_Task3_Training_Input (challenge),
2. folders such as `images`, `HAM10000_images` or `train`, if an image of the table is in them,
3. the folder of the data set itself, where only images of the table count,
4. folders named after the classes, likewise.

Folders are found up to three levels deep, since archives are often unpacked into a folder of their
own. Images are JPEG or PNG. The table is HAM10000_metadata or, without it, the challenge's one-hot
ground truth together with its lesion groupings.
"""

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ham10000.data.constants import CLASSES, TABLE_COLUMNS
from ham10000.data.images import IMAGE_ENDINGS
from ham10000.data.metadata import clean_table, read_csv, read_table
from ham10000.errors import DataError, MissingDataError, cannot_write, some
from ham10000.utils import new_folder, write_text

__all__ = [
    "DATA_VARIABLE",
    "GROUPINGS",
    "TRUTH",
    "Folder",
    "convert_challenge",
    "data_folder",
    "find_files",
    "find_table",
    "link_sample",
    "load_table",
    "open_folder",
    "read_challenge",
]

DATA_VARIABLE = "HAM10000_DIR"

TRUTH = "ISIC2018_Task3_Training_GroundTruth.csv"
GROUPINGS = "ISIC2018_Task3_Training_LesionGroupings.csv"

_PUBLISHED = re.compile(r"ham10000_images_part_\d|isic2018_task3_training_input", re.IGNORECASE)
_PLAIN = re.compile(
    r"((ham10000|ham|all|train|training)[ _-]?)?(images?|imgs?|jpe?gs?|pngs?)|train|training",
    re.IGNORECASE,
)
_BY_CLASS = re.compile("|".join(CLASSES), re.IGNORECASE)
_MASKS = re.compile(r"ham10000_segmentations_lesion_tschandl|masks?|segmentations?", re.IGNORECASE)
_MASK_ENDING = "_segmentation"
_TABLES = tuple(f"HAM10000_metadata{suffix}" for suffix in (".csv", ".tab", ".tsv", ".txt", ""))


@dataclass(frozen=True)
class Folder:
    """A data set on disk: its table, and the files of each image."""

    root: Path
    table_path: Path
    table: pd.DataFrame
    """The table as `read_table` returns it, in the order of the file."""
    images: dict[str, Path]
    masks: dict[str, Path]
    repeats: dict[str, list[Path]] = field(default_factory=dict)
    """Further files of images that are there more than once."""

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


def data_folder(data: Path | None, *, exists: bool = True) -> Path:
    """Return the folder that an argument names, or else the variable HAM10000_DIR.

    Args:
        data: the argument.
        exists: whether the folder must exist.

    Raises:
        MissingDataError: neither is set, or the folder does not exist.
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


def open_folder(root: Path) -> Folder:
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
        MissingDataError: there is no table.
        DataError: the table can't be used, or there are no images.
    """
    root = data_folder(root)
    table_path = find_table(root)
    table = _read(table_path)
    images, repeats = _find_images(root, set(table["image_id"]))
    if not images:
        raise DataError(
            f"opening {root}: there are no images in it. Expected folders HAM10000_images_part_1 "
            "and HAM10000_images_part_2, or a folder images, with ISIC_*.jpg in them. Get them "
            "with: ham10000 download --parts images"
        )
    masks, _ = find_files(root, _MASKS, (".png",))
    masks = {name.removesuffix(_MASK_ENDING): path for name, path in masks.items()}
    return Folder(root, table_path, table, images, masks, repeats)


def load_table(root: Path) -> pd.DataFrame:
    """Read the table of a data set, in either of its forms: see `read_table`.

    Raises:
        MissingDataError: there is no table.
        DataError: the table can't be used.
    """
    return _read(find_table(root))


def find_table(root: Path) -> Path:
    """Return the path of a data set's table: HAM10000's, or else the challenge's ground truth.

    Raises:
        MissingDataError: there is neither.
    """
    for name in _TABLES:
        if (root / name).is_file():
            return root / name
    truth = _find_challenge(root, TRUTH)
    if truth is not None:
        return truth
    raise MissingDataError(
        f"opening {root}: there is no table HAM10000_metadata.csv (nor .tab, .tsv, .txt, nor "
        f"without an extension), and no {TRUTH}. Get it with: ham10000 download --parts metadata"
    )


def find_files(
    root: Path, names: re.Pattern[str], endings: tuple[str, ...]
) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """Find files by their names without extension, in the folders whose whole names match.

    Args:
        root: the folder to search, three levels deep.
        names: names of the folders.
        endings: the extensions that count, in lower case.

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
        root: the data set to draw from.
        out: folder to write, new or empty.
        num_images: lesions are drawn until they have this many images, or there are no more.
        seed: seed of the draw.

    Returns:
        The number of images.

    Raises:
        MissingDataError: there is no table, or an image is missing.
        DataError: the table can't be used, or there are no images.
        WriteError: the links can't be created; nothing is left.
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


def read_challenge(truth: Path, groupings: Path) -> pd.DataFrame:
    """Read the challenge's one-hot ground truth and its lesion ids as a metadata table.

    The challenge doesn't publish age, sex and localization, so these are unknown.

    Args:
        truth: image, MEL, NV, BCC, AKIEC, BKL, DF, VASC; 1.0 for the diagnosis, 0.0 elsewhere.
        groupings: image, lesion_id, diagnosis_confirm_type.

    Returns:
        The table as `read_table` returns it, in the order of the ground truth.

    Raises:
        MissingDataError: a table does not exist.
        DataError: a file is not such a table, a row doesn't have exactly one diagnosis, or an
            image has no lesion id.
    """
    columns = tuple(name.upper() for name in CLASSES)
    labels = read_csv(truth, ("image", *columns))
    scores = labels[list(columns)].apply(pd.to_numeric, errors="coerce")
    unclear = (scores == 1).sum(axis=1) != 1
    if unclear.any():
        row = int(unclear.to_numpy().argmax())
        raise DataError(
            f"reading {truth}: row {row + 2} (image {labels['image'].iloc[row]}) doesn't have "
            "exactly one diagnosis. Get the file again."
        )
    lesions = read_csv(groupings, ("image", "lesion_id", "diagnosis_confirm_type"))
    repeated = lesions["image"].duplicated()
    if repeated.any():
        row = int(repeated.to_numpy().argmax())
        raise DataError(
            f"reading {groupings}: row {row + 2} repeats the image {lesions['image'].iloc[row]}. "
            "Get the file again."
        )
    merged = labels[["image"]].merge(lesions, on="image", how="left")
    lost = merged["lesion_id"].isna()
    if lost.any():
        row = int(lost.to_numpy().argmax())
        raise DataError(
            f"reading {groupings}: there is no row for the image {merged['image'].iloc[row]}, "
            f"which row {row + 2} of {truth.name} names. Get both files again."
        )
    table = pd.DataFrame(
        {
            "lesion_id": merged["lesion_id"],
            "image_id": merged["image"],
            "dx": scores.idxmax(axis=1).str.lower(),
            "dx_type": merged["diagnosis_confirm_type"],
            "age": "",
            "sex": "",
            "localization": "",
        },
        columns=list(TABLE_COLUMNS),
    )
    return clean_table(table, f"reading {truth}")


def convert_challenge(truth: Path, groupings: Path, out: Path) -> None:
    """Write HAM10000_metadata.csv from the challenge's two tables.

    Arguments and errors are those of `read_challenge`; `out` is the file to write.
    """
    table = read_challenge(truth, groupings)
    write_text(out, table.to_csv(index=False, lineterminator="\n"))


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


def _find_images(root: Path, ids: Collection[str]) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    found, repeats = find_files(root, _PUBLISHED, IMAGE_ENDINGS)
    if found:
        return found, repeats
    found, repeats = find_files(root, _PLAIN, IMAGE_ENDINGS)
    if any(name in ids for name in found):
        return found, repeats
    for folders in ([root], _find_folders(root, _BY_CLASS)):
        found, repeats = _list_files(folders, IMAGE_ENDINGS)
        found = {name: path for name, path in found.items() if name in ids}
        if found:
            return found, {name: paths for name, paths in repeats.items() if name in ids}
    return {}, {}


def _read(path: Path) -> pd.DataFrame:
    if path.name != TRUTH:
        return read_table(path)
    groupings = next(
        (place / GROUPINGS for place in path.parents[:2] if (place / GROUPINGS).is_file()), None
    ) or _find_challenge(path.parent, GROUPINGS)
    if groupings is None:
        raise MissingDataError(
            f"reading {path}: there is no {GROUPINGS} next to it or in the folder around it, so "
            "the lesion of each image is unknown, and no split could keep lesions together. Get "
            "it with: ham10000 download --source isic --parts metadata"
        )
    return read_challenge(path, groupings)


def _find_challenge(root: Path, name: str) -> Path | None:
    # Unpacked into a folder named after the archive, or not.
    places = (root / name, root / Path(name).stem / name)
    return next((place for place in places if place.is_file()), None)
