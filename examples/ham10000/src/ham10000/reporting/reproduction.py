"""Reproduce results of the paper: plan and train runs, and put them beside the published values.

reproduction.yaml has the items, their runs and the published values. Runs are trained as those of a
study, in a folder that all items share, so a run that several items need is trained once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
import yaml
from matplotlib.figure import Figure
from softattn.plot import overlay

from ham10000.data import (
    HAM10000_INFO,
    DatasetInfo,
    data_folder,
    find_dataset,
    link_sample,
    load_table,
)
from ham10000.errors import ArgumentError, closest
from ham10000.evaluation import Predictions, metric_name, summarize
from ham10000.recipe import Recipe, load_recipe
from ham10000.reporting.figures import write_figures
from ham10000.reporting.inputs import evaluate_sources
from ham10000.reporting.style import LIGHT, Theme, new_figure, save_figure
from ham10000.reporting.tables import Table, write_tables
from ham10000.saliency import attention_maps, grad_cam_maps, image_network, image_reader
from ham10000.study import (
    LocalLauncher,
    PlannedRun,
    claim_runs,
    describe_plan,
    estimate_seconds,
)
from ham10000.training import RunDir, find_predictions, open_run

__all__ = [
    "Item",
    "Scale",
    "Variant",
    "heatmap_figure",
    "list_items",
    "plan_item",
    "reproduce_item",
    "reproduction_figure",
    "reproduction_frame",
    "reproduction_table",
]

Scale = Literal["full", "tiny"]

_FILE = Path(__file__).with_suffix(".yaml")

_TINY_IMAGES = 2400
"""Number of images of the data set with scale tiny, enough for each class in test sets of 15 %."""

_TINY_NOTE = "Random weights and two steps, to try the command: the values mean nothing."

_EXAMPLES = 7


@dataclass(frozen=True)
class Variant:
    """One model of an item: a recipe with overrides."""

    name: str
    """Name of the runs."""
    label: str
    """Name in tables and figures."""
    recipe: str
    overrides: tuple[str, ...] = ()
    published: Mapping[str, float] = field(default_factory=dict)
    """Published values by metric."""


@dataclass(frozen=True)
class Item:
    """A table or figure of the paper."""

    name: str
    title: str
    metrics: tuple[str, ...]
    """Metrics in its table."""
    variants: tuple[Variant, ...]
    extras: tuple[str, ...] = ()
    """What is written besides the table: figures of the first variant, heatmaps."""
    note: str = ""
    """Sentences on the published values and on how weights are selected."""

    @property
    def info(self) -> DatasetInfo:
        """Description of its data set."""
        first = self.variants[0]
        return find_dataset(load_recipe(first.recipe, first.overrides).data.set)


def list_items() -> dict[str, Item]:
    """Return the items that can be reproduced, by name.

    Example:
        >>> from ham10000.reporting.reproduction import list_items
        >>> list(list_items())[:3]
        ['models', 'classes', 'shares']
        >>> list_items()["models"].variants[-1].published["precision_weighted"]
        0.938
    """
    content = _content()
    items = {}
    for name, each in content["items"].items():
        metrics, protocol = tuple(each["metrics"]), each.get("protocol", content["protocol"])
        variants = tuple(
            Variant(
                one["name"],
                one["label"],
                one.get("recipe", one["name"]),
                (*protocol, *one.get("set", ())),
                dict(zip(metrics, one.get("published", ()), strict=False)),
            )
            for one in each["variants"]
        )
        extras = tuple(each.get("extras", ()))
        note = each.get("note", content["note"])
        items[name] = Item(name, each["title"], metrics, variants, extras, note)
    return items


def _content() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return content


def plan_item(
    item: Item, seeds: Sequence[int], data: Path, scale: Scale = "full"
) -> dict[PlannedRun, Recipe]:
    """Return the runs of an item with their resolved recipes.

    Example:
        >>> from pathlib import Path
        >>> from ham10000.reporting.reproduction import list_items, plan_item
        >>> runs = plan_item(list_items()["shares"], [0, 1], Path("ham10000"))
        >>> [(run.folder, recipe.data.test_share) for run, recipe in runs.items()][1:3]
        [('runs/irv2_keras_20-seed0', 0.2), ('runs/irv2_keras_30-seed0', 0.3)]

    Args:
        item: From `list_items`.
        seeds: Seeds of each variant. The split does not depend on them.
        data: Folder of the data set.
        scale: tiny for small images, few steps and random weights.

    Raises:
        ArgumentError: There are no seeds, or one is repeated.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ArgumentError(f"planning {item.name}: expected different seeds, found {list(seeds)}.")
    small = _content()["tiny"] if scale == "tiny" else ()
    return {
        PlannedRun(variant.name, seed): load_recipe(
            variant.recipe,
            [
                *variant.overrides,
                *small,
                f"name={variant.name}",
                f"seed={seed}",
                f"data.root={data.absolute()}",
            ],
        )
        for seed in seeds
        for variant in item.variants
    }


