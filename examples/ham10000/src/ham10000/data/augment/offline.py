"""The authors' augmentation on disk, before training: 51,699 files from 9,187.

Their generator makes ceil((8000 - n) / 50) batches for a class of n images. It cycles through the
class in batches of 50, and the last batch of each pass is short, so no class has exactly 8,000.
"""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from ham10000.data.augment import transforms
from ham10000.data.augment.augment import PRESETS
from ham10000.data.catalog import HAM10000_INFO
from ham10000.data.dataset import HAM10000
from ham10000.data.descriptions import DatasetInfo
from ham10000.data.folder import Folder
from ham10000.data.images import read_image, resize
from ham10000.data.metadata import check_metadata, encode_metadata, read_csv
from ham10000.data.samplers import uniform
from ham10000.data.split_file import split_rows
from ham10000.errors import DataError, MissingDataError, SplitError, cannot_write, some
from ham10000.utils import in_order, new_folder

__all__ = ["INDEX", "OfflineHAM10000", "augment_offline", "offline_counts", "offline_plan"]

# The authors' numbers.
TARGET, BATCH = 8_000, 50

INDEX = "index.csv"
"""File of an augmented set with one row per file, written last."""


@dataclass(frozen=True)
class _Copy:
    row: int
    number: int
    """0 for the original, then 1, 2, ... for the augmented ones."""


