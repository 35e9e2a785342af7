"""Finding images, and reading one image or mask into a tensor, with errors that name the file.

Images are JPEG or PNG with 8 bits per channel. They are rotated by their EXIF orientation, as
image viewers and `softattn explain` do, so what a person sees is what a model gets. Masks are PNG,
have no orientation, and belong to the image as it is seen.
"""

import io
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from ham10000.errors import ArgumentError, DataError, MissingDataError, closest

__all__ = [
    "IMAGE_ENDINGS",
    "MAX_PIXELS",
    "check_files",
    "decode_image",
    "decode_mask",
    "image_files",
    "probe",
    "read_bytes",
    "read_image",
    "read_mask",
    "resize",
]

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")

MAX_PIXELS = 50_000_000
"""More than any dermatoscope has; a header that claims more is a decompression bomb or damaged."""

_IMAGE_KINDS = ("JPEG", "PNG")
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def image_files(places: Sequence[str]) -> list[Path]:
    """Return image files of any source: from files, folders, and patterns such as photos/*.jpg.

    A shell usually replaces a pattern by the files itself, but not if it is quoted, and not on
    Windows.

    Args:
        places: Files, in any format; folders, of which the JPEG and PNG files count, without
            subfolders; and patterns, in which ** stands for any subfolders.

    Returns:
        The files in this order, those of a folder or pattern sorted, each once.

    Raises:
        ArgumentError: A folder or pattern has no images. Files are not checked.
    """
    found: dict[Path, Path] = {}
    for place in places:
        path = Path(place)
        if path.is_dir():
            files = _images_among(path.iterdir())
        elif not path.exists() and (first := _first_pattern(path)) is not None:
            files = _images_among(Path(*path.parts[:first]).glob("/".join(path.parts[first:])))
        else:
            files = [path]
        if not files:
            raise ArgumentError(
                f"opening {place}: there are no JPEG or PNG files. For those in subfolders, pass "
                f"the pattern '{path if path.is_dir() else path.parent}/**/*.jpg'."
            )
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def read_image(path: Path) -> Tensor:
    """Read a JPEG or PNG as RGB, rotated by its EXIF orientation. Transparency is ignored.

    Returns:
        (3, H, W), uint8.

    Raises:
        MissingDataError: There is no such file.
        DataError: It can't be decoded completely, or has more than 8 bits per channel.
    """
    return decode_image(read_bytes(path), path)


def read_mask(path: Path) -> Tensor:
    """Read a mask, a PNG whose lesion is not 0.

    Returns:
        (1, H, W), uint8, 0 or 1.

    Raises:
        MissingDataError: There is no such file.
        DataError: It can't be decoded completely.
    """
    return decode_mask(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Read a file that a data set should have.

    Raises:
        MissingDataError: It does not exist, or can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MissingDataError(f"reading {path}: {reason}. Get it again.") from error


def check_files(paths: Sequence[Path], doing: str) -> None:
    """Check that paths are files, without opening them.

    Args:
        paths: The paths.
        doing: What messages start with.

    Raises:
        MissingDataError: A file does not exist.
        ArgumentError: A path is a folder.
    """
    for path in paths:
        if path.is_dir():
            raise ArgumentError(f"{doing} {path}: it is a folder. Pass the image files in it.")
        if not path.exists():
            near = [other.name for other in path.parent.glob("*")]
            raise MissingDataError(
                f"{doing} {path}: there is no such file. {closest(path.name, near)}"
            )


def decode_image(raw: bytes, path: Path) -> Tensor:
    """Decode the bytes of an image; see `read_image`, whose result and errors it has."""
    return _decode(raw, path, _IMAGE_KINDS, "RGB")


def decode_mask(raw: bytes, path: Path) -> Tensor:
    """Decode the bytes of a mask; see `read_mask`, whose result and errors it has."""
    return (_decode(raw, path, ("PNG",), "L") > 0).byte()


def probe(raw: bytes, path: Path, kinds: Sequence[str] = _IMAGE_KINDS) -> tuple[int, int]:
    """Read an image's header only.

    Returns:
        Width and height in pixels, as stored.

    Raises:
        DataError: It is not one of `kinds`, is damaged, or has more than `MAX_PIXELS`.
    """
    doing = f"decoding {path}"
    wanted = " or ".join(kinds)
    if not raw:
        raise DataError(f"{doing}: the file is empty (0 bytes). Get it again.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(raw)) as image:
                found, (width, height) = image.format, image.size
    except UnidentifiedImageError as error:
        raise DataError(
            f"{doing}: it is not a {wanted}; it begins with {raw[:8]!r}. Get it again, or convert "
            "it."
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{doing}: its header claims more than {MAX_PIXELS:,} pixels, which no image of "
            "HAM10000 has. Get it again, or make it smaller."
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{doing}: its header is damaged ({error}). Get it again.") from error
    if found not in kinds:
        raise DataError(f"{doing}: it is a {found}, not a {wanted}. Get it again, or convert it.")
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{doing}: its header claims {width} x {height} pixels, more than {MAX_PIXELS:,}, "
            "which no image of HAM10000 has. Get it again, or make it smaller."
        )
    return width, height


def resize(image: Tensor, size: int, *, mask: bool = False) -> Tensor:
    """Resize to size x size without keeping the aspect ratio, as the authors do.

    Example:
        >>> import torch
        >>> from ham10000.data import resize
        >>> resize(torch.zeros(3, 450, 600, dtype=torch.uint8), 224).shape
        torch.Size([3, 224, 224])

    Args:
        image: (C, H, W), uint8.
        size: In pixels.
        mask: Take the nearest pixel instead of interpolating.
    """
    mode = InterpolationMode.NEAREST_EXACT if mask else InterpolationMode.BILINEAR
    resized: Tensor = F.resize(image, [size, size], interpolation=mode, antialias=not mask)
    return resized


def _first_pattern(path: Path) -> int | None:
    return next((n for n, part in enumerate(path.parts) if re.search(r"[*?[]", part)), None)


def _images_among(paths: Iterable[Path]) -> list[Path]:
    # macOS writes ._ files next to the real ones.
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in IMAGE_ENDINGS and path.name[0] != "." and path.is_file()
    )


def _decode(raw: bytes, path: Path, kinds: Sequence[str], mode: str) -> Tensor:
    size = probe(raw, path, kinds)
    try:
        with Image.open(io.BytesIO(raw)) as image:
            if mode == "RGB" and image.mode in _DEEP_MODES:
                raise DataError(
                    f"decoding {path}: it has more than 8 bits per channel (mode {image.mode}). "
                    "Convert it to 8 bits."
                )
            converted = image.convert(mode)
            turn = _TURNS.get(_orientation(image)) if mode == "RGB" else None
            pixels = np.array(converted if turn is None else converted.transpose(turn))
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"decoding {path}: it is an image of {size[0]} x {size[1]} by its header, and the rest "
            f"is cut short or damaged ({len(raw)} bytes). Get it again."
        ) from error
    # Pillow has channels last.
    return torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1).contiguous()


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block raises whatever its parser does; the pixels are fine
        return 1
