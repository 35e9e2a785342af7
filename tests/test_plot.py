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
    torch.testing.assert_close(relative / relative[0, 0, 0], maps * (1 / maps[0, 0, 0]) / (
        maps.mean(dim=(1, 2)) / maps[0].mean()
    )[:, None, None])  # fmt: skip


@pytest.mark.parametrize(
    ("image", "maps", "message"),
    [
        ((20, 15, 3), (2, 4, 4), "expected an image (3, H, W), found (20, 15, 3)."),
        ((1, 3, 20, 15), (2, 4, 4), "expected an image (3, H, W), found (1, 3, 20, 15)."),
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
