from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.utils import save_image

from softattn import ArgumentError, wrap_backbone
from softattn.cli import main

pytest.importorskip("matplotlib", reason="needs softattn[plot]")
pytest.importorskip("timm", reason="needs softattn[timm]")

from softattn.cli.explain import explain_files, load_explainer, read_image

MODEL = "test_resnet"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "photo.jpg"
    save_image(torch.rand(3, 90, 120), path)
    return path


def run(*arguments):
    return main(["explain", *map(str, arguments)])


def test_writes_a_figure_for_each_image(image, tmp_path, capsys):
    second = tmp_path / "second.png"
    Image.new("L", (50, 70), 128).save(second)
    out = tmp_path / "a" / "b"
    assert run(image, second, "--model", MODEL, "--out", out) == 0
    figures = [out / "photo-attention.png", out / "second-attention.png"]
    assert sorted(out.iterdir()) == figures
    assert capsys.readouterr().out.splitlines() == [
        MODEL, "  backbone: untrained, seed 0", "  attention: untrained, seed 0", *map(str, figures)
    ]  # fmt: skip
    width, height = Image.open(figures[0]).size
    assert width > 2 * height > 1000


def test_shows_the_image_that_the_model_sees_and_the_model_s_own_maps(image):
    explainer = load_explainer(MODEL, num_maps=3, seed=5)
    seen, maps = explainer.look(read_image(image))
    assert (seen.shape, maps.shape) == ((3, 160, 160), (3, 5, 5))
    cfg = explainer.model.pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = explainer.model(((seen - mean) / std)[None], return_maps=True)[1][0]
    torch.testing.assert_close(maps, expected)
    assert 0 <= seen.min() < seen.max() <= 1


@pytest.mark.parametrize("name", [MODEL, "torchvision:resnet18"])
def test_the_image_is_prepared_as_the_library_does(name, image):
    explainer = load_explainer(name, num_maps=1)
    seen, _ = explainer.look(read_image(image))
    if name == MODEL:
        import timm

        config = timm.data.resolve_model_data_config(explainer.model)
        expected = timm.data.create_transform(**config)(read_image(image))
    else:
        import torchvision

        transform = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
        expected = transform(read_image(image))
    cfg = explainer.model.pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close((seen - mean) / std, expected, atol=0.03, rtol=0)


def test_a_seed_decides_what_no_file_does_and_leaves_ours_alone():
    state = torch.get_rng_state()
    first, same, other = (load_explainer(MODEL, seed=seed).model for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.attention.weight, same.attention.weight)
    assert not torch.equal(first.attention.weight, other.attention.weight)


@pytest.mark.parametrize("wrapped_in", [None, "state_dict", "model"])
def test_weights_of_the_library_s_model(tmp_path, wrapped_in):
    import timm

    model = timm.create_model(MODEL, num_classes=11)
    state = {k: v for k, v in model.state_dict().items() if "num_batches_tracked" not in k}
    file = tmp_path / "weights.pth"
    torch.save({wrapped_in: state} if wrapped_in else state, file)
    explainer = load_explainer(MODEL, weights=file)
    for name, value in explainer.model.backbone.model.state_dict().items():
        if name in state:
            assert torch.equal(value, state[name])
    assert explainer.backbone_from == "weights.pth (without fc.weight, fc.bias)"
    assert explainer.attention_from == "untrained, seed 0"


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_of_the_whole(tmp_path, suffix):
    model = wrap_backbone(MODEL, num_classes=9, at="layer2", num_maps=4)
    file = tmp_path / f"model.{suffix}"
    if suffix == "pth":
        torch.save(model.state_dict(), file)
    else:
        save = pytest.importorskip("safetensors.torch", reason="needs softattn[hub]").save_file
        save(model.state_dict(), file)
    explainer = load_explainer(MODEL, at="layer2", weights=file, num_maps=4)
    assert (explainer.backbone_from, explainer.attention_from) == (file.name, file.name)
    for name, value in model.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(explainer.model.state_dict()[name], value)


def error_of(capsys, *arguments):
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("softattn explain: ")
    return captured.err.removeprefix("softattn explain: ").strip()


def test_weights_of_another_model(image, tmp_path, capsys):
    file = tmp_path / "weights.pth"
    torch.save(torch.nn.Linear(2, 2).state_dict(), file)
    message = error_of(capsys, image, "--model", MODEL, "--weights", file, "--out", tmp_path / "o")
    assert message.startswith(f"loading {file}: ")
    assert "tensors of the model are missing in the file or have another shape: conv1." in message
    assert message.endswith("The file contains weight, bias. Check that it belongs to this model.")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"nothing",
            "or a file that torch.save wrote and that contains only tensors. It is neither",
        ),
        ([1, 2], "expected a state_dict, a mapping from names to tensors, found list."),
        (
            {"a": 1},
            "expected a state_dict, a mapping from names to tensors, found one with int at 'a'.",
        ),
        (
            Path("x"),
            "or a file that torch.save wrote and that contains only tensors. It is neither",
        ),
    ],
)
def test_weights_that_are_none(image, tmp_path, capsys, content, message):
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    assert message in error_of(
        capsys, image, "--model", MODEL, "--weights", file, "--out", tmp_path
    )


def test_what_is_not_there(image, tmp_path, capsys):
    missing, out = tmp_path / "none", ("--out", tmp_path / "out")
    message = error_of(capsys, image, "--model", MODEL, "--weights", missing, *out)
    assert message == f"loading weights: {missing} is not a file."
    message = error_of(capsys, missing, image, "--model", MODEL, *out)
    assert message == f"reading an image: {missing} does not exist."
    assert "test_resnet" in error_of(capsys, image, "--model", "test_resnett", *out)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_an_image(image, tmp_path, capsys):
    bad, cut = tmp_path / "bad.jpg", tmp_path / "cut.jpg"
    bad.write_text("not an image")
    cut.write_bytes(image.read_bytes()[:500])
    for file in (bad, cut):
        message = error_of(capsys, image, file, "--model", MODEL, "--out", tmp_path / "out")
        assert message.startswith(f"reading an image: {file} is not an image, or is damaged (")
    assert not (tmp_path / "out").exists()


def test_two_images_of_one_name(image, tmp_path):
    twin = tmp_path / "other" / "photo.png"
    twin.parent.mkdir()
    save_image(torch.rand(3, 9, 9), twin)
    with pytest.raises(ValueError, match="would all be written to") as error:
        list(explain_files([image, twin], load_explainer(MODEL), tmp_path / "out"))
    assert str(image) in str(error.value)
    assert "Write them to separate folders." in str(error.value)


def test_figures_do_not_change_the_images(image, tmp_path):
    before = image.read_bytes()
    assert run(image, "--model", MODEL, "--out", tmp_path) == 0
    assert image.read_bytes() == before


@pytest.mark.slow
def test_real_images(ham10000, tmp_path):
    images = sorted((ham10000 / "HAM10000_images_part_1").glob("*.jpg"))[:3]
    assert run(*images, "--model", "tf_efficientnet_lite0", "--out", tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == 3


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
