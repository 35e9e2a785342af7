import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ham10000.reporting.fading import fading_figure
from ham10000.reporting.theme import DARK, LIGHT, Theme

CURVES = {
    method: {"deletion": np.linspace(0.9, 0.1, 21).tolist(), "insertion": [0.2] * 20 + [0.9]}
    for method in ("attention", "grad_cam", "gaussian", "random")
}


def test_each_method_has_a_line_of_its_own_look_and_its_area() -> None:
    figure = fading_figure(CURVES)
    deletion, insertion = figure.axes
    assert [text.get_text() for text in deletion.get_legend().get_texts()] == [
        "soft attention 0.500",
        "Grad-CAM 0.500",
        "centred Gaussian 0.500",
        "random map 0.500",
    ]
    looks = {(line.get_color(), line.get_linestyle()) for line in deletion.lines}
    assert len(looks) == 4
    x, y = insertion.lines[0].get_xydata().T
    assert x[[0, -1]].tolist() == [0, 1]
    assert y.tolist() == CURVES["attention"]["insertion"]


def test_a_model_without_attention_has_the_other_lines() -> None:
    del (others := dict(CURVES))["attention"]
    assert len(fading_figure(others).axes[0].lines) == 3


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_it_is_in_the_colours_of_its_theme(theme: Theme) -> None:
    canvas = FigureCanvasAgg(fading_figure(CURVES, theme=theme))
    canvas.draw()
    assert "#" + bytes(np.asarray(canvas.buffer_rgba())[0, 0, :3]).hex() == theme.surface
