import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_files import bomb, jpeg
from PIL import Image, ImageOps

from ham10000.data import image_files, read_image, read_mask, resize
from ham10000.data.images import MAX_PIXELS, decode_image, decode_mask
from ham10000.errors import ArgumentError, DataError, MissingDataError


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        sums = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + sums

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


def tiff() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "TIFF")
    return file.getvalue()


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
    assert decode_image(jpeg(mode=mode), Path("a.jpg")).shape == (3, 30, 40)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>" * 10, "it is not a JPEG or PNG; it begins with b'<html>40'"),
        (tiff(), "it is a TIFF, not a JPEG or PNG"),
        (jpeg()[:-200], "cut short or damaged"),
        (jpeg()[:-2], "cut short or damaged"),
        (jpeg()[:30], "header is damaged|not a JPEG"),
        (bomb(60_000, 60_000), f"more than {MAX_PIXELS:,}"),
        (bomb(10_000, 9_000), "claims 10000 x 9000 pixels"),
    ],
    ids=["empty", "html", "tiff", "cut", "no end", "header only", "bomb", "small bomb"],
)
def test_names_the_file_that_is_no_image(raw: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        decode_image(raw, Path("folder/a.jpg"))
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


def turned(kind: str, orientation: int) -> tuple[bytes, Image.Image]:
    """An image of four colours as a file with an EXIF orientation, and as it should be seen."""
    image = Image.new("RGB", (48, 32), "red")
    image.paste("lime", (24, 0, 48, 16))
    image.paste("blue", (0, 16, 24, 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    with Image.open(io.BytesIO(file.getvalue())) as opened:
        return file.getvalue(), ImageOps.exif_transpose(opened).convert("RGB")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_orientation_says(kind: str, orientation: int) -> None:
    raw, seen = turned(kind, orientation)
    image = decode_image(raw, Path("a.jpg"))
    assert (image.permute(1, 2, 0).numpy() == np.array(seen)).all()


def test_a_damaged_exif_block_leaves_the_image_as_it_is_stored() -> None:
    raw, _ = turned("JPEG", 6)
    start = raw.index(b"Exif") + 6
    damaged = raw[:start] + b"\xff" * 8 + raw[start + 8 :]
    assert decode_image(damaged, Path("a.jpg")).shape == (3, 32, 48)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_a_png_of_8_bits_becomes_rgb(mode: str) -> None:
    file = io.BytesIO()
    Image.effect_noise((40, 30), 60).convert(mode).save(file, "PNG")
    assert decode_image(file.getvalue(), Path("a.png")).shape == (3, 30, 40)


def test_a_png_of_16_bits_is_refused_and_not_clipped() -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((3, 4), 1000, dtype=np.uint16)).save(file, "PNG")
    with pytest.raises(DataError, match=r"more than 8 bits per channel \(mode I;16"):
        decode_image(file.getvalue(), Path("a.png"))


def test_a_mask_must_be_a_png() -> None:
    with pytest.raises(DataError, match="it is a JPEG, not a PNG"):
        decode_mask(jpeg(), Path("a_segmentation.png"))


def test_images_of_any_source_come_from_files_folders_and_patterns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "left").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "._a.jpg", "notes.txt", "left/c.jpeg", "odd[1].jpg", "raw"):
        (tmp_path / "photos" / name).touch()
    for places, names in (
        (["photos"], ["a.jpg", "b.PNG", "odd[1].jpg"]),
        (["photos/raw", "photos/nowhere.jpg"], ["raw", "nowhere.jpg"]),
        (["photos/*.jpg"], ["a.jpg", "odd[1].jpg"]),
        (["photos/**/*.jp*g"], ["a.jpg", "left/c.jpeg", "odd[1].jpg"]),
        (["photos/odd[1].jpg"], ["odd[1].jpg"]),
        (
            ["photos/left", "photos/../photos/a.jpg", "photos/[ab].*"],
            ["left/c.jpeg", "a.jpg", "b.PNG"],
        ),
    ):
        found = [path.resolve().relative_to(tmp_path / "photos") for path in image_files(places)]
        assert [path.as_posix() for path in found] == names
    (tmp_path / "empty").mkdir()
    for place in ("empty", "empty/*.png"):
        with pytest.raises(
            ArgumentError, match=r"no JPEG or PNG files.*pattern 'empty/\*\*/\*\.jpg'"
        ):
            image_files([place])
