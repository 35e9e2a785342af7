import base64

import pytest
from matplotlib.figure import Figure

from ham10000.reporting.style import FIGURE_SIZE, LIGHT, Theme, data_uri, embed, new_figure


@pytest.mark.parametrize(("ratios", "columns"), [((1,), 1), ((3, 1), 1), ((1,), 2)])
def test_a_figure_has_one_size_whatever_its_axes(ratios: tuple[int, ...], columns: int) -> None:
    figure, axes = new_figure(LIGHT, ratios, columns=columns)
    assert tuple(figure.get_size_inches()) == FIGURE_SIZE
    assert len(axes) == len(ratios) * columns


def test_a_data_uri_decodes_to_its_content() -> None:
    head, _, content = data_uri(b"\x00\xff", "png").partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(content) == b"\x00\xff"


def test_an_embedded_figure_is_deterministic_and_has_both_themes() -> None:
    def draw(theme: Theme) -> Figure:
        figure, (axes,) = new_figure(theme)
        axes.plot([0, 1], [0, 1], color=theme.first)
        return figure

    first, second = embed(draw, "a line"), embed(draw, "a line")
    assert first == second
    assert first.dark not in (None, first.light)
    assert first.light.startswith("data:image/svg+xml;base64,")
