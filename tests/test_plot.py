import contextlib
import copy
import io
import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from softattn import (
    ArgumentError,
    ArgumentTypeError,
    MissingExtraError,
    ModelError,
    ShapeError,
    SoftAttention,
    capture_maps,
)

pytest.importorskip("matplotlib", reason="needs softattn[plot]")

import matplotlib

from softattn.plot import (
    log_maps,
    maps_callback,
    overlay,
    plot_batch,
    plot_maps,
    relative_to_uniform,
)

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
FLOATS = torch.from_numpy(PIXELS / 255).float()  # (H, W, 3)


def test_a_figure_has_the_image_the_sum_and_every_map(tmp_path):
    maps = torch.rand(5, 4, 3)
    figure = plot_maps(torch.rand(3, 20, 15), maps, "a title")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:2] == ["image", "sum of 5 maps, laid over"]
    assert figure.get_suptitle() == "a title"
    shown = [axes.images[0].get_array() for axes in figure.axes[3:] if axes.images]
    assert len(shown) == 5
    for ours, expected in zip(shown, maps, strict=True):
        assert torch.equal(torch.as_tensor(ours.data), expected)
    limits = [axes.images[0].get_clim() for axes in figure.axes[3:] if axes.images]
    assert limits == [(0, max(m.max().item(), 2 * m.mean().item())) for m in maps]
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_the_colour_bar_says_how_much_more_than_uniform():
    maps = torch.full((2, 4, 4), 1 / 16)
    maps[:, 0, 0] = 5 / 16
    maps /= maps.sum(dim=(1, 2), keepdim=True)
    bar = plot_maps(torch.rand(3, 8, 8), maps).axes[2]
    assert bar.get_ylabel() == "attention (1 = uniform)"
    assert bar.get_ylim()[1] == pytest.approx(4)  # 5 parts of 20 on one of 16 positions


@pytest.mark.parametrize(("channels", "depth", "columns"), [(1, 20, 8), (3, 4, 4)])
def test_slices_of_a_volume(tmp_path, channels, depth, columns):
    maps = torch.zeros(2, 3, 4, 5)
    maps[:, 1, 2, 3] = 1.0
    volume = torch.full((channels, depth, 16, 20), 0.5)
    figure = plot_maps(volume, maps, "a title")
    cells, bar = figure.axes[:-1], figure.axes[-1]
    assert len(cells) == 4 * columns  # image, overlay and two maps
    titles = [cell.get_title() for cell in cells[:columns]]
    assert titles[0] == "slice 0"
    assert titles[-1] == f"slice {depth - 1}"
    assert "1 = uniform" in bar.get_ylabel()
    assert bar.get_ylim()[1] == pytest.approx(60)
    drawn = torch.stack([torch.as_tensor(c.images[0].get_array().data) for c in cells[-columns:]])
    found = [int((int(title.split()[1]) + 0.5) * 3 / depth) for title in titles]
    assert torch.equal(drawn, maps[1][found])
    overlays = [torch.as_tensor(c.images[0].get_array().data) for c in cells[columns : 2 * columns]]
    changes = torch.stack([(o - 0.5).abs().sum() for o in overlays])
    assert found[int(changes.argmax())] == 1
    figure.savefig(tmp_path / "volume.png")


def test_curves_of_a_signal(tmp_path):
    signal, maps = torch.randn(3, 20), torch.rand(2, 5)
    figure = plot_maps(signal, maps)
    curves = [[line.get_xydata() for line in axes.lines] for axes in figure.axes]
    assert [len(part) for part in curves] == [3, 1, 2]
    assert torch.allclose(torch.as_tensor(curves[0][1][:, 1]).float(), signal[1])
    assert torch.allclose(torch.as_tensor(curves[2][0][:, 1]).float(), maps[0])
    assert curves[2][0][:, 0].tolist() == [1.5, 5.5, 9.5, 13.5, 17.5]  # of four samples each
    assert curves[1][0][:, 1].mean() == pytest.approx(1)
    figure.savefig(tmp_path / "signal.png")


