"""Figures of an evaluation: pure functions from numbers to matplotlib figures of one size."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from ham10000.data import CLASSES
from ham10000.errors import ArgumentError
from ham10000.evaluation import (
    NUM_BINS,
    Evaluation,
    Predictions,
    format_change,
    metric_name,
    reliability_bins,
)
from ham10000.reporting.style import LIGHT, FigureFormat, Theme, new_figure, save_figure
from ham10000.reporting.tables import method_name
from ham10000.saliency import CURVES, curve_area

__all__ = [
    "confusion_figure",
    "curves_figure",
    "faithfulness_figure",
    "recall_figure",
    "reliability_figure",
    "roc_figure",
    "study_figure",
    "write_figures",
]

_STYLES = ("-", "--", "-.", ":", "-", "--", "-.")
_DASHED = (0, (2, 3))
_METHOD_STYLES = {
    "attention": ("first", "-", 2.2),
    "grad_cam": ("second", "--", 1.8),
    "gaussian": ("ink", "-.", 1.4),
    "random": ("quiet", ":", 1.6),
}
_PARTICIPLES = {"deletion": "deleted", "insertion": "inserted"}
_CURVE_TITLES = {
    "deletion": "deletion (lower is better)",
    "insertion": "insertion (higher is better)",
}


def confusion_figure(
    confusion: ArrayLike, classes: Sequence[str] = CLASSES, *, theme: Theme = LIGHT
) -> Figure:
    """Draw a confusion matrix of counts, coloured by their share of the row.

    Example:
        >>> from ham10000.reporting.figures import confusion_figure
        >>> figure = confusion_figure([[8, 2], [1, 9]], ["mel", "nv"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['8', '2', '1', '9']

    Args:
        confusion: Counts, (C, C), with true classes as rows and predicted classes as columns.
        classes: Names of the classes.
        theme: Colours.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (axes,) = new_figure(theme)
    axes.imshow(shares, cmap=theme.shades, vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = theme.surface if shares[row, column] > 0.5 else theme.ink
            axes.text(column, row, f"{count:,.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(
        range(len(classes)),
        [f"{name} ({row.sum():,.0f})" for name, row in zip(classes, counts, strict=True)],
    )
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (images)")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def roc_figure(
    targets: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str] = CLASSES,
    *,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw the ROC curve of each class against all others.

    Without an image of the class, or of any other class, the curve is undefined and the legend
    says so.

    Args:
        targets: Indices of the true classes, (N,).
        probabilities: Predicted probabilities, (N, C).
        classes: Names of the classes.
        theme: Colours.
    """
    truth, scores = np.asarray(targets), np.asarray(probabilities, dtype=np.float64)
    figure, (axes,) = new_figure(theme)
    axes.plot([0, 1], [0, 1], color=theme.line, linestyle=_DASHED)
    for place, name in enumerate(classes):
        positive = truth == place
        x, y, label = np.empty(0), np.empty(0), f"{name}: undefined"
        if 0 < positive.sum() < len(positive):
            x, y, _ = roc_curve(positive, scores[:, place])
            label = f"{name} {roc_auc_score(positive, scores[:, place]):.3f}"
        colour, style = theme.classes[place % 7], _STYLES[place % 7]
        axes.plot(x, y, color=colour, linestyle=style, linewidth=1.6, label=label)
    axes.set_xlabel("false positive rate (1 - specificity)")
    axes.set_ylabel("true positive rate (recall)")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    _legend(axes, theme, "area under the curve")
    return figure


def reliability_figure(
    targets: ArrayLike, probabilities: ArrayLike, *, bins: int = NUM_BINS, theme: Theme = LIGHT
) -> Figure:
    """Draw accuracy by predicted probability, with the number of images in each bin.

    Bins have equal width. The title has the expected calibration error, which is the mean distance
    of the points from the diagonal, weighted by the number of images (Guo et al., ICML 2017).

    Args:
        targets: Indices of the true classes, (N,).
        probabilities: Predicted probabilities, (N, C).
        bins: Number of bins.
        theme: Colours.
    """
    confidence, accuracy, counts = reliability_bins(targets, probabilities, bins)
    full = counts > 0
    confidence, accuracy = confidence[full], accuracy[full]
    error = np.average(np.abs(accuracy - confidence), weights=counts[full])

    figure, (axes, below) = new_figure(theme, (3, 1))
    axes.plot([0, 1], [0, 1], color=theme.line, linestyle=_DASHED)
    axes.vlines(confidence, confidence, accuracy, color=theme.second, linewidth=1.2)
    axes.plot(confidence, accuracy, "o-", color=theme.first, markersize=4)
    axes.set_title(f"expected calibration error {error:.3f}", fontsize=10)
    axes.set_ylabel("accuracy")
    axes.set_ylim(-0.02, 1.02)
    below.bar((np.arange(bins) + 0.5) / bins, counts, 0.9 / bins, color=theme.first)
    below.set_ylabel("images")
    below.set_xlabel("probability of the predicted class")
    for each in (axes, below):
        each.set_xlim(-0.02, 1.02)
    return figure


def recall_figure(
    recalls: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    *,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw the recall of each class with its interval.

    Example:
        >>> from ham10000.reporting.figures import recall_figure
        >>> figure = recall_figure({"df": 0.5}, {"df": (0.19, 0.81)})
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['0.50 (0.19 to 0.81)']

    Args:
        recalls: Recall by class; NaN for a class without images.
        intervals: Lower and upper end of the interval by class.
        theme: Colours.
    """
    figure, (axes,) = new_figure(theme)
    for row, (name, recall) in enumerate(recalls.items()):
        if np.isnan(recall):
            axes.text(0.02, row, "no image", va="center", fontsize=9, color=theme.quiet)
            continue
        low, high = intervals[name]
        axes.plot([low, high], [row, row], color=theme.first, linewidth=2.4, alpha=0.55)
        axes.plot(recall, row, "o", color=theme.first, markersize=6)
        text = f"{recall:.2f} ({low:.2f} to {high:.2f})"
        axes.text(1.04, row, text, va="center", fontsize=9, color=theme.ink)
    axes.set_yticks(range(len(recalls)), list(recalls))
    axes.set_ylim(len(recalls) - 0.5, -0.5)
    axes.set_xlim(-0.01, 1.01)
    axes.set_xlabel("recall with its 95 % interval")
    axes.grid(axis="x", color=theme.line, linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure


def curves_figure(
    rows: Iterable[Mapping[str, Any]],
    names: Sequence[str] = ("loss", "balanced_accuracy"),
    *,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw metrics over the epochs, for training, validation and test.

    Example:
        >>> from ham10000.reporting.figures import curves_figure
        >>> rows = [{"epoch": n, "split": "val", "loss": 1 / (n + 1)} for n in range(5)]
        >>> figure = curves_figure(rows, ["loss"])
        >>> figure.axes[0].lines[0].get_xydata().shape
        (5, 2)

    Args:
        rows: Rows of a run's metrics.jsonl, with `epoch`, `split` and metrics by name.
        names: Names of metrics. Metrics that are in no row are skipped.
        theme: Colours.

    Raises:
        ArgumentError: No row has any of the metrics.
    """
    rows = list(rows)
    shown = [name for name in names if any(_number(row, name) is not None for row in rows)]
    if not shown:
        raise ArgumentError(f"drawing curves: no row has any of {', '.join(names)}.")
    figure, column = new_figure(theme, (1,) * len(shown))
    for axes, name in zip(column, shown, strict=True):
        for split, colour, style in (
            ("train", theme.first, "--"),
            ("val", theme.second, "-"),
            ("test", theme.ink, ":"),
        ):
            points = _points(rows, name, split)
            if len(points):
                mark = "o" if len(points) == 1 else None
                axes.plot(*points.T, color=colour, linestyle=style, marker=mark, label=split)
        axes.set_title(name.replace("_", " "), fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color=theme.line, linewidth=0.6)
        _legend(axes, theme)
    column[-1].set_xlabel("epoch")
    return figure


def faithfulness_figure(
    curves: Mapping[str, Mapping[str, Sequence[float]]], *, theme: Theme = LIGHT
) -> Figure:
    """Draw deletion and insertion curves, one line for each method.

    Example:
        >>> from ham10000.reporting.figures import faithfulness_figure
        >>> curves = {"random": {"deletion": [0.9, 0.4, 0.1], "insertion": [0.1, 0.6, 0.9]}}
        >>> figure = faithfulness_figure(curves)
        >>> [axes.get_legend().get_texts()[0].get_text() for axes in figure.axes]
        ['random map 0.450', 'random map 0.550']

    Args:
        curves: Mean probability by saliency method and curve ("deletion" or "insertion"), at
            equal steps of the share of positions.
        theme: Colours.
    """
    figure, panels = new_figure(theme, columns=len(CURVES))
    for axes, name in zip(panels, CURVES, strict=True):
        for method, found in curves.items():
            values = np.asarray(found[name], dtype=np.float64)
            colour, style, width = _METHOD_STYLES[method]
            axes.plot(
                np.linspace(0, 1, len(values)),
                values,
                color=getattr(theme, colour),
                linestyle=style,
                linewidth=width,
                label=f"{method_name(method)} {curve_area(values[None])[0]:.3f}",
            )
        axes.set_title(_CURVE_TITLES[name], fontsize=10)
        axes.set_xlabel(f"positions {_PARTICIPLES[name]}")
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(axis="y", color=theme.line, linewidth=0.6)
        # Below the axes, as curves may be anywhere inside them.
        legend = axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.2),
            frameon=False,
            labelcolor=theme.ink,
            fontsize=9,
            title="area under the curve",
        )
        legend.get_title().set(color=theme.quiet, fontsize=9)
    panels[0].set_ylabel("mean probability")
    return figure


def study_figure(study: Mapping[str, Any], *, theme: Theme = LIGHT) -> Figure:
    """Draw the difference of each arm from the control in the primary metric of a study.

    Each dot is one fold and seed. The bar is the confidence interval, if there are enough runs.
    Differences in the shaded area are below the smallest difference of interest.

    Example:
        >>> from ham10000.reporting.figures import study_figure
        >>> values = {"bare": {"values": [[0.80, 0.82]]}, "sa": {"values": [[0.81, 0.82]]}}
        >>> study = {"primary": "auc_macro", "control": "bare", "arms": ["sa"]}
        >>> study |= {"margins": {"auc_macro": 0.005}, "metrics": {"auc_macro": values}}
        >>> change = {"mean": 0.005, "low": -0.01, "high": 0.02}
        >>> study["comparisons"] = {"sa": {"auc_macro": change}}
        >>> [text.get_text() for text in study_figure(study).axes[0].texts]
        ['+0.50 (-1.00 to 2.00)']

    Args:
        study: Content of study.json.
        theme: Colours.
    """
    figure, (axes,) = new_figure(theme)
    name, arms, margin = study["primary"], study["arms"], 100 * study["margins"][study["primary"]]
    axes.axvspan(-margin, margin, color=theme.line, alpha=0.5, linewidth=0)
    axes.axvline(0, color=theme.quiet, linewidth=1)
    values = {recipe: np.array(found["values"]) for recipe, found in study["metrics"][name].items()}
    for row, arm in enumerate(arms):
        dots = 100 * (values[arm] - values[study["control"]])
        for seed, column in enumerate(dots.T):
            height = row + 0.28 * (seed - (dots.shape[1] - 1) / 2) / max(dots.shape[1] - 1, 1)
            axes.plot(column, [height] * len(column), "o", color=theme.second, ms=3, alpha=0.6)
        change = study["comparisons"][arm][name]
        text = format_change(100 * change["mean"], 2)
        if change["low"] is not None:
            ends = [100 * change["low"], 100 * change["high"]]
            axes.plot(ends, [row, row], color=theme.first, linewidth=2.4)
            text += " ({} to {})".format(*(format_change(end, 2, "-") for end in ends))
        axes.plot(100 * change["mean"], row, "D", color=theme.first, markersize=6)
        label = axes.text(0.99, row - 0.3, text, va="center", ha="right", fontsize=9)
        label.set(color=theme.ink, transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.set_xlabel(f"{metric_name(name)}, difference to {study['control']} in points")
    axes.grid(axis="x", color=theme.line, linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure


def write_figures(
    evaluation: Evaluation, predictions: Predictions, out: Path, kind: FigureFormat = "png"
) -> list[Path]:
    """Write the figures confusion, roc, reliability and recall to a folder.

    Args:
        evaluation: Evaluation of the predictions.
        predictions: Predictions of a test set.
        out: The folder.
        kind: Format of the files, and their extension.

    Returns:
        Paths of the files.

    Raises:
        WriteError: A file cannot be written.
    """
    found = evaluation.per_image
    classes = predictions.classes
    recalls = {name: found.metrics[f"recall/{name}"] for name in classes}
    targets, probabilities = predictions.targets, predictions.probabilities
    figures = {
        "confusion": confusion_figure(found.confusion, classes),
        "roc": roc_figure(targets, probabilities, classes),
        "reliability": reliability_figure(targets, probabilities),
        "recall": recall_figure(
            {name: recall.value for name, recall in recalls.items()},
            {name: (recall.low, recall.high) for name, recall in recalls.items()},
        ),
    }
    paths = [out / f"{name}.{kind}" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    return paths


def _points(rows: Iterable[Mapping[str, Any]], name: str, split: str) -> NDArray[np.float64]:
    chosen = [row for row in rows if row.get("split") == split]
    points = [(row["epoch"], _number(row, name)) for row in chosen]
    return np.array([point for point in points if point[1] is not None], dtype=np.float64)


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _legend(axes: Axes, theme: Theme, title: str = "") -> None:
    legend = axes.legend(frameon=False, labelcolor=theme.ink, fontsize=9)
    legend.set_title(title)
    legend.get_title().set(color=theme.quiet, fontsize=9)
