"""`synthesize`: a whole data set on disk, from a seed, in the layout of the public download."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from ham10000.data.facts import HEIGHT, WIDTH
from ham10000.data.synthetic.lesion import View, draw, make_lesion
from ham10000.data.synthetic.skin import hairs, ruler, skin, vignette
from ham10000.data.synthetic.table import synthetic_table
from ham10000.errors import ArgumentError, cannot_write
from ham10000.utils import in_order, new_folder

__all__ = ["render", "synthesize"]

_HAIRY, _RULED, _ROUND = 0.35, 0.15, 0.2


def synthesize(
    out: Path, images: int, seed: int, *, width: int = WIDTH, workers: int | None = None
) -> None:
    """Write a synthetic data set: table, images in two folders, masks.

    The same arguments give the same files, byte for byte, on the same versions of the libraries.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.data.synthetic import synthesize
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     synthesize(Path(folder) / "set", images=14, seed=0, width=60)
        ...     sorted(path.name for path in (Path(folder) / "set").iterdir())[:2]
        ['HAM10000_images_part_1', 'HAM10000_images_part_2']

    Args:
        out: the folder, which must not hold anything.
        images: how many, at least 14.
        seed: of everything.
        width: of an image, in pixels; its height is three quarters of that.
        workers: how many threads; as many as there are cores unless given.

    Raises:
        ArgumentError: a number can't be, or there is something at `out`.
        WriteError: the system refuses; then nothing is left.
    """
    if not 32 <= width <= 2400:
        raise ArgumentError(f"making up images: width must be 32 to 2400 pixels, found {width}.")
    table = synthetic_table(images, seed)
    height = round(width * HEIGHT / WIDTH)
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
        seed: of the lesion.
        view: which image of the lesion this is, counted from 0.

    Returns:
        The image (H, W, 3) and the mask (H, W), 0 or 255.
    """
    lesion = make_lesion(dx, np.random.default_rng([*seed, 2]))
    rng = np.random.default_rng([*seed, 3, view])
    # The skin around a lesion is the same person's in each image; only the light differs.
    image = skin(shape, np.random.default_rng([*seed, 4]))
    image *= rng.normal(1, 0.03, 3).astype(np.float32)
    how = View(
        angle=float(rng.uniform(0, 2 * np.pi)),
        scale=float(rng.uniform(0.85, 1.25)),
        centre=(0.5 + float(rng.normal(0, 0.05)), 0.5 + float(rng.normal(0, 0.05))),
    )
    mask = draw(image, lesion, how)
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
