"""Draw the published results of studies, for the page "Does soft attention help?".

    python scripts/site/results.py

Reads examples/ham10000/results and writes one figure per study and theme to build/results, and one
of lesions with one and with several images.
"""

import json
from pathlib import Path
from typing import Any

from ham10000.evaluation import metric_name
from ham10000.reporting.style import DARK, LIGHT, Theme, save_figure, style
from ham10000.study.results import PublishedStudy
from ham10000.study.verification import POPULATION_METRICS, population_metrics
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "examples" / "ham10000" / "results"
OUT = ROOT / "build" / "results"
METRICS = ("auc_macro", "precision_weighted", "balanced_accuracy")
EASY = "frozen-lite0"
"""Study whose control shows how easy the paper's test set is."""
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


def draw_populations(found: dict[str, dict[str, float]], theme: Theme) -> Figure:
    """Draw metrics of the same predictions on lesions with one and with several images.

    Args:
        found: From `population_metrics`.
        theme: Colours.
    """
    figure = Figure(figsize=(9.6, 3.2), layout="constrained", facecolor=theme.surface)
    axes = figure.subplots()
    style(axes, theme)
    marks = {"one image": ("o", theme.first), "several images": ("s", theme.second)}
    for row, metric in enumerate(POPULATION_METRICS):
        ends = [found[name][metric] for name in marks]
        axes.plot(ends, [row, row], color=theme.line, linewidth=2, zorder=1)
    for name, (marker, color) in marks.items():
        images = f"lesions with {name}, {found[name]['images']:,.0f} images"
        values = [found[name][metric] for metric in POPULATION_METRICS]
        rows = range(len(values))
        axes.plot(values, rows, marker, color=color, markersize=8, label=images, linestyle="")
        for row, value in zip(rows, values, strict=True):
            axes.annotate(
                f"{value:.3f}",
                (value, row),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=color,
            )
    axes.set_yticks(
        range(len(POPULATION_METRICS)), list(map(metric_name, POPULATION_METRICS)), color=theme.ink
    )
    axes.set_ylim(len(POPULATION_METRICS) - 0.5, -0.8)
    axes.grid(axis="x", color=theme.line, linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.legend(loc="upper left", frameon=False, labelcolor=theme.ink, fontsize=9)
    return figure


def main() -> None:
    """Draw all studies."""
    OUT.mkdir(parents=True, exist_ok=True)
    for path in sorted(RESULTS.glob("*/study.json")):
        study = json.loads(path.read_text())
        if study["folds"] is None:  # too few runs for intervals
            continue
        for name, theme in (("light", LIGHT), ("dark", DARK)):
            save_figure(draw(study, theme), OUT / f"{path.parent.name}-{name}.svg")
    found = population_metrics(PublishedStudy(RESULTS / EASY))
    for name, theme in (("light", LIGHT), ("dark", DARK)):
        save_figure(draw_populations(found, theme), OUT / f"populations-{name}.svg")


if __name__ == "__main__":
    main()