def reproduce_item(
    name: str,
    out: Path,
    *,
    data: Path | None = None,
    seeds: Sequence[int] = (0,),
    scale: Scale = "full",
    dry_run: bool = False,
    parallel: int | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> Path:
    """Train the missing runs of an item, and write its table and figures.

    Args:
        name: Name of the item.
        out: Folder with the runs of all items in `runs`, and a folder for each item; with scale
            tiny, these are in its folder `tiny`.
        data: Folder of the item's data set. Defaults to HAM10000_DIR.
        seeds: Seeds of each model.
        scale: tiny for random weights, a few steps and a part of the images, to try the command.
        dry_run: Only log the plan and the estimate.
        parallel: Number of runs that train at the same time.
        log: Called with one line for each step.

    Returns:
        The folder of the item.

    Raises:
        ArgumentError: There is no such item, the seeds are invalid, or `out` has runs of another
            data set.
        RecipeError: `out` has runs of other recipes.
        Ham10000Error: The data set cannot be used, or a run fails.
    """
    items = list_items()
    if name not in items:
        raise ArgumentError(f"reproducing {name}: there is no such item. {closest(name, items)}")
    item, root = items[name], data_folder(data)
    if scale == "tiny":
        out = out / "tiny"
        if item.info == HAM10000_INFO and not dry_run:
            root = _sample(root, out / "data", log)
    runs = plan_item(item, seeds, root, scale)
    table = load_table(root, item.info)
    for line in describe_plan(runs, estimate_seconds(runs.values(), table), out):
        log(line)
    if dry_run:
        return out / name
    finished = {run: each for run, each in runs.items() if RunDir(out / run.folder).done}
    for run in finished:
        folder = out / run.folder
        _check_images(find_predictions(folder).table["image_id"], table, folder)
    # Refuses other recipes. A run from elsewhere may have no recipe.
    known = [run for run in finished if RunDir(out / run.folder).recipe.exists()]
    claim_runs(out, {run: finished[run] for run in known})
    missing = {run: each for run, each in runs.items() if not RunDir(out / run.folder).done}
    if missing:
        for run in LocalLauncher(out, parallel)(missing, log):
            log(f"{run.folder}: trained")
    predictions = {run: find_predictions(out / run.folder) for run in runs}
    frame = reproduction_frame(item, predictions)
    result = reproduction_table(item, frame)
    if scale == "tiny":
        result = replace(result, caption=f"{_TINY_NOTE} {result.caption}")
    write_tables(out / name, ("csv", "latex", "md"), {name: result}, {name: frame})
    for metric in item.metrics:
        file = f"{name}_{metric.replace('/', '_')}.svg"
        save_figure(reproduction_figure(item, frame, metric), out / name / file)
    first = out / next(iter(runs)).folder
    if "figures" in item.extras:
        (found,) = evaluate_sources([first])
        write_figures(found.evaluation, found.predictions, out / name, "svg")
    if "heatmaps" in item.extras:
        save_figure(heatmap_figure(first), out / name / "heatmaps.svg")
    return out / name


def _check_images(image_ids: Iterable[str], table: pd.DataFrame, path: Path) -> None:
    known = set(table["image_id"])
    others = [name for name in image_ids if name not in known]
    if others:
        raise ArgumentError(
            f"reproducing with {path}: it is of another data set, which has the image {others[0]}. "
            "Choose another --out, or remove it to make it again."
        )


def _sample(root: Path, folder: Path, log: Callable[[str], None]) -> Path:
    if len(load_table(root)) <= _TINY_IMAGES:
        return root
    if not folder.exists():
        number = link_sample(root, folder, _TINY_IMAGES, seed=0)
        log(f"Using random lesions of {root}, {number:,} images")
    _check_images(load_table(folder)["image_id"], load_table(root), folder)
    return folder


def reproduction_frame(item: Item, predictions: Mapping[PlannedRun, Predictions]) -> pd.DataFrame:
    """Return the measured and published values: one row for each variant, seed and metric.

    Args:
        item: From `list_items`.
        predictions: Predictions of the test set for each run of `plan_item`.

    Returns:
        Columns variant, label, seed, metric, value and published, which can be empty.
    """
    variants = {variant.name: variant for variant in item.variants}
    rows = []
    for run, found in predictions.items():
        variant = variants[run.recipe]
        values = summarize(found.targets, found.probabilities, found.classes)
        rows += [
            (run.recipe, variant.label, run.seed, metric, values[metric], published)
            for metric in item.metrics
            for published in [variant.published.get(metric)]
        ]
    columns = ["variant", "label", "seed", "metric", "value", "published"]
    return pd.DataFrame(rows, columns=columns).astype({"published": float})


def reproduction_table(item: Item, frame: pd.DataFrame) -> Table:
    """Return a table of the means over seeds, each with its range and the published value.

    Args:
        item: From `list_items`.
        frame: From `reproduction_frame`.
    """
    rows = []
    for variant in item.variants:
        own = frame[frame["variant"] == variant.name]
        cells = [variant.label]
        for metric in item.metrics:
            values = own.loc[own["metric"] == metric, "value"]
            cell = f"{values.mean():.3f}"
            if len(values) > 1:
                cell += f"\n{values.min():.3f} to {values.max():.3f}"
            if metric in variant.published:
                cell += f"\npublished {variant.published[metric]:.3f}"
            cells.append(cell)
        rows.append(cells)
    seeds = frame["seed"].nunique()
    caption = (
        f"{item.title}. {'One run' if seeds == 1 else f'Mean and range of {seeds} runs'} of each "
        f"model. {item.note}"
    )
    return Table(caption, ["model", *map(metric_name, item.metrics)], rows)


def reproduction_figure(
    item: Item, frame: pd.DataFrame, metric: str, *, theme: Theme = LIGHT
) -> Figure:
    """Draw one metric of each variant: a dot for each seed, a hollow diamond as published.

    Args:
        item: From `list_items`.
        frame: From `reproduction_frame`.
        metric: One of the metrics of the item.
        theme: Colours.
    """
    figure, (axes,) = new_figure(theme)
    for row, variant in enumerate(item.variants):
        own = frame[(frame["variant"] == variant.name) & (frame["metric"] == metric)]
        axes.plot(own["value"], [row] * len(own), "o", color=theme.first, markersize=5)
        if metric in variant.published:
            value = variant.published[metric]
            axes.plot(value, row, "D", markerfacecolor="none", color=theme.second, markersize=7)
    axes.set_yticks(range(len(item.variants)), [variant.label for variant in item.variants])
    axes.set_ylim(len(item.variants) - 0.5, -0.5)
    axes.set_xlabel(f"{metric_name(metric)} (diamond: published)")
    axes.grid(axis="x", color=theme.line, linewidth=0.6)
    return figure


def heatmap_figure(folder: Path, *, theme: Theme = LIGHT) -> Figure:
    """Draw test images of each class with attention, and with Grad-CAM of the predicted class.

    The images are the first of each class in the split, so that the choice is not selective.

    Args:
        folder: Folder of a run with attention.
        theme: Colours.
    """
    run = open_run(folder)
    images = run.dataset("test")
    classes, labels = run.info.classes, pd.Series(images.targets).sort_values(kind="stable")
    rows = labels.groupby(labels).head(max(1, _EXAMPLES // labels.nunique())).index.tolist()
    network, read = image_network(run.load_model()), image_reader(run, images)
    inputs = read(rows)
    with torch.no_grad():
        predicted = network(inputs).argmax(dim=1)
    maps = {
        "attention": attention_maps(network, inputs),
        "Grad-CAM": grad_cam_maps(network, inputs, predicted),
    }
    figure = Figure(figsize=(1.3 * len(rows), 4.4), layout="constrained", facecolor=theme.surface)
    grid = figure.subplots(1 + len(maps), len(rows), squeeze=False)
    pixels = images.read(rows)[0] / 255
    for column, number in enumerate(rows):
        grid[0, column].imshow(pixels[column].permute(1, 2, 0).numpy())
        label, found = classes[images.targets[number]], classes[int(predicted[column])]
        grid[0, column].set_title(f"{label}\n(as {found})", color=theme.ink, fontsize=8)
        for row, found_maps in enumerate(maps.values(), start=1):
            grid[row, column].imshow(overlay(pixels[column], found_maps[column]).numpy())
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
    for name, axes in zip(("image", *maps), grid[:, 0], strict=True):
        axes.set_ylabel(name, color=theme.quiet, fontsize=9)
    return figure
