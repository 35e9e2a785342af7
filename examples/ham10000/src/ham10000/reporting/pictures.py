"""Pictures of where a model looks: an image, its attention over it, and the outline of its mask."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from softattn.plot import overlay
from torch import Tensor

from ham10000.data.facts import CLASS_NAMES, CLASSES
from ham10000.data.files import replacing
from ham10000.reporting.theme import LIGHT, Theme, style

__all__ = ["Case", "case_figure", "thumbnail", "write_case"]

OUTLINE = "#00e5c8"
"""Of the mask: neither skin nor lesion nor the map's colours are like it."""


@dataclass(frozen=True)
class Case:
    """One image, what it shows, and what a model said of it."""

    image_id: str
    truth: str
    probabilities: Mapping[str, float]
    """By class."""
    image: Tensor
    """(3, S, S), uint8."""
    attention: Tensor | None = None
    """(h, w), the sum of the maps; `None` without attention."""
    mask: Tensor | None = None
    """(S, S), True on the lesion; `None` if there is none."""

    @property
    def prediction(self) -> str:
        """The class with the largest probability."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def right(self) -> bool:
        """Whether that is the true one."""
        return self.prediction == self.truth


def case_figure(case: Case, *, theme: Theme = LIGHT) -> Figure:
    """Draw an image, the attention over it, the outline of its mask, and the probabilities.

    Args:
        case: what to draw. Without attention the image stands alone, without a mask there is no
            outline, and the title says so.
        theme: the colours.
    """
    panels = 2 if case.attention is None else 3
    figure = Figure(
        figsize=(2.8 * panels + 0.6, 3.3), layout="constrained", facecolor=theme.surface
    )
    *pictures, bars = figure.subplots(1, panels)
    _show(pictures[0], case.image / 255, case.mask)
    pictures[0].set_title("image" if case.mask is None else "image, outline of the lesion")
    if case.attention is not None:
        _show(pictures[1], overlay(case.image / 255, case.attention).permute(2, 0, 1), case.mask)
        pictures[1].set_title("attention")
    _probabilities(bars, case, theme)
    for axes in figure.axes:
        axes.title.set(color=theme.quiet, fontsize=9)
    verdict = "right" if case.right else f"wrong: {case.prediction}"
    figure.suptitle(
        f"{case.image_id}: {case.truth}, {CLASS_NAMES[case.truth]} ({verdict})",
        color=theme.ink,
        fontsize=11,
    )
    return figure


def thumbnail(case: Case, *, attention: bool = True, inches: float = 1.6) -> Figure:
    """Draw an image with the outline of its mask and, if asked for, the attention over it."""
    figure = Figure(figsize=(inches, inches))
    axes = figure.add_axes((0, 0, 1, 1))
    picture = case.image / 255
    if attention and case.attention is not None:
        picture = overlay(picture, case.attention).permute(2, 0, 1)
    _show(axes, picture, case.mask)
    return figure


def write_case(case: Case, out: Path) -> Path:
    """Write the figure of a case into a folder, as IMAGE.png, whole or not at all.

    Raises:
        WriteError: the system refuses.
    """
    path = out / f"{case.image_id}.png"
    with replacing(path) as file:
        case_figure(case).savefig(file, format="png", dpi=140)
    return path


def _show(axes: Axes, picture: Tensor, mask: Tensor | None) -> None:
    axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="bilinear")
    if mask is not None and bool(mask.any()) and not bool(mask.all()):
        axes.contour(mask.numpy().astype(float), [0.5], colors=[OUTLINE], linewidths=1.4)
    axes.set_axis_off()


def _probabilities(axes: Axes, case: Case, theme: Theme) -> None:
    values = [case.probabilities[name] for name in CLASSES]
    colours = [theme.first if name == case.truth else theme.line for name in CLASSES]
    if not case.right:
        colours[CLASSES.index(case.prediction)] = theme.second
    style(axes, theme)
    axes.barh(CLASSES, values, color=colours)
    for row, value in enumerate(values):
        axes.text(value + 0.03, row, f"{value:.2f}", va="center", fontsize=8, color=theme.ink)
    axes.set_xlim(0, 1.25)
    axes.set_xticks([0, 0.5, 1])
    axes.invert_yaxis()
    axes.set_title("probability")
