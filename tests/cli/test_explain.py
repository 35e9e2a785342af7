import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.utils import save_image

from softattn import ArgumentError, SoftAttentionBlock, WeightsError, wrap_backbone
from softattn.cli import main
from softattn.cli.main import find_images

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
        f"timm:{MODEL}", "  backbone: untrained, seed 0", "  attention: untrained, seed 0", *map(str, figures)
    ]  # fmt: skip
    width, height = Image.open(figures[0]).size
    assert width > 2 * height > 1000


def test_shows_the_image_that_the_model_sees_and_the_model_s_own_maps(image):
    explainer = load_explainer(MODEL, num_maps=3, seed=5)
    seen, maps, classes = explainer.explain(read_image(image))
    assert classes == "", "the head is untrained"
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
    seen = explainer.explain(read_image(image)).image
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


def trained_classifier(**options):
    """A classifier with other weights and buffers than those at the start."""
    model = wrap_backbone(MODEL, num_classes=3, num_maps=4, **options).eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            value.mul_(1.25 if value.is_floating_point() else 1)
    return model


def probabilities(model, explainer, image):
    cfg = explainer.model.pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    seen = explainer.explain(read_image(image)).image
    with torch.no_grad():
        return model(((seen - mean) / std)[None]).softmax(1)[0].tolist()


def shown_classes(names, values):
    ranked = sorted(zip(names, values, strict=True), key=lambda pair: -pair[1])[:3]
    return ", ".join(f"{name} {value:.3f}" for name, value in ranked)


CHECKPOINTS = {
    "Lightning": lambda s: {"epoch": 3, "state_dict": {f"model.{k}": v for k, v in s.items()}},
    "a prefix of two parts": lambda s: {f"model.network.{k}": v for k, v in s.items()},
    "DDP": lambda s: {f"module.{k}": v for k, v in s.items()},
    "torch.compile": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "a compiled part": lambda s: {k.replace("model.", "model._orig_mod."): v for k, v in s.items()},
    "AveragedModel": lambda s: (
        {"n_averaged": torch.tensor(2)} | {f"module.{k}": v for k, v in s.items()}
    ),
}
OTHER = {"head.fc.weight": torch.zeros(3, 96), "attention.weight": torch.ones(1)}
AVERAGED = {
    "timm": (lambda s: {"state_dict": OTHER, "state_dict_ema": s}, "state_dict_ema"),
    "nested": (lambda s: {"model": OTHER, "ema": {"module": s, "decay": 0.9}}, "ema"),
    "in one state_dict": (
        lambda s: {f"{place}.{k}": v * (place == "ema_model") for k, v in s.items()
                   for place in ("ema_model", "online_model")},
        "ema_model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*CHECKPOINTS, *AVERAGED])
def test_checkpoints_of_trainers(kind, image, tmp_path):
    model = trained_classifier()
    save, average = AVERAGED.get(kind) or (CHECKPOINTS[kind], None)
    file = tmp_path / "weights.ckpt"
    torch.save(save(model.state_dict()), file)
    explainer = load_explainer(MODEL, weights=file, num_maps=4)
    expected = f"weights.ckpt, averaged weights in {average}" if average else "weights.ckpt"
    assert (explainer.backbone_from, explainer.attention_from) == (expected, expected)
    for key, value in model.state_dict().items():
        assert torch.equal(explainer.model.state_dict()[key], value), key
    names = ["class 0", "class 1", "class 2"]
    shown = shown_classes(names, probabilities(model, explainer, image))
    assert explainer.explain(read_image(image)).classes == shown


@pytest.mark.parametrize("prefix", ["model.", "module.backbone.model."])
def test_checkpoints_of_the_original_model_have_no_attention(prefix, tmp_path):
    model = trained_classifier()
    own = model.backbone.model.state_dict()
    torch.save({"state_dict": {f"{prefix}{k}": v for k, v in own.items()}}, tmp_path / "a.ckpt")
    explainer = load_explainer(MODEL, weights=tmp_path / "a.ckpt")
    assert (explainer.backbone_from, explainer.attention_from) == ("a.ckpt", "untrained, seed 0")
    assert not explainer.has_classes
    for key, value in own.items():
        assert torch.equal(explainer.model.backbone.model.state_dict()[key], value), key


def test_a_checkpoint_of_lightning(image, tmp_path):
    lightning = pytest.importorskip("lightning", reason="pip install lightning")

    class Module(lightning.LightningModule):
        def __init__(self, rate):
            super().__init__()
            self.save_hyperparameters()
            self.net = trained_classifier()

        def training_step(self, batch):
            return self.net(batch[0]).logsumexp(1).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.hparams.rate)

    data = torch.utils.data.TensorDataset(torch.rand(4, 3, 32, 32))
    module = Module(rate=0.01)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"default_root_dir": tmp_path, "max_epochs": 1, "accelerator": "cpu", **quiet}
    lightning.Trainer(enable_checkpointing=False, **options).fit(
        module, torch.utils.data.DataLoader(data, batch_size=2)
    )
    module.trainer.save_checkpoint(tmp_path / "last.ckpt")
    explainer = load_explainer(MODEL, weights=tmp_path / "last.ckpt", num_maps=4)
    assert explainer.attention_from == "last.ckpt"
    for key, value in module.net.state_dict().items():
        assert torch.equal(explainer.model.state_dict()[key], value), key


