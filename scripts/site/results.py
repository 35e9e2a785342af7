"""Draw the published results of studies, for the page "Does soft attention help?".

    python scripts/site/results.py

Reads examples/ham10000/results and writes one figure per study and theme to build/results.
"""

import json
from pathlib import Path
from typing import Any

from ham10000.evaluation import metric_name
from ham10000.reporting.style import DARK, LIGHT, Theme, save_figure, style
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "examples" / "ham10000" / "results"
OUT = ROOT / "build" / "results"
METRICS = ("auc_macro", "precision_weighted", "balanced_accuracy")
CLAIMED = {"precision_weighted": 3.2}
"""Improvements that the paper reports, in points."""


def draw(study: dict[str, Any], theme: Theme) -> Figure:
    """Draw each arm's difference from the control in three metrics, with intervals.

    Args:
        study: Content of study.json.
        theme: Colours.
    """
    arms = study["arms"]
    figure = Figure(
        figsize=(9.6, 1.5 + 0.36 * len(arms)), layout="constrained", facecolor=theme.surface
    )
    panels = figure.subplots(1, len(METRICS), sharey=True)
    for axes, metric in zip(panels, METRICS, strict=True):
        style(axes, theme)
        margin = 100 * study["margins"][metric]
        axes.axvspan(-margin, margin, color=theme.line, alpha=0.5, linewidth=0)
        axes.axvline(0, color=theme.quiet, linewidth=1)
        if metric in CLAIMED:
            axes.axvline(CLAIMED[metric], color=theme.second, linewidth=1.4, linestyle="--")
            axes.annotate(
                "the paper",
                (CLAIMED[metric], 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=theme.second,
            )
        for row, arm in enumerate(arms):
            change = study["comparisons"][arm][metric]
            ends = [100 * change["low"], 100 * change["high"]]
            axes.plot(ends, [row, row], color=theme.first, linewidth=2.4)
            axes.plot(100 * change["mean"], row, "o", color=theme.first, markersize=5)
        axes.set_xlabel(f"{metric_name(metric)}, points", fontsize=9)
        axes.grid(axis="x", color=theme.line, linewidth=0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    panels[0].set_yticks(range(len(arms)), arms, color=theme.ink)
    panels[0].set_ylim(len(arms) - 0.5, -0.5)
    return figure


def main() -> None:
    """Draw all studies."""
    OUT.mkdir(parents=True, exist_ok=True)
    for path in sorted(RESULTS.glob("*/study.json")):
        study = json.loads(path.read_text())
        for name, theme in (("light", LIGHT), ("dark", DARK)):
            save_figure(draw(study, theme), OUT / f"{path.parent.name}-{name}.svg")


if __name__ == "__main__":
    main()
