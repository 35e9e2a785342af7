import struct
import zlib
from pathlib import Path

import pytest
import torch
from bad_files import bomb, jpeg
from PIL import Image

from ham10000.data import read_image, read_mask, resize
from ham10000.data.images import MAX_PIXELS, decode
from ham10000.errors import DataError, MissingDataError


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        sums = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + sums

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


def test_reads_what_pillow_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg())
    image = read_image(path)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 30, 40)
    with Image.open(path) as opened:
        assert image[:, 7, 9].tolist() == list(opened.convert("RGB").getpixel((9, 7)))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_every_jpeg_becomes_rgb(mode: str) -> None:
    assert decode(jpeg(mode=mode), Path("a.jpg")).shape == (3, 30, 40)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>" * 10, "it is not a JPEG; it begins with b'<html>40'"),
        (png(4, 4), "it is a PNG, not a JPEG"),
        (jpeg()[:-200], "cut short or damaged"),
        (jpeg()[:-2], "cut short or damaged"),
        (jpeg()[:30], "header is damaged|not a JPEG"),
        (bomb(60_000, 60_000), f"more than {MAX_PIXELS:,}"),
        (bomb(10_000, 9_000), "claims 10000 x 9000 pixels"),
    ],
    ids=["empty", "html", "png", "cut", "no end", "header only", "bomb", "small bomb"],
)
def test_names_the_file_that_is_no_image(raw: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        decode(raw, Path("folder/a.jpg"))
    assert "decoding folder/a.jpg" in str(raised.value)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"a\.jpg: no such file"):
        read_image(tmp_path / "a.jpg")


def test_a_mask_is_zeros_and_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (4, 3), 255).save(path)
    mask = read_mask(path)
    assert mask.shape == (1, 3, 4)
    assert mask.unique().tolist() == [1]


def test_a_resized_mask_takes_no_values_between() -> None:
    mask = torch.zeros(1, 30, 40, dtype=torch.uint8)
    mask[:, 10:, 13:] = 1
    assert resize(mask, 17, mask=True).unique().tolist() == [0, 1]
