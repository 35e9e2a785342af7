"""Style of figures and pages: light and dark theme, figure files, images as `data:` URIs."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ham10000.utils import replacing

__all__ = [
    "DARK",
    "LIGHT",
    "Embedded",
    "FigureFormat",
    "Theme",
    "data_uri",
    "embed",
    "embed_photo",
    "new_figure",
    "save_figure",
    "style",
]


@dataclass(frozen=True)
class Theme:
    """Colours as #rrggbb. Text has a contrast of at least 4.5 to 1 with the surface."""

    surface: str
    ink: str
    quiet: str
    """Labels and secondary text."""
    line: str
    """Grid lines and frames."""
    first: str
    second: str
    classes: tuple[str, ...]
    """One for each of the seven classes, distinguishable with colour vision deficiency."""

    @property
    def shades(self) -> LinearSegmentedColormap:
        """Colour map from the surface to the first colour."""
        return LinearSegmentedColormap.from_list("shades", [self.surface, self.first])

    @property
    def variables(self) -> str:
        """Colours as custom properties of CSS, without those of the classes."""
        colours = {name: value for name, value in vars(self).items() if name != "classes"}
        return " ".join(f"--{name}: {value};" for name, value in colours.items())


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


FigureFormat = Literal["png", "svg", "pdf"]
"""Format of the files of figures."""

_WITHOUT_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}

FIGURE_SIZE = (6.4, 4.6)
"""Width and height of every figure of an evaluation, in inches."""


def new_figure(
    theme: Theme, ratios: Sequence[float] = (1,), *, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """Return a figure of `FIGURE_SIZE` and its axes in a theme's colours.

    The figure is not registered with pyplot, so it need not be closed.

    Example:
        >>> from ham10000.reporting.style import LIGHT, new_figure
        >>> figure, axes = new_figure(LIGHT, (3, 1))
        >>> len(axes)
        2

    Args:
        theme: Colours.
        ratios: Relative heights of the rows of axes.
        columns: Number of columns.
    """
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained", facecolor=theme.surface)
    grid = figure.subplots(len(ratios), columns, squeeze=False, height_ratios=ratios)
    found = [axes for axes in grid.ravel() if isinstance(axes, Axes)]
    for axes in found:
        style(axes, theme)
    return figure, found


def style(axes: Axes, theme: Theme) -> None:
    """Apply a theme's colours to axes and remove the top and right spines."""
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.line)
    axes.tick_params(colors=theme.line, labelcolor=theme.quiet)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(theme.quiet)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically, in the format of the extension: .png, .svg or .pdf.

    Equal figures give equal files. The fonts of a PDF are embedded as TrueType, since many
    publishers refuse Type 3 fonts.

    Raises:
        WriteError: The file cannot be written.
    """
    kind = path.suffix.removeprefix(".")
    picture = io.BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "ham10000"}):
        figure.savefig(
            picture, format=kind, dpi=150, bbox_inches="tight", metadata=_WITHOUT_DATE.get(kind)
        )
    with replacing(path) as file:
        file.write(picture.getvalue())


@dataclass(frozen=True)
class Embedded:
    """An image as `data:` URIs, with a second version for dark screens if there is one."""

    light: str
    dark: str | None
    alt: str
    """Alternative text."""


def embed(draw: Callable[[Theme], Figure], alt: str) -> Embedded:
    """Draw a figure in both themes as SVG; the output is deterministic."""
    return Embedded(_svg(draw(LIGHT)), _svg(draw(DARK)), alt)


def embed_photo(figure: Figure, alt: str, dpi: int = 180) -> Embedded:
    """Embed a photograph as JPEG."""
    return Embedded(data_uri(_save(figure, "jpeg", dpi=dpi), "jpeg"), None, alt)


def data_uri(content: bytes, kind: str) -> str:
    """Return an image as a `data:` URI.

    Example:
        >>> from ham10000.reporting.style import data_uri
        >>> data_uri(b"GIF", "gif")
        'data:image/gif;base64,R0lG'

    Args:
        content: Encoded image.
        kind: Subtype of the media type, such as "png" or "svg+xml".
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
