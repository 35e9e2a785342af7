"""One image or mask from its file to a tensor, with errors that name the file."""

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from ham10000.errors import DataError, MissingDataError

__all__ = ["MAX_PIXELS", "decode", "read_bytes", "read_image", "read_mask", "resize"]

MAX_PIXELS = 50_000_000
"""More than any dermatoscope's; a file that claims more is a decompression bomb or broken."""


def read_image(path: Path) -> Tensor:
    """Read a JPEG as RGB.

    Returns:
        (3, H, W), uint8.

    Raises:
        MissingDataError: there is no such file.
        DataError: it can't be decoded whole.
    """
    return decode(read_bytes(path), path)


def read_mask(path: Path) -> Tensor:
    """Read a mask, a PNG whose lesion is not 0.

    Returns:
        (1, H, W), uint8, 0 or 1.

    Raises:
        MissingDataError: there is no such file.
        DataError: it can't be decoded whole.
    """
    return (decode(read_bytes(path), path, "PNG") > 0).byte()


def read_bytes(path: Path) -> bytes:
    """Read a file that a data set should have.

    Raises:
        MissingDataError: it is not there, or can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MissingDataError(f"reading {path}: {reason}. Get it again.") from error


def decode(raw: bytes, path: Path, kind: str = "JPEG") -> Tensor:
    """Decode the bytes of an image (RGB) or a mask (grey, `kind` PNG); see `read_image`.

    Raises:
        DataError: they are not such an image, too large, or cut short.
    """
    size = probe(raw, path, kind)
    try:
        with Image.open(io.BytesIO(raw)) as image:
            pixels = np.array(image.convert("RGB" if kind == "JPEG" else "L"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"decoding {path}: it is a {kind} of {size[0]} x {size[1]} by its header, and the rest "
            f"is cut short or damaged ({len(raw)} bytes). Get it again."
        ) from error
    # Pillow's pixels lie channels last.
    return torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1).contiguous()


def probe(raw: bytes, path: Path, kind: str = "JPEG") -> tuple[int, int]:
    """Read an image's header alone.

    Returns:
        Width and height in pixels.

    Raises:
        DataError: it is no such image, or of more than `MAX_PIXELS`.
    """
    doing = f"decoding {path}"
    if not raw:
        raise DataError(f"{doing}: the file is empty (0 bytes). Get it again.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(raw)) as image:
                found, (width, height) = image.format, image.size
    except UnidentifiedImageError as error:
        raise DataError(
            f"{doing}: it is not a {kind}; it begins with {raw[:8]!r}. Get it again."
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{doing}: its header claims more than {MAX_PIXELS:,} pixels, which no image of "
            "HAM10000 has. Get it again."
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{doing}: its header is damaged ({error}). Get it again.") from error
    if found != kind:
        raise DataError(f"{doing}: it is a {found}, not a {kind}. Get it again, or convert it.")
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{doing}: its header claims {width} x {height} pixels, more than {MAX_PIXELS:,}, "
            "which no image of HAM10000 has. Get it again."
        )
    return width, height


def resize(image: Tensor, size: int, *, mask: bool = False) -> Tensor:
    """Resize to size x size, as the authors do: the whole image, its shape given up.

    Example:
        >>> import torch
        >>> from ham10000.data import resize
        >>> resize(torch.zeros(3, 450, 600, dtype=torch.uint8), 224).shape
        torch.Size([3, 224, 224])

    Args:
        image: (C, H, W), uint8.
        size: in pixels.
        mask: take the nearest value and none between.
    """
    mode = InterpolationMode.NEAREST_EXACT if mask else InterpolationMode.BILINEAR
    resized: Tensor = F.resize(image, [size, size], interpolation=mode, antialias=not mask)
    return resized
