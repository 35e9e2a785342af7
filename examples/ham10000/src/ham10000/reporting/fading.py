"""The figure of faithfulness: what a probability does while an image goes, and while it comes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ham10000.evaluation.faithfulness import CURVES, area
from ham10000.reporting.tables import words
from ham10000.reporting.theme import LIGHT, Theme, new_figure

__all__ = ["fading_figure"]

_LOOKS = {
    "attention": ("first", "-", 2.2),
    "grad_cam": ("second", "--", 1.8),
    "gaussian": ("ink", "-.", 1.4),
    "random": ("quiet", ":", 1.6),
}
_TITLES = {
    "deletion": "deletion: the lower, the better",
    "insertion": "insertion: the higher, the better",
}


def fading_figure(
    curves: Mapping[str, Mapping[str, Sequence[float]]], *, theme: Theme = LIGHT
) -> Figure:
    """Draw deletion and insertion curves, one line for each method.

    Example:
        >>> from ham10000.reporting.fading import fading_figure
        >>> curves = {"random": {"deletion": [0.9, 0.4, 0.1], "insertion": [0.1, 0.6, 0.9]}}
        >>> figure = fading_figure(curves)
        >>> [axes.get_legend().get_texts()[0].get_text() for axes in figure.axes]
        ['random map 0.450', 'random map 0.550']

    Args:
        curves: mean probabilities for each method of `looking.METHODS` and each of
            `faithfulness.CURVES`, after equal shares of the positions.
        theme: the colours.
    """
    figure, column = new_figure(theme, 6.4, (1,) * len(CURVES))
    for axes, name in zip(column, CURVES, strict=True):
        for method, found in curves.items():
            values = np.asarray(found[name], dtype=np.float64)
            colour, style, width = _LOOKS[method]
            axes.plot(
                np.linspace(0, 1, len(values)),
                values,
                color=getattr(theme, colour),
                linestyle=style,
                linewidth=width,
                label=f"{words(method)} {area(values[None])[0]:.3f}",
            )
        axes.set_title(_TITLES[name], fontsize=10)
        axes.set_ylabel("mean probability")
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(axis="y", color=theme.line, linewidth=0.6)
        legend = axes.legend(
            frameon=False, labelcolor=theme.ink, fontsize=9, title="area under the curve"
        )
        legend.get_title().set(color=theme.quiet, fontsize=9)
    column[-1].set_xlabel("positions taken, in the order of the map")
    return figure
