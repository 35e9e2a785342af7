"""A synthetic data set on disk, from a seed, in the layout of a public download."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from ham10000.data.constants import IMAGE_HEIGHT, IMAGE_WIDTH
from ham10000.data.synthetic.draw import (
    View,
    draw_lesion,
    hairs,
    make_lesion,
    ruler,
    skin,
    vignette,
)
from ham10000.data.synthetic.layouts import LAYOUTS, LayoutName, PlannedImage
from ham10000.errors import ArgumentError, cannot_write
from ham10000.utils import in_order, new_folder

__all__ = ["render", "synthesize"]

_HAIRY, _RULED, _ROUND = 0.35, 0.15, 0.2


def synthesize(
    out: Path,
    images: int,
    seed: int,
    *,
    width: int = IMAGE_WIDTH,
    workers: int | None = None,
    like: LayoutName = "ham10000",
) -> None:
    """Write a synthetic data set: tables, images and masks.

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
        out: Folder to write, new or empty.
        images: Number of images, at least 14; like isic2017 at least 36.
        seed: Seed of all draws.
        width: Width of an image in pixels. Its height is three quarters of that.
        workers: Number of threads; the number of cores by default.
        like: The published data set whose layout, classes and proportions to use.

    Raises:
        ArgumentError: A number is out of range, or `out` exists and is not an empty folder.
        WriteError: The files can't be written; nothing is left.
    """
    if not 32 <= width <= 2400:
        raise ArgumentError(f"synthesizing images: width must be 32 to 2400 pixels, found {width}.")
    layout = LAYOUTS[like](images, seed)
    height = round(width * IMAGE_HEIGHT / IMAGE_WIDTH)

    def job(planned: PlannedImage) -> dict[str, bytes]:
        image, mask = render(planned.kind, (height, width), [seed, planned.lesion], planned.view)
        files = {planned.image: _encode(image, "JPEG", quality=92)}
        if planned.mask:
            files[planned.mask] = _encode(mask, "PNG")
        if planned.superpixels:
            files[planned.superpixels] = _encode(np.zeros_like(image), "PNG")
        return files

    with new_folder(out) as folder:
        try:
            for path in {path for each in layout.images for path in (each.image, each.mask)}:
                (folder / path).parent.mkdir(exist_ok=True)
            for files in in_order(job, layout.images, "Drawing", workers):
                for path, content in files.items():
                    (folder / path).write_bytes(content)
            for path, table in layout.tables.items():
                text = table.to_csv(index=False, lineterminator="\n")
                (folder / path).write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            raise cannot_write(out, error) from error


def render(
    dx: str, shape: tuple[int, int], seed: list[int], view: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one image of one lesion.

    Args:
        dx: The class.
        shape: Height and width.
        seed: Seed of the lesion.
        view: Index of this image among those of the lesion.

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
