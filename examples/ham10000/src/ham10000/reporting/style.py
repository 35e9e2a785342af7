"""The look of figures and pages: one set of colours on white paper, and one on a dark screen."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

__all__ = [
    "DARK",
    "LIGHT",
    "Embedded",
    "Theme",
    "data_uri",
    "embed",
    "embed_photo",
    "new_figure",
    "style",
]


@dataclass(frozen=True)
class Theme:
    """Colours as #rrggbb. Text has a contrast of at least 4.5 to 1 against the surface."""

    surface: str
    ink: str
    quiet: str
    """Labels, and whatever is not the point."""
    line: str
    """Grids and frames."""
    first: str
    second: str
    classes: tuple[str, ...]
    """One for each of the seven classes; told apart by colour-blind eyes too."""

    @property
    def shades(self) -> LinearSegmentedColormap:
        """From the surface to the first colour."""
        return LinearSegmentedColormap.from_list("shades", [self.surface, self.first])


LIGHT = Theme(
    surface="#ffffff",
    ink="#1c2733",
    quiet="#52606d",
    line="#d5dce3",
    first="#1f5f8b",
    second="#c4511d",
    classes=("#0072b2", "#b35900", "#00795a", "#6b6b00", "#b3006b", "#1c2733", "#7a5fc4"),
)
DARK = Theme(
    surface="#161c22",
    ink="#e6ebf0",
    quiet="#a3afbb",
    line="#38434e",
    first="#6cb4e4",
    second="#f19a66",
    classes=("#56b4e9", "#e69f00", "#2fc79a", "#f0e442", "#f078b4", "#e6ebf0", "#b39ff0"),
)


def new_figure(
    theme: Theme, height: float = 4.2, ratios: Sequence[float] = (1,)
) -> tuple[Figure, list[Axes]]:
    """Make a figure of one column of axes, in a theme's colours.

    It belongs to no window, so there is nothing to close.

    Args:
        theme: the colours.
        height: in inches; the width is 6.4.
        ratios: the axes' heights, in relation to one another.
    """
    figure = Figure(figsize=(6.4, height), layout="constrained", facecolor=theme.surface)
    grid = figure.subplots(len(ratios), 1, squeeze=False, height_ratios=ratios)
    column = [axes for axes in grid[:, 0] if isinstance(axes, Axes)]
    for axes in column:
        style(axes, theme)
    return figure, column


def style(axes: Axes, theme: Theme) -> None:
    """Give axes a theme's colours, and no frame that isn't needed."""
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.line)
    axes.tick_params(colors=theme.line, labelcolor=theme.quiet)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(theme.quiet)


@dataclass(frozen=True)
class Embedded:
    """A figure for white paper, and maybe another for a dark screen, as addresses `data:`."""

    light: str
    dark: str | None
    alt: str
    """What it shows, for those who don't see it."""


def embed(draw: Callable[[Theme], Figure], alt: str) -> Embedded:
    """Draw a figure in both themes, as SVG; the same figure gives the same bytes."""
    return Embedded(_svg(draw(LIGHT)), _svg(draw(DARK)), alt)


def embed_photo(figure: Figure, alt: str, dpi: int = 180) -> Embedded:
    """Embed a figure that is a photograph, as JPEG."""
    return Embedded(data_uri(_save(figure, "jpeg", dpi=dpi), "jpeg"), None, alt)


def data_uri(content: bytes, kind: str) -> str:
    """Return an image as a `data:` URI.

    Example:
        >>> from ham10000.reporting.style import data_uri
        >>> data_uri(b"GIF", "gif")
        'data:image/gif;base64,R0lG'

    Args:
        content: the encoded image.
        kind: its subtype of the media type image, as "png" or "svg+xml".
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _svg(figure: Figure) -> str:
    with matplotlib.rc_context({"svg.hashsalt": "ham10000"}):
        content = _save(figure, "svg", transparent=True, metadata={"Date": None})
    return data_uri(content, "svg+xml")


def _save(figure: Figure, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, **options)
    return file.getvalue()