def test_an_array_that_may_be_an_image_or_a_signal_is_refused():
    array, attention = np.zeros((20, 30)), torch.rand(2, 3)
    with pytest.raises(ShapeError, match=r"may be an image or a signal. Pass maps\[None\]"):
        plot_maps(array, attention)
    assert len(plot_maps(array, attention[None]).axes) == 4


def test_attention_is_laid_where_it_is():
    image, attention = torch.full((3, 40, 60), 0.5), torch.zeros(4, 6)
    attention[1, 4] = 3.0
    picture = overlay(image, attention)
    assert picture.shape == (40, 60, 3)
    changed = (picture - 0.5).abs().sum(-1) > 0.05
    assert changed[10:20, 40:50].all()
    changed[5:25, 35:55] = False
    assert not changed.any()
    assert torch.equal(overlay(image, attention, opacity=0), image.permute(1, 2, 0))


def test_opacity_and_colour_follow_the_attention_relative_to_uniform():
    attention = torch.tensor([[0.0, 0.5, 1.0], [2.0, 1.5, 4.0]])  # uniform is 1.5
    relative = attention / 1.5
    colours = torch.as_tensor(
        matplotlib.colormaps["viridis"](torch.sqrt(relative / (4 / 1.5)).numpy())
    )
    covered = 0.6 * torch.tensor([[0, 0, 0], [1 - 1.5 / 2, 0, 1 - 1.5 / 4]])
    image = torch.rand(3, 2, 3)
    expected = torch.lerp(image.permute(1, 2, 0), colours[..., :3].float(), covered[..., None])
    for scaled in (attention, 7 * attention, attention.repeat(3, 1, 1), attention.numpy()):
        found = overlay(image, scaled, 0.6, cmap="viridis")
        torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
    same = overlay(image, attention, 0.6, cmap=matplotlib.colormaps["viridis"])
    torch.testing.assert_close(same, expected, atol=0.01, rtol=0)