def offline_counts(count: int) -> tuple[int, int]:
    """Return the numbers of originals and of augmented copies for a class of `count` images.

    Example:
        >>> from ham10000.data.augment.offline import offline_counts
        >>> offline_counts(304), offline_counts(6042)  # akiec and nv
        ((304, 6688), (6042, 2000))
    """
    if count == 0:
        return 0, 0
    batches = max(0, -(-(TARGET - count) // BATCH))
    batches_a_pass = -(-count // BATCH)
    passes, rest = divmod(batches, batches_a_pass)
    return count, passes * count + min(rest * BATCH, count)


def offline_plan(
    split: pd.DataFrame, classes: Sequence[str] = HAM10000_INFO.classes
) -> pd.DataFrame:
    """Count the files that `augment_offline` writes for each class.

    Args:
        split: A split without folds. Only its training set is augmented.
        classes: Classes of the data set.

    Returns:
        Columns originals, augmented and total, with one row per class and one for all.

    Raises:
        SplitError: The split has folds.
    """
    if "fold" in split.columns:
        raise SplitError(
            "augmenting offline: this split has folds, and each would need its own files. "
            "Use a split of the protocol lesion, paper or paper_val."
        )
    train = split[split["split"] == "train"]["dx"].value_counts()
    counts = [offline_counts(int(train.get(name, 0))) for name in classes]
    plan = pd.DataFrame(counts, index=list(classes), columns=["originals", "augmented"])
    plan.loc["all"] = plan.sum()
    return plan.assign(total=plan["originals"] + plan["augmented"])


def augment_offline(
    folder: Folder,
    split: pd.DataFrame,
    out: Path,
    *,
    size: int,
    seed: int,
    workers: int | None = None,
) -> pd.DataFrame:
    """Write the authors' augmented training set: one folder per class, and an index.

    Args:
        folder: The data set.
        split: A split without folds.
        out: A new folder, created atomically when it is complete.
        size: Images are resized to size x size pixels before augmentation.
        seed: Seed of the augmentation.
        workers: Number of threads; the number of cores by default.

    Returns:
        The counts of `offline_plan`. `index.csv` in `out` has one row per file, with the image that
        it was made from, its lesion and dx.

    Raises:
        SplitError: The split has folds.
        ArgumentError: `out` already exists.
        Ham10000Error: An image is missing or damaged; nothing is written.
        WriteError: The disk is full; nothing is left.
    """
    plan = offline_plan(split, folder.info.classes)
    paths = folder.paths()
    rows = split_rows(split, folder.table, "train")
    names, labels = folder.table["image_id"].tolist(), folder.table["dx"].tolist()
    classes = folder.info.classes
    copies = [
        copy for label in classes for copy in _copies([r for r in rows if labels[r] == label])
    ]

    def job(copy: _Copy) -> bytes:
        image = resize(read_image(paths[copy.row]), size)
        if copy.number:
            image = _move(image, seed, copy)
        return _encode(image)

    index: list[tuple[str, str, str, str]] = []
    with new_folder(out) as partial:
        try:
            for label in classes:
                (partial / label).mkdir()
            encoded = in_order(job, copies, "Augmenting", workers)
            for copy, raw in zip(copies, encoded, strict=True):
                name, label = names[copy.row], labels[copy.row]
                ending = f"_aug{copy.number:04d}" if copy.number else ""
                file = f"{label}/{name}{ending}.jpg"
                (partial / file).write_bytes(raw)
                lesion = str(folder.table["lesion_id"].iloc[copy.row])
                index.append((file, name, lesion, label))
            table = pd.DataFrame(index, columns=["file", "image_id", "lesion_id", "dx"])
            table.to_csv(partial / INDEX, index=False, lineterminator="\n")
            os.sync() if hasattr(os, "sync") else None
        except OSError as error:
            raise cannot_write(out, error) from error
    return plan


def _copies(rows: list[int]) -> Iterator[_Copy]:
    originals, augmented = offline_counts(len(rows))
    for row in rows:
        yield _Copy(row, 0)
    for number in range(augmented):
        # After the last whole pass, the first images of a class get one more copy.
        yield _Copy(rows[number % originals], 1 + number // originals)


def _move(image: Tensor, seed: int, copy: _Copy) -> Tensor:
    preset = PRESETS["authors"]
    draws = uniform(
        seed, copy.number, torch.tensor([copy.row]), transforms.GEOMETRY_COLUMNS, stream=31
    )
    matrices = transforms.warp_matrices(
        draws, degrees=preset.degrees, shift=preset.shift, zoom=preset.zoom, flips=preset.flips
    )
    return transforms.warp_bytes(image[None], matrices)[0]


def _encode(image: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=95)
    return file.getvalue()


class OfflineHAM10000(HAM10000):
    """Training set that `augment_offline` wrote, as a data set.

    A copy belongs to the image that it was made from: it has its class, lesion and metadata.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from unittest.mock import patch
        >>> from ham10000.data import (
        ...     OfflineHAM10000, augment_offline, open_folder, paper_split, synthesize
        ... )
        >>> few = patch("ham10000.data.augment.offline.TARGET", 30)  # instead of 8,000
        >>> with few, tempfile.TemporaryDirectory() as name:
        ...     root, out = Path(name) / "set", Path(name) / "offline"
        ...     synthesize(root, images=280, seed=0, width=48)
        ...     folder = open_folder(root)
        ...     split = paper_split(folder.table, seed=0)
        ...     _ = augment_offline(folder, split, out, size=32, seed=0)
        ...     data = OfflineHAM10000(out, split, folder.table, size=32)
        ...     images, targets = data.read([0, len(data) - 1])
        >>> images.shape, len(data)  # of 257 images
        (torch.Size([2, 3, 32, 32]), 387)

    Args:
        root: Folder of the augmented set.
        split: A split without folds.
        table: Metadata table of the data set, as `read_table` returns it.
        size: Size of the images of the augmented set.
        metadata: Columns to include; see `HAM10000`.
        info: Description of the data set.

    Raises:
        MissingDataError: There is no augmented set in the folder, or a file of it is missing.
        DataError: The index is not one of `augment_offline`, or images have another size.
        SplitError: A file was made from an image outside the training set, its lesion or class is
            not that of the image, or an image of the training set is missing.
    """

    def __init__(
        self,
        root: Path | str,
        split: pd.DataFrame,
        table: pd.DataFrame,
        *,
        size: int,
        metadata: Sequence[str] = (),
        info: DatasetInfo = HAM10000_INFO,
    ) -> None:
        self._split_table, self._images_table = split, table
        if not (Path(root) / INDEX).exists():
            raise MissingDataError(
                f"opening the augmented set {root}: there is no {INDEX} in it. "
                f"Make it with: ham10000 augment-offline --split SPLIT --out {root}"
            )
        super().__init__(root, "train", size=size, metadata=metadata, info=info)

    def _open(self) -> None:
        doing = f"opening the augmented set {self.root}"
        index = read_csv(self.root / INDEX, ("file", "image_id", "lesion_id", "dx"))
        _check_index(index, self._split_table, self._images_table, doing)
        self._paths = [self.root / file for file in index["file"]]
        self._mask_paths = []
        missing = [str(path) for path in self._paths if not path.exists()]
        if missing:
            raise MissingDataError(f"{doing}: files are missing: {some(missing)}. Make it again.")
        found = tuple(read_image(self._paths[0]).shape[1:])
        if found != (self.size, self.size):
            raise DataError(
                f"{doing}: its images have {found[1]} x {found[0]} pixels, expected {self.size} x "
                f"{self.size}. Set data.size to that, or make another set with --size {self.size}."
            )
        rows = self._images_table.set_index("image_id", drop=False)
        self.table = rows.loc[index["image_id"]].reset_index(drop=True)

    def _choose(self, split_file: Path | str | None, metadata: Sequence[str]) -> None:
        check_metadata(self.table, metadata, f"opening the augmented set {self.root}")
        self.rows = list(range(len(self.table)))
        self.targets = [self.class_to_idx[name] for name in self.table["dx"]]
        self.metadata = encode_metadata(self.table, metadata)


def _check_index(index: pd.DataFrame, split: pd.DataFrame, table: pd.DataFrame, doing: str) -> None:
    """Check that the files are of the training set, all of it, with their own lesions."""
    parts = dict(zip(split["image_id"], split["split"], strict=True))
    known = dict(
        zip(table["image_id"], zip(table["lesion_id"], table["dx"], strict=True), strict=True)
    )
    advice = "Make the augmented set from this split."
    for row, (file, image, lesion, dx) in enumerate(
        index[["file", "image_id", "lesion_id", "dx"]].itertuples(index=False), start=2
    ):
        part = parts.get(image, "no part")
        if part != "train":
            raise SplitError(
                f"{doing}: row {row}, {file}, was made from {image}, which is in {part} of the "
                f"split and not in train. {advice}"
            )
        if (lesion, dx) != known[image]:
            raise SplitError(
                f"{doing}: row {row}, {file}, has lesion {lesion} and dx {dx}, but {image} has "
                f"lesion {known[image][0]} and dx {known[image][1]}. {advice}"
            )
        name = file.removeprefix(f"{dx}/{image}")
        if name != ".jpg" and not name.startswith("_aug"):
            raise DataError(
                f"{doing}: row {row} says that {file} was made from {image} of {dx}, but such a "
                f"file is named {dx}/{image}.jpg or {dx}/{image}_aug0001.jpg. {advice}"
            )
    lacking = sorted(
        {image for image, part in parts.items() if part == "train"} - set(index["image_id"])
    )
    if lacking:
        raise SplitError(
            f"{doing}: it has no file of {len(lacking)} images of the training set: "
            f"{some(lacking)}. {advice}"
        )
