"""The authors' augmentation on disk, before training: 51,699 files from 9,187.

Their generator makes ceil((8000 - n) / 50) batches for a class of n images. It cycles through the
class in batches of 50, and the last batch of each pass is short, so no class has exactly 8,000.
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from ham10000.data.augment import transforms
from ham10000.data.augment.augment import PRESETS
from ham10000.data.constants import CLASSES
from ham10000.data.folder import Folder
from ham10000.data.images import read_image, resize
from ham10000.data.samplers import uniform
from ham10000.data.split_file import split_rows
from ham10000.errors import SplitError, cannot_write
from ham10000.utils import in_order, new_folder

__all__ = ["augment_offline", "offline_counts", "offline_plan"]

# The authors' numbers.
TARGET, BATCH = 8_000, 50


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


def offline_plan(split: pd.DataFrame) -> pd.DataFrame:
    """Count the files that `augment_offline` writes for each class.

    Args:
        split: a split without folds. Only its training set is augmented.

    Returns:
        Columns originals, augmented and total, with one row per class and one for all.

    Raises:
        SplitError: the split has folds.
    """
    if "fold" in split.columns:
        raise SplitError(
            "augmenting offline: this split has folds, and each would need its own files. "
            "Use a split of the protocol lesion, paper or paper_val."
        )
    train = split[split["split"] == "train"]["dx"].value_counts()
    counts = [offline_counts(int(train.get(name, 0))) for name in CLASSES]
    plan = pd.DataFrame(counts, index=list(CLASSES), columns=["originals", "augmented"])
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
        folder: the data set.
        split: a split without folds.
        out: a new folder, created atomically when it is complete.
        size: images are resized to size x size pixels before augmentation.
        seed: seed of the augmentation.
        workers: number of threads; the number of cores by default.

    Returns:
        The counts of `offline_plan`. `index.csv` in `out` has one row per file, with the image that
        it was made from, its lesion and dx.

    Raises:
        SplitError: the split has folds.
        ArgumentError: `out` already exists.
        Ham10000Error: an image is missing or damaged; nothing is written.
        WriteError: the disk is full; nothing is left.
    """
    plan = offline_plan(split)
    paths = folder.paths()
    rows = split_rows(split, folder.table, "train")
    names, labels = folder.table["image_id"].tolist(), folder.table["dx"].tolist()
    copies = [
        copy for label in CLASSES for copy in _copies([r for r in rows if labels[r] == label])
    ]

    def job(copy: _Copy) -> bytes:
        image = resize(read_image(paths[copy.row]), size)
        if copy.number:
            image = _move(image, seed, copy)
        return _encode(image)

    index: list[tuple[str, str, str, str]] = []
    with new_folder(out) as partial:
        try:
            for label in CLASSES:
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
            table.to_csv(partial / "index.csv", index=False, lineterminator="\n")
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