def test_uniform_attention_leaves_the_image_visible():
    image = torch.rand(3, 16, 16)
    for attention in (torch.ones(4, 4), torch.full((4, 4), 1e-9), torch.zeros(4, 4)):
        assert torch.equal(overlay(image, attention), image.permute(1, 2, 0))
    almost = overlay(image, 1 + 0.001 * torch.randn(4, 4))
    torch.testing.assert_close(almost, image.permute(1, 2, 0), atol=0.01, rtol=0)
    bar = plot_maps(image, torch.ones(2, 4, 4)).axes[2]
    assert bar.get_ylim()[1] == pytest.approx(2)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(PIXELS),
        Image.fromarray(PIXELS).convert("RGBA"),
        PIXELS,
        PIXELS[:, ::-1][:, ::-1].copy()[::-1][::-1],
        PIXELS.transpose(2, 0, 1),
        PIXELS / 255,
        (PIXELS / 255).astype(np.float16),
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        FLOATS.permute(2, 0, 1),
        FLOATS.permute(2, 0, 1).double().requires_grad_(),
        FLOATS.permute(2, 0, 1).bfloat16() + 0.004,
    ],
    ids=lambda image: (
        f"{type(image).__module__}-{getattr(image, 'dtype', getattr(image, 'mode', ''))}"
    ),
)
def test_images_of_every_kind(image):
    maps = torch.zeros(2, 4, 6)
    maps[:, 1, 2] = 1.0
    expected = overlay(FLOATS.permute(2, 0, 1), maps)
    torch.testing.assert_close(overlay(image, maps), expected, atol=0.01, rtol=0)
    assert not overlay(image, maps).requires_grad
    shown = plot_batch(image, maps).axes[0].images[0].get_array()
    torch.testing.assert_close(torch.as_tensor(shown.data), FLOATS, atol=0.01, rtol=0)
    shown = plot_maps(image, maps).axes[0].images[0].get_array()
    torch.testing.assert_close(torch.as_tensor(shown.data), FLOATS, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    "gray",
    [Image.fromarray(PIXELS[..., 0]), PIXELS[..., 0], PIXELS[..., :1], PIXELS[None, ..., 0], FLOATS[None, ..., 0]],
)  # fmt: skip
def test_gray_images(gray):
    expected = FLOATS[..., :1].expand(-1, -1, 3)
    torch.testing.assert_close(overlay(gray, torch.ones(4, 6)), expected)
    shown = plot_maps(gray, torch.ones(2, 4, 6)).axes[0].images[0].get_array()
    torch.testing.assert_close(torch.as_tensor(shown.data), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda pixels: np.stack(pixels),
        lambda pixels: np.stack(pixels).transpose(0, 3, 1, 2),
        lambda pixels: torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2),
        lambda pixels: [Image.fromarray(p) for p in pixels],
        lambda pixels: (pixels[0], Image.fromarray(pixels[1])),
    ],
)
def test_batches_have_one_scale(make):
    pixels = [PIXELS, PIXELS[::-1].copy()]
    images, maps = make(pixels), torch.ones(2, 3, 4, 6)
    maps[0, :, 1, 2], maps[1, :, 3, 3] = 10, 30
    laid = overlay(images, maps)
    assert laid.shape == (2, 4, 6, 3)
    torch.testing.assert_close(laid[1], overlay(pixels[1], maps[1]))  # its maximum is the scale
    assert not torch.allclose(laid[0], overlay(pixels[0], maps[0]))
    torch.testing.assert_close(laid, overlay(images, list(maps.sum(1))))

    figure = plot_batch(images, maps, ["first", "second"])
    assert [axes.get_title() for axes in figure.axes] == ["first", "second", "", "", ""]
    shown = [torch.as_tensor(axes.images[0].get_array().data) for axes in figure.axes[:4]]
    torch.testing.assert_close(torch.stack(shown[:2]), torch.from_numpy(np.stack(pixels)) / 255)
    assert torch.equal(torch.stack(shown[2:]), laid)
    assert figure.axes[4].get_ylim()[1] == pytest.approx(30 * 24 / 53)
    assert figure.axes[4].get_ylabel() == "attention (1 = uniform)"

    both, alone = plot_maps(images, maps).axes, plot_maps(pixels[1], maps[1]).axes
    assert len(both) == 2 * len(alone)
    second = both[len(alone) + 1].images[0].get_array()
    assert np.array_equal(second, alone[1].images[0].get_array())


def test_a_batch_of_one_is_not_a_volume():
    figure = plot_maps(torch.rand(1, 3, 8, 8), torch.rand(1, 5, 4, 4))
    assert figure.axes[1].get_title() == "sum of 5 maps, laid over"
    assert overlay(torch.rand(1, 3, 8, 8), torch.rand(1, 5, 4, 4)).shape == (1, 8, 8, 3)


def test_a_batch_in_several_rows(tmp_path):
    images = [torch.rand(3, 8 + i, 12) for i in range(10)]
    figure = plot_batch(images, torch.rand(10, 2, 4, 4))
    assert len(figure.axes) == 4 * 8 + 1
    drawn = [len(axes.images) for axes in figure.axes[:-1]]
    assert drawn == [1] * 16 + [1, 1, 0, 0, 0, 0, 0, 0] * 2
    assert figure.axes[16].images[0].get_array().shape == (16, 12, 3)
    figure.savefig(tmp_path / "batch.png")


