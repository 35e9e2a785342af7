"""Helpers to damage files, and to find what interrupted writes leave."""

import io
import struct
from pathlib import Path

from PIL import Image


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first occurrence of a text in a file, which must contain it."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def leftovers(folder: Path) -> list[str]:
    """Names of unfinished files below a folder."""
    return [path.name for path in folder.rglob(".ham10000-part-*")]


def jpeg(width: int = 40, height: int = 30, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.effect_noise((width, height), 60).convert(mode).save(file, "JPEG")
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A JPEG of a few bytes whose header claims a huge image."""
    raw = bytearray(jpeg())
    start = raw.index(b"\xff\xc0") + 5
    raw[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(raw)
