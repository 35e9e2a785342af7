"""A synthetic data set on disk, from a seed, in the layout of the public download."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from ham10000.data.constants import (
    CLASS_COUNTS,
    CLASSES,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    LOCALIZATIONS,
    NUM_IMAGES,
    SEXES,
    TABLE_COLUMNS,
)
from ham10000.data.synthetic.draw import (
    View,
    draw_lesion,
    hairs,
    make_lesion,
    ruler,
    skin,
    vignette,
)
from ham10000.errors import ArgumentError, cannot_write
from ham10000.utils import in_order, new_folder

__all__ = ["render", "synthesize", "synthetic_table"]

# Numbers of HAM10000's 7,470 lesions with 1, 2, 3, and 4 or more images.
_IMAGES_OF_LESION = (5514, 1423, 490, 43)

_AGES = {"akiec": 67, "bcc": 67, "bkl": 64, "df": 52, "mel": 61, "nv": 47, "vasc": 51}
"""Mean age of each class in HAM10000, in years."""

# A smaller class could not be in both the training and the test set.
_LEAST = 20


def synthetic_table(images: int, seed: int) -> pd.DataFrame:
    """Return a metadata table with HAM10000's columns and proportions.

    Example:
        >>> from ham10000.data import synthetic_table
        >>> table = synthetic_table(images=1000, seed=0)
        >>> len(table), table.dx.value_counts().index[0], table.lesion_id.nunique() < 900
        (1000, 'nv', True)

    Args:
        images: number of rows, at least 14 for two of each class.
        seed: seed of all draws.

    Returns:
        A table like that of `read_table`.

    Raises:
        ArgumentError: there are too few images.
    """
    if images < 2 * len(CLASSES):
        raise ArgumentError(
            f"synthesizing a data set: {images} images are too few for seven classes. "
            f"Use at least {2 * len(CLASSES)}."
        )
    rng = np.random.default_rng([seed, 1])
    labels: list[str] = []
    lesions: list[int] = []
    number = 0
    for name, count in _counts(images).items():
        left = count
        while left:
            share = np.array(_IMAGES_OF_LESION) / sum(_IMAGES_OF_LESION)
            size = min(left, 1 + int(rng.choice(len(share), p=share)))
            labels += [name] * size
            lesions += [number] * size
            number, left = number + 1, left - size
    # As in HAM10000's table, images of a lesion are in adjacent rows, and ids are shuffled.
    names = rng.permutation(number)
    ids = rng.permutation(images)
    dx = np.array(labels)
    of_lesion = np.array(lesions)
    ages, sexes, places, kinds = _patients(dx, of_lesion, number, rng)
    values = (
        [f"HAM_{names[lesion]:07d}" for lesion in of_lesion],
        [f"ISIC_{9_000_000 + place:07d}" for place in ids],
        dx.tolist(),
        kinds[of_lesion].tolist(),
        ages[of_lesion],
        sexes[of_lesion].tolist(),
        places[of_lesion].tolist(),
    )
    return pd.DataFrame(dict(zip(TABLE_COLUMNS, values, strict=True)))


def _counts(images: int) -> dict[str, int]:
    least = min(_LEAST, images // (2 * len(CLASSES)))
    counts = {name: max(least, round(images * CLASS_COUNTS[name] / NUM_IMAGES)) for name in CLASSES}
    counts["nv"] += images - sum(counts.values())
    return counts


def _patients(
    dx: "np.ndarray[tuple[int], np.dtype[np.str_]]",
    of_lesion: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    number: int,
    rng: np.random.Generator,
) -> tuple["np.ndarray[tuple[int], np.dtype[np.float64]]", ...]:
    first = dx[np.unique(of_lesion, return_index=True)[1]]
    mean = np.array([_AGES[str(name)] for name in first], dtype=np.float64)
    # As in HAM10000, ages are multiples of five years, and some are missing.
    ages = (np.clip(rng.normal(mean, 14), 5, 85) / 5).round() * 5
    ages[rng.random(number) < 0.01] = np.nan
    sexes = rng.choice([*SEXES, "unknown"], size=number, p=[0.455, 0.54, 0.005])
    places = rng.choice([*LOCALIZATIONS, "unknown"], size=number)
    confirmed = rng.choice(["histo", "follow_up", "consensus"], size=number, p=[0.5, 0.4, 0.1])
    kinds = np.where(np.isin(first, ["akiec", "bcc", "mel"]), "histo", confirmed)
    return ages, sexes, places, kinds


_HAIRY, _RULED, _ROUND = 0.35, 0.15, 0.2


def synthesize(
    out: Path, images: int, seed: int, *, width: int = IMAGE_WIDTH, workers: int | None = None
) -> None:
    """Write a synthetic data set: table, images in two folders, and masks.

    The bytes depend only on the arguments and the versions of the libraries.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.data import synthesize
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     synthesize(Path(folder) / "set", images=14, seed=0, width=60)
        ...     sorted(path.name for path in (Path(folder) / "set").iterdir())[:2]
        ['HAM10000_images_part_1', 'HAM10000_images_part_2']

    Args:
        out: folder to write, new or empty.
        images: number of images, at least 14.
        seed: seed of all draws.
        width: width of an image in pixels. Its height is three quarters of that.
        workers: number of threads; the number of cores by default.

    Raises:
        ArgumentError: a number is out of range, or `out` exists and is not an empty folder.
        WriteError: the files can't be written; nothing is left.
    """
    if not 32 <= width <= 2400:
        raise ArgumentError(f"synthesizing images: width must be 32 to 2400 pixels, found {width}.")
    table = synthetic_table(images, seed)
    height = round(width * IMAGE_HEIGHT / IMAGE_WIDTH)
    seen = table.groupby("lesion_id").cumcount().tolist()
    rows = list(
        zip(
            table["image_id"].tolist(),
            table["dx"].tolist(),
            table["lesion_id"].tolist(),
            seen,
            strict=True,
        )
    )

    def job(row: tuple[str, str, str, int]) -> tuple[str, bytes, bytes]:
        name, dx, lesion, view = row
        key = int(lesion.removeprefix("HAM_"))
        image, mask = render(dx, (height, width), [seed, key], view)
        return name, _encode(image, "JPEG", quality=92), _encode(mask, "PNG")

    with new_folder(out) as folder:
        half = (images + 1) // 2
        parts = [folder / f"HAM10000_images_part_{number}" for number in (1, 2)]
        masks = folder / "HAM10000_segmentations_lesion_tschandl"
        try:
            for path in (*parts, masks):
                path.mkdir()
            order = sorted(table["image_id"])
            first = set(order[:half])
            for name, image, mask in in_order(job, rows, "Drawing", workers):
                (parts[0 if name in first else 1] / f"{name}.jpg").write_bytes(image)
                (masks / f"{name}_segmentation.png").write_bytes(mask)
            text = table.to_csv(index=False, lineterminator="\n")
            (folder / "HAM10000_metadata.csv").write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            raise cannot_write(out, error) from error


def render(
    dx: str, shape: tuple[int, int], seed: list[int], view: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one image of one lesion.

    Args:
        dx: the class.
        shape: height and width.
        seed: seed of the lesion.
        view: index of this image among those of the lesion.

    Returns:
        The image (H, W, 3) and the mask (H, W), 0 or 255.
    """
    lesion = make_lesion(dx, np.random.default_rng([*seed, 2]))
    rng = np.random.default_rng([*seed, 3, view])
    # All images of a lesion have the same skin under different light.
    image = skin(shape, np.random.default_rng([*seed, 4]))
    image *= rng.normal(1, 0.03, 3).astype(np.float32)
    how = View(
        angle=float(rng.uniform(0, 2 * np.pi)),
        scale=float(rng.uniform(0.85, 1.25)),
        centre=(0.5 + float(rng.normal(0, 0.05)), 0.5 + float(rng.normal(0, 0.05))),
    )
    mask = draw_lesion(image, lesion, how)
    if rng.random() < _HAIRY:
        hairs(image, rng)
    if rng.random() < _RULED:
        ruler(image, rng)
    if rng.random() < _ROUND:
        vignette(image, rng)
    image = gaussian_filter(image, (shape[1] / 1500, shape[1] / 1500, 0))
    image += rng.normal(0, 0.012, image.shape).astype(np.float32)
    pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    return pixels, (mask * 255).astype(np.uint8)


def _encode(pixels: NDArray[np.uint8], kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()