HALF = "expected an image of uint8, or of floats from 0 to 1, found"


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.full((3, 4, 4), 255.0), ArgumentError, f"{HALF} floats from 255 to 255. Pass image / 255."),
        (PIXELS.astype(float), ArgumentError, f"{HALF} floats from 0 to 213. Pass image / 255."),
        (4 * FLOATS.permute(2, 0, 1) - 2, ArgumentError, f"{HALF} floats from -2 to 1.34. Pass a normalized image as image * std + mean."),
        (torch.full((3, 4, 4), -0.02), ArgumentError, f"{HALF} floats from -0.02 to -0.02. Pass a normalized image as image * std + mean."),
        (torch.full((3, 4, 4), 1.02), ArgumentError, f"{HALF} floats from 1.02 to 1.02. Pass image / 255."),
        (torch.full((3, 4, 4), torch.nan), ArgumentError, f"{HALF} floats from nan to nan. Check the image."),
        (Image.fromarray(np.full((4, 4), 3.0, np.float32)), ArgumentError, f"{HALF} floats from 3 to 3. Pass image / 255."),
        (Image.fromarray(np.full((4, 4), 300, np.int32)), ArgumentTypeError, f"{HALF} int32."),
        (torch.ones(3, 4, 4, dtype=torch.int64), ArgumentTypeError, f"{HALF} int64."),
        (np.ones((4, 4), bool), ArgumentTypeError, f"{HALF} bool."),
        ("lesion.png", ArgumentTypeError, "expected a PIL image, a tensor or an array, or a list of them, found a str."),
        (None, ArgumentTypeError, "expected a PIL image, a tensor or an array, or a list of them, found a NoneType."),
        (torch.rand(3, 0, 4), ShapeError, "found an empty image, (3, 0, 4)."),
        (torch.rand(4, 4, 3), ShapeError, "expected an image (3, H, W), or an array (H, W, 3), found (4, 4, 3)."),
        (np.ones((4, 4, 4)), ShapeError, "expected an image (3, H, W), or an array (H, W, 3), found (4, 4, 4)."),
    ],
)  # fmt: skip
def test_images_that_cannot_be_drawn(image, error, message):
    for draw in (overlay, plot_batch, plot_maps):
        with pytest.raises(error) as raised:
            draw(image, torch.rand(2, 4, 4))
        assert str(raised.value) == f"drawing attention maps: {message}"


@pytest.mark.parametrize(
    ("maps", "error", "message"),
    [
        (torch.tensor([[1.0, -1.0]]), ArgumentError, "expected finite attention that is not negative, found -1 to 1. Pass maps after their softmax."),
        (torch.tensor([[1.0, torch.inf]]), ArgumentError, "expected finite attention that is not negative, found 1 to inf. Pass maps after their softmax."),
        (torch.tensor([[1.0, torch.nan]]), ArgumentError, "expected finite attention that is not negative, found nan to nan. Pass maps after their softmax."),
        ({"a": torch.rand(4, 4)}, ArgumentTypeError, "expected maps as a tensor or an array, found a dict with a."),
        (torch.rand(3, 0, 4), ShapeError, "expected the maps of one image, (K, h, w), found (3, 0, 4). From a batch take maps[i]."),
    ],
)  # fmt: skip
def test_maps_that_cannot_be_drawn(maps, error, message):
    for draw in (overlay, plot_batch, plot_maps):
        with pytest.raises(error) as raised:
            draw(FLOATS.permute(2, 0, 1), maps)
        assert str(raised.value) == f"drawing attention maps: {message}"


def test_arguments_that_cannot_be_used():
    images, maps = torch.rand(2, 3, 4, 4), torch.rand(2, 2, 4, 4)
    with pytest.raises(ShapeError, match=r"found 2 images and the maps of 1\."):
        plot_batch(images, maps[:1])
    with pytest.raises(ShapeError, match=r"found 0 images and the maps of 0\."):
        plot_batch([], [])
    with pytest.raises(ArgumentTypeError, match=r"found a dict with layer3\."):
        plot_batch(images, {"layer3": maps})
    with pytest.raises(ArgumentError, match=r"found 1 titles for 2 images\."):
        plot_batch(images, maps, ["one"])
    with pytest.raises(ArgumentError, match=r"no colour map 'virids'. Closest: viridis"):
        plot_maps(images[0], maps[0], cmap="virids")
    with pytest.raises(ArgumentError, match=r"opacity must be between 0 and 1, found 1\.5\."):
        overlay(images[0], maps[0], 1.5)
    with pytest.raises(ShapeError, match=r"images of one size, found \[\(4, 4\), \(5, 4\)\]"):
        overlay([torch.rand(3, 5, 4), images[0]], maps)


