"""Charts of the performance page, each in a version for light and for dark screens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.harness import Row

__all__ = ["draw_growth", "draw_overview", "overview"]

SIDES = {"softattn": "softattn", "CBAM (timm)": "CBAM", "Conv3d form": "Conv3d form"}
"""Sides of the overview, with their labels."""


@dataclass(frozen=True)
class Theme:
    """Colours. The background is transparent."""

    ink: str
    quiet: str
    line: str
    sides: tuple[str, ...]


THEMES = {
    "light": Theme("#1c2733", "#52606d", "#d5dce3", ("#9c2a66", "#6f5bb5", "#3a6f99")),
    "dark": Theme("#e6ebf0", "#b3bec9", "#4a4558", ("#fdc18f", "#b9a5f0", "#7fb9e0")),
}


def overview(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Return the rows of the overview by case: batches of 16, float32, NCHW, with backward."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        wanted = row.part == "forward+backward" and row.allocator == "set"
        if wanted and row.case.startswith("16x") and row.case.endswith("float32 NCHW"):
            found.setdefault(row.case, {})[row.side] = row
    return found


def draw_overview(rows: Sequence[Row], folder: Path) -> None:
    """Draw the ratio of each side to the bare convolution, for each feature map."""
    cases = overview(rows)
    for name, theme in THEMES.items():
        figure = Figure(figsize=(7.6, 3.1), layout="constrained")
        axes = figure.subplots()
        _style(axes, theme)
        for position, (side, label) in enumerate(SIDES.items()):
            color, height = theme.sides[position], 0.8 / len(SIDES)
            for place, sides in enumerate(cases.values()):
                if side in sides:
                    ratio, at = sides[side].ratio, place + (position - 1) * height
                    axes.barh(at, ratio, 0.85 * height, color=color, label=label)
                    text = f" {ratio:.1f}"
                    axes.text(ratio, at, text, va="center", fontsize=8, color=theme.ink)
        axes.axvline(1, color=theme.ink, linewidth=1)
        axes.set_yticks(range(len(cases)), [_shape(case) for case in cases], color=theme.ink)
        axes.invert_yaxis()
        axes.set_xlabel("time of forward and backward, relative to the bare convolution")
        axes.tick_params(axis="y", length=0)
        _legend(axes, theme, "lower right")
        _save(figure, folder / f"performance-{name}.svg")


def draw_growth(rows: Sequence[Row], folder: Path, part: str) -> None:
    """Draw the time of each side over the growing quantity."""
    for name, theme in THEMES.items():
        figure = Figure(figsize=(4.8, 3.1), layout="constrained")
        axes = figure.subplots()
        _style(axes, theme)
        sides = sorted({row.side for row in rows}, key=[row.side for row in rows].index)
        colors = dict(zip(SIDES, theme.sides, strict=True)) | {"bare convolution": theme.quiet}
        for side in sides:
            some = [row for row in rows if row.side == side]
            xs = [float(row.case) for row in some]
            times = [row.milliseconds for row in some]
            axes.loglog(xs, times, marker="o", label=side, color=colors[side])
        values = sorted({float(row.case) for row in rows})
        axes.set_xticks(values, [f"{value:g}" for value in values], minor=False)
        axes.set_xticks([], minor=True)
        axes.set(xlabel=part.rpartition(" ")[2], ylabel="ms, forward and backward")
        axes.set_ylim(bottom=axes.get_ylim()[0] / 2)
        _legend(axes, theme, "best")
        _save(figure, folder / f"{part.replace(' ', '-')}-{name}.svg")


def _shape(case: str) -> str:
    _, channels, height, width = case.split()[0].split("x")
    return f"{channels} x {height} x {width}"


def _style(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.line)
    axes.tick_params(which="both", color=theme.line, labelcolor=theme.quiet, labelsize=9)
    axes.xaxis.label.set_color(theme.quiet)
    axes.yaxis.label.set_color(theme.quiet)


def _legend(axes: Axes, theme: Theme, place: str) -> None:
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(reversed(labels), reversed(handles), strict=True))
    names = list(dict.fromkeys(labels))
    axes.legend(
        [unique[label] for label in names],
        names,
        fontsize=8,
        loc=place,
        frameon=False,
        labelcolor=theme.ink,
    )


def _save(figure: Figure, path: Path) -> None:
    """Write an SVG file; equal figures give equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"svg.hashsalt": path.name, "svg.fonttype": "none", "font.family": "sans-serif"}
    with matplotlib.rc_context(options):
        figure.savefig(path, transparent=True, metadata={"Date": None})
