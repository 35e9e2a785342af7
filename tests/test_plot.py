import sys

import pytest
import torch

from softattn import MissingExtraError, ShapeError

pytest.importorskip("matplotlib", reason="needs softattn[plot]")

from softattn.plot import overlay, plot_maps, relative_to_uniform


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
        ((20, 15, 3), (2, 4, 4), "expected an image (3, H, W), found (20, 15, 3)."),
        ((1, 3, 20, 15), (2, 4, 4), "expected an image (3, H, W), found (1, 3, 20, 15)."),
        ((3, 20), (2, 4, 4), "expected the maps of one image, (K, l), found (2, 4, 4). From a batch take maps[i]."),
        ((2, 6, 20, 15), (2, 3, 4, 4), "expected a volume (3, D, H, W) or (1, D, H, W), found (2, 6, 20, 15)."),
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
