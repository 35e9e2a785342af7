"""Read image files of any mode as 8-bit RGB."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from softattn.errors import ArgumentError

__all__ = ["read_image"]


def read_image(path: Path) -> Image.Image:
    """Read an image file as 8-bit RGB, rotated as its EXIF orientation says.

    - 16-bit grayscale is scaled to 8 bits over its full range, 0 to 65535.
    - Floats must be between 0 and 1. Other ranges are rejected, since no standard defines which
      value is white. 32-bit integers are rejected for the same reason.
    - Transparent images are composited over white.
    - From a file with several images, the first one is read.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from PIL import Image
        >>> from softattn.cli.images import read_image
        >>> path = Path(tempfile.mkdtemp()) / "gray.png"
        >>> Image.fromarray(np.full((2, 2), 32896, np.uint16)).save(path)
        >>> read_image(path).getpixel((0, 0))
        (128, 128, 128)

    Raises:
        ArgumentError: the file does not exist, is not an image, or the range of its values is
            unknown.
    """
    try:
        with Image.open(path) as image:
            # Older versions of Pillow read 16-bit PNG as 32-bit integers.
            is_16_bit = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG")
            upright = ImageOps.exif_transpose(image)
            if is_16_bit:
                return _gray(np.asarray(upright, np.float64) / 65535)
            if image.mode in ("I", "F"):
                return _gray(_checked(path, image.mode, np.asarray(upright, np.float64)))
            return _on_white(upright)
    except FileNotFoundError:
        raise ArgumentError(f"reading an image: {path} does not exist.") from None
    except IsADirectoryError:
        raise ArgumentError(
            f"reading an image: {path} is a directory. Pass the files in it."
        ) from None
    except (OSError, Image.DecompressionBombError) as error:
        raise ArgumentError(
            f"reading an image: {path} is not an image, or is damaged ({error})."
        ) from error


def _gray(values: np.ndarray) -> Image.Image:
    """Return an RGB image of gray values from 0 to 1."""
    return Image.fromarray(np.rint(255 * values).astype(np.uint8)).convert("RGB")


def _checked(path: Path, mode: str, values: np.ndarray) -> np.ndarray:
    """Return values that are known to be from 0 to 1."""
    # A comparison with NaN is false.
    if mode == "F" and values.min() >= 0 and values.max() <= 1:
        return values
    kind = "floats" if mode == "F" else "32-bit integers"
    raise ArgumentError(
        f"reading an image: {path} holds {kind} from {values.min():g} to {values.max():g}, and the "
        "file does not say which value is white. Save it with 8 or 16 bits per channel, or as "
        "floats from 0 to 1."
    )


def _on_white(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")
