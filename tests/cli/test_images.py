import numpy as np
import pytest
from PIL import Image

from softattn import ArgumentError
from softattn.cli.images import read_image

# A colour of the palette that Pillow converts to.
RED = (204, 51, 0)
GRAY = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)


def saved(image, path, **options):
    image.save(path, **options)
    return path


def values(path):
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled(tmp_path, suffix):
    path = saved(Image.fromarray(GRAY.astype(np.uint16) * 257), tmp_path / f"x.{suffix}")
    assert (values(path) == GRAY[..., None]).all()


def test_16_bits_in_the_other_byte_order(tmp_path):
    image = Image.fromarray(GRAY.astype(np.uint16) * 257).convert("I").convert("I;16B")
    assert (values(saved(image, tmp_path / "x.tif")) == GRAY[..., None]).all()


def test_16_bit_png_that_pillow_reads_as_32_bits(tmp_path, monkeypatch):
    path = saved(Image.fromarray(GRAY.astype(np.uint16) * 257), tmp_path / "x.png")
    image = Image.open(path).convert("I")
    image.format = "PNG"
    monkeypatch.setattr(Image, "open", lambda path: image)
    assert (values(path) == GRAY[..., None]).all()


def test_floats_from_0_to_1_are_scaled(tmp_path):
    path = saved(Image.fromarray(GRAY.astype(np.float32) / 255), tmp_path / "x.tif")
    assert (values(path) == GRAY[..., None]).all()


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (GRAY.astype(np.float32), "floats from 0 to 255"),
        (GRAY.astype(np.float32) / 255 - 1, "floats from -1 to 0"),
        (np.array([[0, np.nan]], np.float32), "floats from nan to nan"),
        (GRAY.astype(np.int32), "32-bit integers from 0 to 255"),
    ],
)
def test_values_of_unknown_range_are_refused(tmp_path, array, found):
    path = saved(Image.fromarray(array), tmp_path / "x.tif")
    with pytest.raises(ArgumentError, match=f"reading an image: {path} holds {found}, and the"):
        read_image(path)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "png"),
        ("RGBA", "png"),
        ("P", "png"),
        ("PA", "tif"),
        ("CMYK", "tif"),
        ("CMYK", "jpg"),
        ("YCbCr", "tif"),
        ("YCbCr", "jpg"),
        ("LAB", "tif"),
        ("RGB", "webp"),
        ("P", "gif"),
    ],
)
def test_colours_are_kept(tmp_path, mode, suffix):
    path = saved(Image.new("RGB", (9, 7), RED).convert(mode), tmp_path / f"x.{suffix}")
    picture = values(path)
    assert picture.shape == (7, 9, 3)
    assert np.abs(picture.astype(int) - RED).max() <= 10  # palettes and JPEG round


@pytest.mark.parametrize(("mode", "suffix"), [("L", "png"), ("LA", "png"), ("L", "gif")])
def test_gray_stays_gray(tmp_path, mode, suffix):
    path = saved(Image.fromarray(GRAY).convert(mode), tmp_path / f"x.{suffix}")
    assert (values(path) == GRAY[..., None]).all()


def test_one_bit_is_black_and_white(tmp_path):
    path = saved(Image.fromarray(GRAY > 100), tmp_path / "x.png")
    assert (values(path) == np.where(GRAY > 100, 255, 0)[..., None]).all()


def test_transparency_is_white(tmp_path):
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (*RED, 255))
    expected = [[[255, 255, 255], list(RED)]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, *RED])
    palette.putpixel((1, 0), 1)
    colour = Image.new("RGB", (2, 1))
    colour.putpixel((1, 0), RED)
    for path in (
        saved(clear, tmp_path / "a.png"),
        saved(clear, tmp_path / "a.tif"),
        saved(palette, tmp_path / "p.png", transparency=0),
        saved(palette, tmp_path / "p.gif", transparency=0),
        saved(colour, tmp_path / "c.png", transparency=(0, 0, 0)),
    ):
        assert values(path).tolist() == expected, path
    gray = Image.new("LA", (2, 1), (0, 0))
    gray.putpixel((1, 0), (40, 255))
    assert values(saved(gray, tmp_path / "l.png"))[0, :, 0].tolist() == [255, 40]
    half = saved(Image.new("RGBA", (1, 1), (0, 0, 0, 51)), tmp_path / "half.png")
    assert read_image(half).getpixel((0, 0)) == (204, 204, 204)


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_exif_orientation_is_applied(tmp_path, mode):
    picture = Image.new(mode, (40, 20))
    exif = picture.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    path = saved(picture, tmp_path / ("x.jpg" if mode == "RGB" else "x.png"), exif=exif)
    assert read_image(path).size == (20, 40)


def test_the_first_image_of_several_is_read(tmp_path):
    first, second = Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4))
    path = saved(first, tmp_path / "x.tif", save_all=True, append_images=[second])
    assert (values(path) == RED).all()


def test_what_is_no_image(tmp_path):
    for path, message in (
        (tmp_path / "none.png", f"{tmp_path / 'none.png'} does not exist."),
        (tmp_path, f"{tmp_path} is a directory. Pass the files in it."),
    ):
        with pytest.raises(ArgumentError) as raised:
            read_image(path)
        assert str(raised.value) == f"reading an image: {message}"
    text = tmp_path / "text.png"
    text.write_text("not an image")
    cut = saved(Image.fromarray(GRAY), tmp_path / "cut.png")
    cut.write_bytes(cut.read_bytes()[:60])
    for path in (text, cut):
        with pytest.raises(ArgumentError, match=f"{path} is not an image, or is damaged"):
            read_image(path)
