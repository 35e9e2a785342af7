"""What can be measured of each image and mask: mean colour, size of the lesion."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ham10000.data.images import read_image, read_mask, resize
from ham10000.data.layout import Folder
from ham10000.utils import in_order

__all__ = ["THUMB", "Measured", "contact_sheet", "measure"]

THUMB = 96
"""The size of the small images that contact sheets show, in pixels."""


@dataclass(frozen=True)
class Measured:
    """What was measured of a data set."""

    table: pd.DataFrame
    """A row an image: its row of the table, and red, green, blue (0 to 255), area (the lesion's
    part of the image, NaN without a mask)."""
    thumbs: dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"]
    """Small images, (THUMB, THUMB, 3), of those that were asked for."""


def measure(folder: Folder, shown: Sequence[str], workers: int | None = None) -> Measured:
    """Read every image and mask of a data set, and measure it.

    Args:
        folder: the data set.
        shown: the image ids to keep small images of.
        workers: how many threads; as many as there are cores unless given.

    Raises:
        Ham10000Error: an image is missing or damaged.
    """
    keep = set(shown)
    items = list(zip(folder.table["image_id"].tolist(), folder.paths(), strict=True))

    def job(item: tuple[str, Path]) -> tuple[list[float], object]:
        name, path = item
        image = read_image(path)
        colour = image[:, ::2, ::2].flatten(1).float().mean(1).tolist()
        area = float("nan")
        if name in folder.masks:
            area = float(read_mask(folder.masks[name]).float().mean())
        thumb = resize(image, THUMB).permute(1, 2, 0).numpy() if name in keep else None
        return [*colour, area], thumb

    numbers: list[list[float]] = []
    thumbs = {}
    for (name, _), (values, thumb) in zip(
        items, in_order(job, items, "Measuring", workers), strict=True
    ):
        numbers.append(values)
        if isinstance(thumb, np.ndarray):
            thumbs[name] = thumb
    measured = pd.DataFrame(numbers, columns=["red", "green", "blue", "area"])
    return Measured(pd.concat([folder.table, measured], axis=1), thumbs)


def contact_sheet(
    thumbs: "Sequence[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]", columns: int
) -> Image.Image:
    """Put small images side by side, row by row, with a gap of 4 pixels."""
    step = THUMB + 4
    rows = -(-len(thumbs) // columns)
    sheet = Image.new("RGB", (columns * step - 4, max(1, rows * step - 4)), "white")
    for place, thumb in enumerate(thumbs):
        sheet.paste(Image.fromarray(thumb), (place % columns * step, place // columns * step))
    return sheet
