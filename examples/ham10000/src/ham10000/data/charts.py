"""The figures of `explore`: bars and boxes, in one look."""

from collections.abc import Callable

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ham10000.data.facts import CLASSES

__all__ = ["CHARTS", "Chart"]

Chart = tuple[str, str, Callable[[pd.DataFrame], Figure]]
"""A title, what to see in it, and how to draw it."""

_BLUE, _GREY, _ORANGE = "#2f6690", "#9aa5b1", "#d1603d"


def _axes(height: float = 2.6) -> tuple[Figure, Axes]:
    # A Figure of its own, not pyplot's: nothing global is touched, and no display is needed.
    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def _bars(values: "pd.Series[float]", unit: str) -> Figure:
    figure, axes = _axes(0.7 + 0.28 * len(values))
    bars = axes.barh([str(name) for name in values.index], values.to_numpy(), color=_BLUE)
    axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.margins(x=0.12)
    return figure


def _classes(table: pd.DataFrame) -> Figure:
    figure, axes = _axes()
    images = table["dx"].value_counts().reindex(list(CLASSES), fill_value=0)
    lesions = table.groupby("dx")["lesion_id"].nunique().reindex(list(CLASSES), fill_value=0)
    place = np.arange(len(CLASSES))
    for shift, counts, colour, name in (
        (-0.2, images, _BLUE, "images"),
        (0.2, lesions, _ORANGE, "lesions"),
    ):
        bars = axes.bar(place + shift, counts.to_numpy(), 0.4, color=colour, label=name)
        axes.bar_label(bars, [f"{count:,}" for count in counts], fontsize=6, padding=1)
    axes.set_xticks(place, CLASSES)
    axes.set_yscale("log")
    axes.set_ylim(top=2 * max(images))
    axes.set_ylabel("number, log scale")
    axes.legend(frameon=False)
    return figure


def _lesions(table: pd.DataFrame) -> Figure:
    counts = table["lesion_id"].value_counts().value_counts().sort_index()
    counts.index = pd.Index([f"{number} image{'s' * (number > 1)}" for number in counts.index])
    return _bars(counts.astype(float), "lesions")


def _boxes(table: pd.DataFrame, column: str, label: str, factor: float = 1.0) -> Figure:
    figure, axes = _axes()
    groups = [
        (table.loc[table["dx"] == name, column].dropna() * factor).to_numpy() for name in CLASSES
    ]
    boxes = axes.boxplot(groups, patch_artist=True, widths=0.6, flierprops={"markersize": 2})
    for box in boxes["boxes"]:
        box.set_facecolor("#cfdde8")
    axes.set_xticks(np.arange(1, len(CLASSES) + 1), CLASSES)
    axes.set_ylabel(label)
    return figure


def _ages(table: pd.DataFrame) -> Figure:
    return _boxes(table, "age", "age in years")


def _areas(table: pd.DataFrame) -> Figure:
    return _boxes(table, "area", "lesion, % of the image", 100.0)


def _sexes(table: pd.DataFrame) -> Figure:
    figure, axes = _axes()
    shares = pd.crosstab(table["dx"], table["sex"], normalize="index") * 100
    shares = shares.reindex(list(CLASSES)).fillna(0)
    left = np.zeros(len(CLASSES))
    colours = {"female": _ORANGE, "male": _BLUE}
    for name in [name for name in ("female", "male", "unknown") if name in shares]:
        axes.barh(
            list(CLASSES), shares[name], left=left, color=colours.get(name, _GREY), label=name
        )
        left = left + shares[name].to_numpy()
    axes.invert_yaxis()
    axes.set_xlabel("% of the images")
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def _sites(table: pd.DataFrame) -> Figure:
    return _bars(table["localization"].value_counts().astype(float), "images")


def _kinds(table: pd.DataFrame) -> Figure:
    return _bars(table["dx_type"].value_counts().astype(float), "images")


def _colours(table: pd.DataFrame) -> Figure:
    figure, axes = _axes()
    means = table.groupby("dx")[["red", "green", "blue"]].mean().reindex(list(CLASSES))
    means = means.dropna()
    axes.imshow(means.to_numpy()[None] / 255, aspect="auto")
    for place, values in enumerate(means.to_numpy()):
        text = "\n".join(f"{value:.0f}" for value in values)
        axes.text(place, 0, text, ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(means)), list(means.index))
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return figure


CHARTS: tuple[Chart, ...] = (
    ("Classes", "Images and lesions of each class. The scale is logarithmic.", _classes),
    ("Images per lesion", "Lesions with several images are why a split by image leaks.", _lesions),
    ("Age", "Median, quartiles and outliers, of the images whose age is known.", _ages),
    ("Sex", "Share of the images.", _sexes),
    ("Site", "Where on the body.", _sites),
    ("Ground truth", "How the diagnosis was confirmed.", _kinds),
    ("Lesion size", "The part of the image that the mask covers.", _areas),
    ("Mean colour", "Of the whole image, as red, green and blue from 0 to 255.", _colours),
)

matplotlib.use("Agg", force=False)