def test_heads_that_are_flattened_or_of_another_kind(image, tmp_path):
    flat = trained_classifier(head="flatten")
    torch.save(flat.state_dict(), tmp_path / "flat.pth")
    explainer = load_explainer(MODEL, weights=tmp_path / "flat.pth", num_maps=4)
    assert explainer.has_classes
    assert torch.equal(explainer.model.head.fc.weight, flat.head.fc.weight)
    smaller = trained_classifier(head="flatten", input_size=96)
    torch.save(smaller.state_dict(), tmp_path / "smaller.pth")
    other = trained_classifier(head=lambda c, n: torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1),
                               torch.nn.Flatten(), torch.nn.Linear(c, n)))  # fmt: skip
    torch.save(other.state_dict(), tmp_path / "other.pth")
    for name in ("smaller.pth", "other.pth"):
        explainer = load_explainer(MODEL, weights=tmp_path / name, num_maps=4)
        assert (explainer.attention_from, explainer.has_classes) == (name, False)


def test_a_folder_of_the_hub(image, tmp_path, capsys):
    hub = pytest.importorskip("softattn.hub")
    pytest.importorskip("safetensors", reason="needs softattn[hub]")
    model = trained_classifier(block=None, at="layer3")
    model.pretrained_cfg.update(label_names=("mel", "nv", "bcc"), crop_mode="squash", crop_pct=1.0)
    hub.save_pretrained(model, tmp_path / "model")
    explainer = load_explainer(str(tmp_path / "model"))
    seen = explainer.explain(read_image(image)).image
    resampling = Image.Resampling[model.pretrained_cfg["interpolation"].upper()]
    resized = read_image(image).resize((160, 160), resampling)
    shown = torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255
    torch.testing.assert_close(seen, shown, atol=0.03, rtol=0)
    values = probabilities(model, explainer, image)
    assert run(image, "--model", tmp_path / "model", "--out", tmp_path / "out") == 0
    classes = shown_classes(("mel", "nv", "bcc"), values)
    assert capsys.readouterr().out.splitlines() == [
        f"timm:{MODEL}", f"  backbone: {tmp_path / 'model'}", f"  attention: {tmp_path / 'model'}",
        f"{tmp_path / 'out' / 'photo-attention.png'}: {classes}",
    ]  # fmt: skip
    for option in ("--at=layer2", "--pretrained", f"--weights={image}"):
        message = error_of(capsys, image, "--model", tmp_path / "model", "--out", tmp_path, option)
        assert message.endswith("Leave out --at, --weights and --pretrained.")


def test_a_folder_without_attention_maps(tmp_path):
    hub = pytest.importorskip("softattn.hub")
    pytest.importorskip("safetensors", reason="needs softattn[hub]")
    hub.save_pretrained(wrap_backbone(MODEL, 3, block="se"), tmp_path / "se")
    with pytest.raises(ArgumentError, match=r"its attention, SEModule, computes no attention maps"):
        load_explainer(str(tmp_path / "se"))
    hub.save_pretrained(wrap_backbone(MODEL, 3, block=SoftAttentionBlock), tmp_path / "block")
    assert load_explainer(str(tmp_path / "block")).has_classes
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(
        WeightsError, match=r"expected a folder or repository with the config\.json"
    ):
        load_explainer(str(tmp_path / "empty"))


def test_figures_say_where_the_attention_is_from(image, tmp_path, monkeypatch):
    import softattn.cli.explain

    titles = []

    def plot_maps(image, maps, title):
        titles.append(title)
        return figure(image, maps, title)

    figure = softattn.cli.explain.plot_maps
    monkeypatch.setattr(softattn.cli.explain, "plot_maps", plot_maps)
    model = trained_classifier()
    torch.save(model.state_dict(), tmp_path / "whole.pth")
    torch.save(model.backbone.model.state_dict(), tmp_path / "bare.pth")
    out = ("--num-maps", 4, "--out", tmp_path / "out")
    for options in (
        [],
        ["--weights", tmp_path / "bare.pth"],
        ["--weights", tmp_path / "whole.pth"],
    ):
        assert run(image, "--model", MODEL, *options, *out) == 0
    assert titles[:2] == ["photo.jpg; attention: untrained, seed 0"] * 2
    assert titles[2].startswith("photo.jpg; attention: whole.pth\nclass ")


def test_images_in_directories_and_patterns(image, tmp_path, capsys):
    more = tmp_path / "more"
    (more / "deep").mkdir(parents=True)
    for path in (more / "b.PNG", more / "a.jpg", more / "deep" / "c.png"):
        save_image(torch.rand(3, 20, 20), path, format="png")
    (more / "notes.txt").write_text("no image")
    own = [more / "a.jpg", more / "b.PNG"]
    assert find_images([more, image]) == [*own, image]
    assert find_images([f"{more}/*.jpg", more]) == own, "each once"
    assert find_images([f"{more}/**/*.png"]) == [more / "deep" / "c.png"]
    assert find_images([more / "none.jpg"]) == [more / "none.jpg"], "reading it says so"
    assert run(more, "--model", MODEL, "--out", tmp_path / "out") == 0
    figures = [f"{path.stem}-attention.png" for path in own]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == figures
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", f"{tmp_path}/no-*.jpg"):
        message = error_of(capsys, place, "--model", MODEL, "--out", tmp_path / "out")
        assert message.startswith(f"looking for images in {place}: there are no .bmp, .gif")


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
    tiff = saved(Image.fromarray(GRAY), tmp_path / "tiles.tiff")
    content = bytearray(tiff.read_bytes())
    for place in range(8, len(content)):  # Pillow raises errors of several kinds
        with contextlib.suppress(ArgumentError):
            spoiled = content.copy()
            spoiled[place] ^= 0xFF
            tiff.write_bytes(spoiled)
            read_image(tiff)
    for path in (text, cut):
        with pytest.raises(ArgumentError, match=f"{path} is not an image, or is damaged"):
            read_image(path)