def test_relative_to_uniform_has_a_mean_of_one():
    maps = torch.rand(3, 5, 4)
    relative = relative_to_uniform(maps)
    torch.testing.assert_close(relative.mean(dim=(1, 2)), torch.ones(3))
    assert relative_to_uniform(maps, num_dims=3).mean() == pytest.approx(1)
    torch.testing.assert_close(relative_to_uniform(maps, 1).mean(dim=2), torch.ones(3, 5))
    torch.testing.assert_close(relative / relative[0, 0, 0], maps * (1 / maps[0, 0, 0]) / (
        maps.mean(dim=(1, 2)) / maps[0].mean()
    )[:, None, None])  # fmt: skip


@pytest.mark.parametrize(
    ("image", "maps", "message"),
    [
        ((1, 3, 20, 15), (2, 4, 4), "found 1 images and the maps of 2."),
        ((4, 3, 20, 15), (2, 5, 4, 4), "expected a volume (3, D, H, W) or (1, D, H, W), or images (B, 3, H, W) with maps (B, K, h, w), found (4, 3, 20, 15) with maps (2, 5, 4, 4)."),
        ((3, 20), (2, 4, 4), "expected the maps of one image, (K, l), found (2, 4, 4). From a batch take maps[i]."),
        ((2, 6, 20, 15), (2, 3, 4, 4), "expected a volume (3, D, H, W) or (1, D, H, W), or images (B, 3, H, W) with maps (B, K, h, w), found (2, 6, 20, 15) with maps (2, 3, 4, 4)."),
        ((1, 6, 20, 15), (1, 2, 3, 4, 4), "expected the maps of one image, (K, d, h, w), found (1, 2, 3, 4, 4). From a batch take maps[i]."),
        ((3, 20, 15), (1, 2, 4, 4), "expected the maps of one image, (K, h, w), found (1, 2, 4, 4). From a batch take maps[i]."),
    ],
)  # fmt: skip
def test_shapes_that_cannot_be_drawn(image, maps, message):
    with pytest.raises(ShapeError) as error:
        plot_maps(torch.rand(image), torch.rand(maps))
    assert str(error.value) == f"drawing attention maps: {message}"


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        MissingExtraError, match=r"drawing attention maps needs matplotlib.*\[plot\]"
    ):
        plot_maps(torch.rand(3, 4, 4), torch.rand(1, 2, 2))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2)
        self.attention = SoftAttention(4, num_maps=2)

    def forward(self, x):
        return self.attention(self.stem(x)).mean((1, 2, 3))


