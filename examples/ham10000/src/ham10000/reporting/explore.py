"""The contents of a data set as one self-contained HTML page."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ham10000.data import (
    HAM10000_INFO,
    DatasetInfo,
    Folder,
    open_folder,
    read_image,
    read_mask,
    resize,
)
from ham10000.reporting.style import data_uri
from ham10000.utils import in_order, write_text

__all__ = ["CHARTS", "THUMB", "Chart", "Measured", "contact_sheet", "explore_dataset", "measure"]

_SHOWN = 12


def explore_dataset(
    root: Path,
    out: Path,
    *,
    seed: int = 0,
    workers: int | None = None,
    info: DatasetInfo = HAM10000_INFO,
) -> Path:
    """Write a page with the distributions of a data set and a contact sheet of each class.

    Args:
        root: Folder of the data set.
        out: Folder for explore.html.
        seed: Seed of the choice of images on the contact sheets.
        workers: Number of threads; the number of cores by default.
        info: Description of the data set.

    Returns:
        The path of the page. It contains pixels of the images, so the licence of the data applies.

    Raises:
        Ham10000Error: The data set can't be used.
        WriteError: The page can't be written.
    """
    folder = open_folder(root, info)
    rng = np.random.default_rng(seed)
    samples = {name: _sample(folder.table, name, rng) for name in info.classes}
    measured = measure(folder, [each for names in samples.values() for each in names], workers)
    table = measured.table
    charts = [
        {"title": title, "text": text, "image": _figure(draw(table, info.classes))}
        for title, text, draw in CHARTS
        if title != "Lesion size" or table["area"].notna().any()
    ]
    sheets = []
    for name, chosen in samples.items():
        if chosen:
            file = io.BytesIO()
            sheet = contact_sheet([measured.thumbs[each] for each in chosen], 6)
            sheet.save(file, "JPEG", quality=88)
            text = f"{info.class_names[name]}; {int((table['dx'] == name).sum()):,} images"
            sheets.append({"title": name, "text": text, "image": data_uri(file.getvalue(), "jpeg")})
    loader = jinja2.PackageLoader("ham10000.reporting", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("explore.html.j2").render(
        name=folder.root.resolve().name,
        facts=_facts(table, len(folder.masks)),
        charts=charts,
        sheets=sheets,
        licence=info.licence,
    )
    path = out / "explore.html"
    write_text(path, page)
    return path


def _sample(table: pd.DataFrame, name: str, rng: np.random.Generator) -> list[str]:
    # One image per lesion, so that a sheet shows as many lesions as possible.
    ids = table[table["dx"] == name].drop_duplicates("lesion_id")["image_id"].to_numpy()
    return sorted(str(each) for each in rng.permutation(ids)[:_SHOWN])


def _facts(table: pd.DataFrame, num_masks: int) -> list[tuple[str, str]]:
    sizes = table["lesion_id"].value_counts()
    return [
        ("images", f"{len(table):,}"),
        ("lesions", f"{len(sizes):,}"),
        ("lesions with one image", f"{int((sizes == 1).sum()):,}"),
        ("masks", f"{num_masks:,}"),
        ("age unknown", f"{int(table['age'].isna().sum()):,}"),
        ("sex unknown", f"{int((table['sex'] == 'unknown').sum()):,}"),
        ("site unknown", f"{int((table['localization'] == 'unknown').sum()):,}"),
    ]


def _figure(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=140)
    return data_uri(file.getvalue(), "png")


Chart = tuple[str, str, Callable[[pd.DataFrame, Sequence[str]], Figure]]
"""Title, caption, and a function that draws the figure."""

_BLUE, _GREY, _ORANGE = "#2f6690", "#9aa5b1", "#d1603d"


def _axes(height: float = 2.6) -> tuple[Figure, Axes]:
    # A Figure without pyplot: no global state is changed, and no display is needed.
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


def _classes(table: pd.DataFrame, classes: Sequence[str]) -> Figure:
    figure, axes = _axes()
    images = table["dx"].value_counts().reindex(list(classes), fill_value=0)
    lesions = table.groupby("dx")["lesion_id"].nunique().reindex(list(classes), fill_value=0)
    place = np.arange(len(classes))
    for shift, counts, colour, name in (
        (-0.2, images, _BLUE, "images"),
        (0.2, lesions, _ORANGE, "lesions"),
    ):
        bars = axes.bar(place + shift, counts.to_numpy(), 0.4, color=colour, label=name)
        axes.bar_label(bars, [f"{count:,}" for count in counts], fontsize=6, padding=1)
    axes.set_xticks(place, classes)
    axes.set_yscale("log")
    axes.set_ylim(top=2 * max(images))
    axes.set_ylabel("number, log scale")
    axes.legend(frameon=False)
    return figure


def _lesions(table: pd.DataFrame, classes: Sequence[str]) -> Figure:
    counts = table["lesion_id"].value_counts().value_counts().sort_index()
    counts.index = pd.Index([f"{number} image{'s' * (number > 1)}" for number in counts.index])
    return _bars(counts.astype(float), "lesions")


def _boxes(
    table: pd.DataFrame, classes: Sequence[str], column: str, label: str, factor: float = 1.0
) -> Figure:
    figure, axes = _axes()
    groups = [
        (table.loc[table["dx"] == name, column].dropna() * factor).to_numpy() for name in classes
    ]
    boxes = axes.boxplot(groups, patch_artist=True, widths=0.6, flierprops={"markersize": 2})
    for box in boxes["boxes"]:
        box.set_facecolor("#cfdde8")
    axes.set_xticks(np.arange(1, len(classes) + 1), classes)
    axes.set_ylabel(label)
    return figure


def _ages(table: pd.DataFrame, classes: Sequence[str]) -> Figure:
    return _boxes(table, classes, "age", "age in years")


def _areas(table: pd.DataFrame, classes: Sequence[str]) -> Figure:
    return _boxes(table, classes, "area", "lesion, % of the image", 100.0)


def _sexes(table: pd.DataFrame, classes: Sequence[str]) -> Figure:
    figure, axes = _axes()
    shares = pd.crosstab(table["dx"], table["sex"], normalize="index") * 100
    shares = shares.reindex(list(classes)).fillna(0)
    left = np.zeros(len(classes))
    colours = {"female": _ORANGE, "male": _BLUE}
    for name in [name for name in ("female", "male", "unknown") if name in shares]:
        axes.barh(
            list(classes), shares[name], left=left, color=colours.get(name, _GREY), label=name
        )
        left = left + shares[name].to_numpy()
    axes.invert_yaxis()
    axes.set_xlabel("% of the images")
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def _sites(table: pd.DataFrame, classes: Sequence[str]) -> Figure:
    return _bars(table["localization"].value_counts().astype(float), "images")


def _kinds(table: pd.DataFrame, classes: Sequence[str]) -> Figure:
    return _bars(table["dx_type"].value_counts().astype(float), "images")


def _colours(table: pd.DataFrame, classes: Sequence[str]) -> Figure:
    figure, axes = _axes()
    means = table.groupby("dx")[["red", "green", "blue"]].mean().reindex(list(classes))
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
    ("Images per lesion", "A split by image leaks lesions with several images.", _lesions),
    ("Age", "Median, quartiles and outliers, for images with known age.", _ages),
    ("Sex", "Share of the images.", _sexes),
    ("Site", "Location of the lesion on the body.", _sites),
    ("Ground truth", "Method by which the diagnosis was confirmed.", _kinds),
    ("Lesion size", "Share of the image that the mask covers.", _areas),
    ("Mean colour", "Mean of the whole image, as red, green and blue from 0 to 255.", _colours),
)

matplotlib.use("Agg", force=False)


THUMB = 96
"""Size of the images on contact sheets in pixels."""


@dataclass(frozen=True)
class Measured:
    """Measurements of a data set."""

    table: pd.DataFrame
    """The metadata table with the columns red, green, blue (means, 0 to 255) and area (the lesion's
    share of the image, NaN without a mask)."""
    thumbs: dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"]
    """Small copies, (THUMB, THUMB, 3), of the images that were requested."""


def measure(folder: Folder, shown: Sequence[str], workers: int | None = None) -> Measured:
    """Read and measure every image and mask of a data set.

    Args:
        folder: The data set.
        shown: Ids of the images to keep small copies of.
        workers: Number of threads; the number of cores by default.

    Raises:
        Ham10000Error: An image is missing or damaged.
    """
    keep = set(shown)
    items = list(zip(folder.table["image_id"].tolist(), folder.paths(), strict=True))

    def job(item: tuple[str, Path]) -> tuple[list[float], object]:
        name, path = item
        image = read_image(path)
        colour = image[:, ::2, ::2].flatten(1).float().mean(1).tolist()
        area = float("nan")
        if name in folder.masks:
            area = float(read_mask(folder.masks[name]).float().mean())
        thumb = resize(image, THUMB).permute(1, 2, 0).numpy() if name in keep else None
        return [*colour, area], thumb

    numbers: list[list[float]] = []
    thumbs = {}
    for (name, _), (values, thumb) in zip(
        items, in_order(job, items, "Measuring", workers), strict=True
    ):
        numbers.append(values)
        if isinstance(thumb, np.ndarray):
            thumbs[name] = thumb
    measured = pd.DataFrame(numbers, columns=["red", "green", "blue", "area"])
    return Measured(pd.concat([folder.table, measured], axis=1), thumbs)


def contact_sheet(
    thumbs: "Sequence[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]", columns: int
) -> Image.Image:
    """Arrange small images in rows, with gaps of 4 pixels."""
    step = THUMB + 4
    rows = -(-len(thumbs) // columns)
    sheet = Image.new("RGB", (columns * step - 4, max(1, rows * step - 4)), "white")
    for place, thumb in enumerate(thumbs):
        sheet.paste(Image.fromarray(thumb), (place % columns * step, place // columns * step))
    return sheet
