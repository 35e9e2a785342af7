"""Single images with their prediction and attention: choose, read, list and draw them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from softattn.plot import overlay, relative_to_uniform
from torch import Tensor

from ham10000.data import (
    CLASS_NAMES,
    data_folder,
    open_folder,
    read_mask,
    resize,
)
from ham10000.errors import ArgumentError, MissingDataError, closest, some
from ham10000.evaluation import Predictions
from ham10000.reporting.inputs import distinct_names
from ham10000.reporting.style import LIGHT, FigureFormat, Theme, save_figure, style
from ham10000.saliency import attention_maps, image_network, image_reader
from ham10000.training import Run, normalize, read_pixels

__all__ = [
    "Case",
    "case_figure",
    "check_apart",
    "choose",
    "file_cases",
    "gallery",
    "make_cases",
    "sample_of_classes",
    "split_notes",
    "thumbnail",
    "write_case",
]

_COLOURS = "magma"
_SPLITS = {"train": "training", "val": "validation", "test": "test"}
_LONGEST_NAME = 32
"""Number of characters of a file name that fit into the title of a figure."""

OUTLINE = "#00e5c8"
"""Colour of the mask's outline, distinct from skin, lesions and the colours of maps."""


@dataclass(frozen=True)
class Case:
    """An image with its diagnosis and a model's prediction and attention."""

    image_id: str
    """Name of the image, or of its file."""
    truth: str | None
    """Diagnosis, if it is known."""
    probabilities: Mapping[str, float]
    """Predicted probability by class."""
    image: Tensor
    """Image, (3, S, S), uint8."""
    attention: Tensor | None = None
    """Sum of the attention maps, (h, w); `None` for a model without attention."""
    mask: Tensor | None = None
    """Mask, (S, S), True on the lesion; `None` if the image has no mask."""
    split: str | None = None
    """Split of the run with the image, if it is to be shown: "train", "val" or "test"."""
    class_names: Mapping[str, str] = field(default_factory=lambda: CLASS_NAMES)
    """Display name by class."""

    @property
    def prediction(self) -> str:
        """Class with the largest probability."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def correct(self) -> bool:
        """Whether the prediction is known to be correct."""
        return self.prediction == self.truth


def choose(
    predictions: Predictions,
    images: Sequence[str] = (),
    *,
    worst: int | None = None,
    dx: str | None = None,
) -> list[str]:
    """Choose images by name, class, or predicted probability of the true class.

    Args:
        predictions: Predictions of a run.
        images: Names of images, such as ISIC_0024306. Defaults to all images.
        worst: Number of images to choose, those with the lowest probability of the true class.
        dx: Class of the images. Defaults to all classes.

    Returns:
        Names of images; with `worst`, the lowest probability first.

    Raises:
        ArgumentError: An image or class is unknown, or no image is left.
    """
    doing = "choosing images to explain"
    table = predictions.table
    if dx is not None and dx not in predictions.classes:
        raise ArgumentError(f"{doing}: unknown class {dx!r}. {closest(dx, predictions.classes)}")
    if worst is not None and worst < 1:
        raise ArgumentError(f"{doing}: worst must be at least 1, found {worst}.")
    known = table["image_id"].tolist()
    for name in images:
        if name not in known:
            raise ArgumentError(
                f"{doing}: the predictions have no image {name!r}. {closest(name, known)}"
            )
    truth = predictions.probabilities[np.arange(len(table)), predictions.targets]
    rows = table[["image_id", "dx"]].assign(truth=truth)
    if images:
        rows = rows.set_index("image_id").loc[list(images)].reset_index()
    if dx is not None:
        rows = rows[rows["dx"] == dx]
    if worst is not None:
        rows = rows.sort_values("truth", kind="stable").head(worst)
    if rows.empty:
        raise ArgumentError(f"{doing}: none of these images has the class {dx}.")
    return [str(name) for name in rows["image_id"]]


def gallery(predictions: Predictions, each: int = 1, seed: int = 0) -> list[str]:
    """Sample images of every class, correctly and incorrectly predicted ones.

    Args:
        predictions: Predictions of a run.
        each: Number of images for each class and outcome.
        seed: Seed of the random choice. Images are sampled so that the gallery is not selective.
    """
    right = predictions.probabilities.argmax(axis=1) == predictions.targets
    table = predictions.table[["image_id", "dx"]]
    sides = [sample_of_classes(table[kind], each, seed) for kind in (right, ~right)]
    places = dict(zip(table["image_id"], predictions.targets, strict=True))
    return sorted((name for side in sides for name in side), key=places.__getitem__)


def sample_of_classes(table: pd.DataFrame, each: int, seed: int = 0) -> list[str]:
    """Sample the names of at most `each` images of every class from a table with image_id and dx.

    Images are sampled at random, so that a gallery is not selective.
    """
    drawn = table.sample(frac=1, random_state=seed)
    classes = sorted(set(table["dx"]))
    return [name for dx in classes for name in drawn["image_id"][drawn["dx"] == dx].head(each)]


def make_cases(
    run: Run,
    predictions: Predictions,
    names: Sequence[str],
    *,
    split: str = "test",
    data: Path | None = None,
    batch_size: int = 32,
) -> Iterator[Case]:
    """Read images and their masks, and compute the model's attention.

    Args:
        run: From `open_run`.
        predictions: Predictions of the run that include the images.
        names: Names of the images.
        split: Split of the images: "train", "val" or "test".
        data: Folder of the data set, for the masks. Defaults to the one in the recipe.
        batch_size: Number of images at a time.

    Yields:
        One case for each name, in order.

    Raises:
        Ham10000Error: A file of the run or of the data set is missing or damaged.
    """
    images = run.dataset(split)
    places = pd.Index(images.table["image_id"]).get_indexer(pd.Index(names))
    if (places < 0).any():
        name = names[int((places < 0).argmax())]
        raise MissingDataError(
            f"explaining {name}: the image is not in the {split} split of the run."
        )
    model = run.load_model()
    network, read = image_network(model), image_reader(run, images)
    root = data_folder(data if data is not None else run.recipe.data.root)
    masks, classes = open_folder(root, run.info).masks, predictions.classes
    rows_of = {name: row for row, name in enumerate(predictions.table["image_id"])}
    for start in range(0, len(names), batch_size):
        rows = places[start : start + batch_size].tolist()
        pixels = images.read(rows)[0]
        maps = attention_maps(network, read(rows)) if model.has_attention else None
        for number, name in enumerate(names[start : start + batch_size]):
            mask = None
            if name in masks:
                mask = resize(read_mask(masks[name]), pixels.shape[-1], mask=True)[0].bool()
            yield Case(
                image_id=name,
                truth=classes[predictions.targets[rows_of[name]]],
                probabilities=dict(
                    zip(classes, predictions.probabilities[rows_of[name]].tolist(), strict=True)
                ),
                image=pixels[number].to(torch.uint8),
                attention=None if maps is None else maps[number],
                mask=mask,
                class_names=run.info.class_names,
            )


def check_apart(out: Path, paths: Sequence[Path]) -> None:
    """Check that no image is in the folder of the figures, which may have the names of images.

    Raises:
        ArgumentError: An image is there.
    """
    if any(path.resolve().parent == out.resolve() for path in paths):
        raise ArgumentError(
            f"drawing figures in {out}: the images are there too, and a figure could replace one. "
            "Choose another folder with --out."
        )


def file_cases(
    run: Run,
    predicted: pd.DataFrame,
    *,
    masks: Mapping[Path, Path] | None = None,
    batch_size: int = 32,
) -> Iterator[Case]:
    """Read image files that were predicted, and compute the model's attention.

    Args:
        run: From `open_run`.
        predicted: From `Run.predict_images`.
        masks: Files of masks by image file.
        batch_size: Number of images at a time.

    Yields:
        One case for each file, in order. Images are of the size that the model receives. The
        diagnosis is known for images of the run's split, which are recognized by their names.

    Raises:
        Ham10000Error: An image, a mask or a file of the run is missing or damaged.
    """
    paths = [Path(name) for name in predicted.index]
    names = distinct_names(paths, [path.stem for path in paths])
    splits, diagnoses = run.find_splits(paths), run.split_table.set_index("image_id")["dx"]
    model, masks = run.load_model(), masks or {}
    for start in range(0, len(paths), batch_size):
        batch = range(start, min(start + batch_size, len(paths)))
        pixels = torch.stack(list(read_pixels([paths[row] for row in batch], run.recipe.data.size)))
        maps = None
        if model.has_attention:
            maps = attention_maps(image_network(model), normalize(pixels, run.recipe))
        for number, row in enumerate(batch):
            path, mask = paths[row], None
            if path in masks:
                mask = resize(read_mask(masks[path]), pixels.shape[-1], mask=True)[0].bool()
            yield Case(
                image_id=names[row],
                truth=str(diagnoses[path.stem]) if path in splits else None,
                probabilities={name: float(predicted[name].iloc[row]) for name in run.info.classes},
                image=pixels[number],
                attention=None if maps is None else maps[number],
                mask=mask,
                split=splits.get(path),
                class_names=run.info.class_names,
            )


def split_notes(splits: Mapping[str, str]) -> list[str]:
    """Return a line on the images in each split.

    Example:
        >>> from ham10000.reporting.cases import split_notes
        >>> split_notes({"ISIC_0024306": "test", "ISIC_0024307": "test"})
        ['Test images of the run: ISIC_0024306, ISIC_0024307.']

    Args:
        splits: Split by name of the image: "train", "val" or "test".
    """
    notes = []
    for split, kind in _SPLITS.items():
        names = [name for name, found in splits.items() if found == split]
        note = f"{kind.capitalize()} image{'s' * (len(names) > 1)} of the run: {some(names)}."
        if split == "train":
            note += " Predictions of training images do not show how well the model works."
        notes += [note] if names else []
    return notes


def case_figure(case: Case, *, theme: Theme = LIGHT) -> Figure:
    """Draw an image, its attention, the outline of its mask, and the probabilities.

    Args:
        case: The case to draw. Attention and outline are left out if there is none.
        theme: Colours.
    """
    panels = 2 if case.attention is None else 3
    figure = Figure(
        figsize=(2.8 * panels + (0.6 if case.attention is None else 1.2), 3.3),
        layout="constrained",
        facecolor=theme.surface,
    )
    *pictures, bars = figure.subplots(1, panels)
    _show(pictures[0], case.image / 255, case.mask)
    pictures[0].set_title("image" if case.mask is None else "image, outline of the lesion")
    if case.attention is not None:
        laid_over = overlay(case.image / 255, case.attention, cmap=_COLOURS)
        _show(pictures[1], laid_over.permute(2, 0, 1), case.mask)
        # The scale of `overlay`.
        most = max(2.0, relative_to_uniform(case.attention).max().item())
        scale = ScalarMappable(PowerNorm(0.5, 0, most), _COLOURS)
        bar = figure.colorbar(scale, ax=pictures[1], fraction=0.05, pad=0.03)
        bar.ax.set_title("1 = uniform")
        bar.ax.tick_params(colors=theme.quiet, labelsize=8)
        uniform = torch.allclose(case.attention, case.attention.mean(), rtol=1e-4, atol=0)
        pictures[1].set_title("attention: uniform" if uniform else "attention")
    _probabilities(bars, case, theme)
    for axes in figure.axes:
        axes.title.set(color=theme.quiet, fontsize=9)
    figure.suptitle(_title(case), color=theme.ink, fontsize=11)
    return figure


def thumbnail(case: Case, *, attention: bool = True, inches: float = 1.6) -> Figure:
    """Draw an image with the outline of its mask and, optionally, its attention.

    Args:
        case: The case to draw.
        attention: Overlay the attention map.
        inches: Width and height of the figure.
    """
    figure = Figure(figsize=(inches, inches))
    axes = figure.add_axes((0, 0, 1, 1))
    picture = case.image / 255
    if attention and case.attention is not None:
        picture = overlay(picture, case.attention).permute(2, 0, 1)
    _show(axes, picture, case.mask)
    return figure


def write_case(case: Case, out: Path, kind: FigureFormat = "png") -> Path:
    """Write the figure of a case to a folder, atomically. It is named after the image.

    Args:
        case: The case to draw.
        out: The folder.
        kind: Format of the file, and its extension.

    Returns:
        Path of the file.

    Raises:
        WriteError: The file cannot be written.
    """
    path = out / f"{case.image_id}.{kind}"
    save_figure(case_figure(case), path)
    return path


def _title(case: Case) -> str:
    name = case.image_id
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME // 2]}...{name[3 - _LONGEST_NAME // 2 :]}"
    if case.split is not None:
        name = f"{name} ({_SPLITS[case.split]} image)"
    if case.truth is None:
        found = case.prediction
        return f"{name}: predicted {found}, {case.class_names[found]}"
    verdict = "correct" if case.correct else f"predicted {case.prediction}"
    return f"{name}: {case.truth}, {case.class_names[case.truth]} ({verdict})"


def _show(axes: Axes, picture: Tensor, mask: Tensor | None) -> None:
    axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="bilinear")
    if mask is not None and bool(mask.any()) and not bool(mask.all()):
        axes.contour(mask.numpy().astype(float), [0.5], colors=[OUTLINE], linewidths=1.4)
    axes.set_axis_off()


def _probabilities(axes: Axes, case: Case, theme: Theme) -> None:
    classes, values = list(case.probabilities), list(case.probabilities.values())
    right = case.prediction if case.truth is None else case.truth
    colours = [theme.first if name == right else theme.line for name in classes]
    if case.prediction != right:
        colours[classes.index(case.prediction)] = theme.second
    style(axes, theme)
    axes.barh(classes, values, color=colours)
    for row, value in enumerate(values):
        axes.text(value + 0.03, row, f"{value:.2f}", va="center", fontsize=8, color=theme.ink)
    axes.set_xlim(0, 1.25)
    axes.set_xticks([0, 0.5, 1])
    axes.invert_yaxis()
    axes.set_title("probability")