def pictures_of(folder):
    """Return the pictures in a TensorBoard log, by tag: (step, size)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return {
        tag: [
            (event.step, Image.open(io.BytesIO(event.encoded_image_string)).size)
            for event in log.Images(tag)
        ]
        for tag in log.Tags()["images"]
    }


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 5, 4, 4)
    with SummaryWriter(tmp_path) as writer:
        log_maps(writer, "maps", images, maps, step=3)
        log_maps(writer, "maps", images, maps, 4, titles=["a", "b"], cmap="viridis", opacity=0.5)
        log_maps(writer, "each", images, {"layer3": maps, "layer4": maps}, 5)
    size = tuple(int(100 * side) for side in plot_batch(images, maps).get_size_inches())
    assert pictures_of(tmp_path) == {
        "maps": [(3, size), (4, size)],
        "each/layer3": [(5, size)],
        "each/layer4": [(5, size)],
    }


@pytest.mark.slow
def test_weights_and_biases(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="pip install wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 5, 4, 4)
    with wandb.init(mode="offline", dir=tmp_path) as run:
        log_maps(run, "maps", images, {"layer4": maps}, step=3)
        assert run.step == 3
    (picture,) = tmp_path.rglob("maps/layer4_*.png")
    size = tuple(int(100 * side) for side in plot_batch(images, maps).get_size_inches())
    assert Image.open(picture).size == size


def test_other_writers_are_refused():
    with pytest.raises(ArgumentTypeError) as error:
        log_maps("runs/1", "maps", torch.rand(3, 8, 8), torch.rand(2, 4, 4), 0)
    assert str(error.value) == (
        "logging attention maps: found a str. Pass a SummaryWriter, a W&B run, or one of "
        "Lightning's loggers for them."
    )


@pytest.fixture
def module():
    lightning = pytest.importorskip("lightning", reason="pip install lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Net()

        def training_step(self, batch, index):
            return self.model(batch[0]).square().mean()

        def validation_step(self, batch, index):
            self.model(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Module()


def fit(module, callback, logger, **options):
    import lightning

    data = torch.utils.data.TensorDataset(4 * torch.rand(12, 3, 9, 9) - 2)
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    trainer = lightning.Trainer(
        accelerator="cpu",
        callbacks=[callback],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=1,
        logger=logger,
        max_epochs=2,
        **options,
    )
    trainer.fit(module, loader, loader)


def undo(batch):
    return (batch[0] + 2) / 4


@pytest.mark.filterwarnings("ignore")
def test_lightning_logs_the_first_validation_batch(tmp_path, module):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    callback = pickle.loads(pickle.dumps(maps_callback(undo, count=3, opacity=0.5)))
    passes = []
    module.model.attention.register_forward_hook(lambda *_: passes.append(0))
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "tensorboard")]
    fit(module, copy.deepcopy(callback), loggers)
    figure = plot_batch(torch.rand(3, 3, 9, 9), torch.rand(3, 2, 4, 4))
    size = tuple(int(100 * side) for side in figure.get_size_inches())
    (folder,) = (path.parent for path in (tmp_path / "tensorboard").rglob("events*"))
    assert pictures_of(folder) == {"attention/model.attention": [(0, size), (3, size), (6, size)]}
    assert len(passes) == 2 + 2 * (3 + 3)  # two of the sanity check; none for the pictures


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lightning_with_weights_and_biases(tmp_path, module, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="pip install wandb")
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", dir=tmp_path) as run:
        logger = WandbLogger(experiment=run)
        fit(module, maps_callback(undo, tag="maps"), logger)
    assert len(list(tmp_path.rglob("maps/model.attention_*.png"))) == 3


@pytest.mark.filterwarnings("ignore")
def test_lightning_reports_what_cannot_be_drawn_before_training(tmp_path, module):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger

    with pytest.raises(ArgumentError, match=r"image \* std \+ mean"):
        fit(module, maps_callback(), TensorBoardLogger(tmp_path))
    module.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    with pytest.raises(ModelError, match="contains no attention module"):
        fit(module, maps_callback(undo), TensorBoardLogger(tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_a_capture_ends_when_training_fails(module, monkeypatch):
    def fail(batch, batch_idx):
        raise ZeroDivisionError

    @contextlib.contextmanager
    def watched(model):
        with capture_maps(model) as maps:
            yield maps
        states.append("ended")

    states = []
    monkeypatch.setattr(module, "validation_step", fail)
    monkeypatch.setattr("softattn.plot.capture_maps", watched)
    with pytest.raises(ZeroDivisionError):
        fit(module, maps_callback(undo), logger=False)
    assert states == ["ended"]


def test_without_lightning(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch.callbacks", None)
    with pytest.raises(MissingExtraError, match=r"needs lightning.*pip install lightning"):
        maps_callback()
