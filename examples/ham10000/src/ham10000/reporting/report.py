"""`ham10000 report`: the results of a run or a study as one self-contained HTML page."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jinja2
import pandas as pd

from ham10000.errors import Ham10000Error
from ham10000.evaluation import format_change, metric_name
from ham10000.reporting import figures
from ham10000.reporting.cases import Case, gallery, make_cases, sample_of_classes, thumbnail
from ham10000.reporting.comparison import (
    comparison_tables,
    differing_images,
    headline,
    look_table,
    model_table,
    published_table,
    report_files,
)
from ham10000.reporting.inputs import EvaluatedRun, ReportSource, open_source, read_json
from ham10000.reporting.style import DARK, LIGHT, Embedded, embed, embed_photo
from ham10000.reporting.tables import (
    Table,
    TableFormat,
    class_table,
    format_tables,
    method_name,
    metric_table,
    strata_tables,
    summary_items,
    write_tables,
)
from ham10000.saliency import LOCALIZATION_JSON, evaluate_saliency, write_saliency
from ham10000.utils import write_text

__all__ = [
    "differences",
    "differing_section",
    "gallery_section",
    "results_section",
    "saliency_section",
    "setup_section",
    "table_texts",
    "write_report",
]

NUM_FAITHFULNESS_IMAGES = 50
"""Number of images for deletion and insertion, which take most of the time of a report."""


def write_report(
    folders: Sequence[Path],
    out: Path,
    *,
    data: Path | None = None,
    each: int = 1,
    faithful: int = NUM_FAITHFULNESS_IMAGES,
    tables: Sequence[TableFormat] = (),
) -> Path:
    """Write the report of runs or a study.

    Saliency is measured unless `evaluation/` of the run has it for the run's weights; measured
    results are stored there. A report on synthetic data says so and has no published results.

    Args:
        folders: Folders of runs, or the folder of one study.
        out: Path of the page.
        data: Folder of the data set, for strata, masks and images. Defaults to that of the recipe.
            Without a data set, the page says what is missing.
        each: Number of images in the gallery for each class and outcome (correct and incorrect).
        faithful: Number of images for deletion and insertion curves, if saliency is measured.
        tables: Formats in which the tables are also written, into the folder PAGE_tables.

    Returns:
        Path of the page. A page with a gallery contains pixels of the images, so the licence of
        the data applies to it.

    Raises:
        Ham10000Error: A run or the study cannot be read.
        WriteError: The page cannot be written.
    """
    source = open_source(folders, data=data)
    info = source.runs[0].run.info
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ham10000.reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content: dict[str, Any] = {
        "title": source.title,
        "synthetic": source.is_synthetic,
        "summary": summary_items(source),
        "headline": headline(source),
        "looks": look_table(source),
        "published": published_table(source),
        "differences": None if source.study is None else differences(source.study),
        "comparison": comparison_tables(source),
        "models": model_table(source),
        "results": [results_section(run) for run in source.runs],
        "saliency": [saliency_section(run, data, faithful) for run in source.runs],
        "differing": differing_section(source, data, each),
        "gallery": gallery_section(source, data, each),
        "setups": [setup_section(run) for run in source.runs],
        "images": info.title,
        "licence": info.licence,
        "themes": {"light": LIGHT, "dark": DARK},
    }
    write_text(out, environment.get_template("report.html.j2").render(content))
    if tables:
        write_tables(out.with_name(f"{out.stem}_tables"), tables, *report_files(source))
    return out


def table_texts(source: ReportSource, kind: TableFormat, *, every: bool) -> dict[str, str]:
    """Return the tables of a report as text, by name of the file.

    Args:
        source: From `open_source`.
        kind: Format of the tables.
        every: For csv, return all tables, and not only the one that has all metrics.
    """
    tables, frames = report_files(source)
    if not every:
        name = "strata" if source.study is None else "comparison"
        frames = {name: frames[name]}
    return format_tables(kind, tables, frames)


def differences(study: Mapping[str, Any]) -> Embedded | None:
    """Return the figure of a study; `None` if the primary metric is undefined."""
    name = study["primary"]
    if name not in study["metrics"]:
        return None
    changes = {arm: study["comparisons"][arm][name]["mean"] for arm in study["arms"]}
    listed = ", ".join(f"{arm} {format_change(100 * change, 2)}" for arm, change in changes.items())
    alt = f"{metric_name(name)}, difference to {study['control']} in points: {listed}."
    return embed(lambda theme: figures.study_figure(study, theme=theme), alt)


def results_section(run: EvaluatedRun) -> dict[str, Any]:
    """Return the tables and figures of a run's test results."""
    level, name = run.evaluation.per_image, run.name
    targets, scores = run.predictions.targets, run.predictions.probabilities
    recalls = {dx: level.metrics[f"recall/{dx}"] for dx in level.class_counts}
    values = {dx: recall.value for dx, recall in recalls.items()}
    ends = {dx: (recall.low, recall.high) for dx, recall in recalls.items()}
    listed = ", ".join(f"{dx} {value:.2f}" for dx, value in values.items())
    metrics = level.metrics
    drawn = [
        (
            "Recall of each class with its 95 % confidence interval",
            lambda theme: figures.recall_figure(values, ends, theme=theme),
            f"Recall of {name} by class: {listed}.",
        ),
        (
            "Confusion matrix",
            lambda theme: figures.confusion_figure(level.confusion, list(values), theme=theme),
            f"Confusion matrix of {name}: {metrics['accuracy'].value:.1%} of {level.count:,} "
            "images are on the diagonal.",
        ),
        (
            "ROC curves, each class against all others",
            lambda theme: figures.roc_figure(targets, scores, list(values), theme=theme),
            f"ROC curves of {name}; macro AUC {metrics['auc_macro'].value:.3f}.",
        ),
        (
            "Calibration",
            lambda theme: figures.reliability_figure(targets, scores, theme=theme),
            f"Calibration of {name}: expected calibration error {metrics['ece'].value:.3f}.",
        ),
    ]
    epochs = run.epochs
    if epochs:
        last = max(row["epoch"] for row in epochs)
        drawn.append(
            (
                "Training",
                lambda theme: figures.curves_figure(epochs, theme=theme),
                f"Loss and balanced accuracy of {name} over {last} epochs.",
            )
        )
    return {
        "name": name,
        "seed": run.run.recipe.seed,
        "metrics": metric_table(run),
        "classes": class_table(run),
        "strata": strata_tables(run),
        "figures": [(title, embed(draw, alt)) for title, draw, alt in drawn],
    }


def saliency_section(run: EvaluatedRun, data: Path | None, faithful: int) -> dict[str, Any]:
    """Return localization and faithfulness of a run's maps, measured once for its weights."""
    try:
        found = _saliency(run, data, faithful)
    except Ham10000Error as error:
        return {"name": run.name, "missing": str(error), "tables": [], "figures": []}
    caption = (
        f"{found['images']:,} test images of {found['lesions']:,} lesions. Excluded: "
        f"{found['without_mask']:,} images without a mask and {found['empty_mask']:,} with an "
        f"empty mask. Lesions cover {found['mask_share']:.0%} of an image on average. Below each "
        "value: its 95 % confidence interval."
    )
    tables = _saliency_tables(found["localisation"], caption) + _map_tables(found.get("maps"))
    faithfulness, drawn = found["faithfulness"], []
    if faithfulness["images"]:
        caption = (
            "Area under the curve of the predicted class's probability while the positions with "
            "the largest values of a map are deleted (lower is better) or inserted (higher is "
            f"better), on {faithfulness['images']} images."
        )
        tables += _saliency_tables(faithfulness, caption)
        curves = faithfulness["curves"]
        listed = "; ".join(
            f"{method_name(method)}: deletion {values['deletion']['value']:.3f}, insertion "
            f"{values['insertion']['value']:.3f}"
            for method, values in faithfulness["methods"].items()
        )
        title = "Probability of the predicted class during deletion and insertion"
        alt = f"Deletion and insertion curves of {run.name}. Areas under the curves: {listed}."
        picture = embed(lambda theme: figures.faithfulness_figure(curves, theme=theme), alt)
        drawn.append((title, picture))
    return {"name": run.name, "missing": None, "tables": tables, "figures": drawn}


def differing_section(source: ReportSource, data: Path | None, each: int) -> list[dict[str, Any]]:
    """Return the images that one run classifies correctly and another one incorrectly.

    There is a part for each run that was tested on the images of the first one: the counts of each
    class, some images, which show the attention of the second run, and the names of all.
    """
    first, parts = source.runs[0], []
    runs = {run.name: run for run in source.runs}
    for name, table in differing_images(source.runs).items():
        sides = {right: table[table["right"] == right] for right in (first.name, name)}
        counts = [[dx, *(f"{(side['dx'] == dx).sum():,}" for side in sides.values())]
                  for dx in first.predictions.classes]  # fmt: skip
        counts.append(["all", *(f"{len(side):,}" for side in sides.values())])
        head = ["class", *(f"only {right} is right" for right in sides)]
        shown, missing, _ = _pictures(
            runs[name],
            [image for side in sides.values() for image in sample_of_classes(side, each)],
            data,
            partial(_predictions_of_both, table, (first.name, name)),
        )
        parts.append(
            {
                "first": first.name,
                "other": name,
                "counts": Table("Number of test images.", head, counts),
                "images": {right: ", ".join(side["image_id"]) for right, side in sides.items()},
                "cases": shown,
                "missing": missing,
            }
        )
    return parts


def _predictions_of_both(table: pd.DataFrame, names: tuple[str, str], case: Case) -> str:
    row = table[table["image_id"] == case.image_id].iloc[0]
    return f"{names[0]} predicts {row['predicted_a']}, {names[1]} {row['predicted_b']}"


def gallery_section(source: ReportSource, data: Path | None, each: int) -> dict[str, Any]:
    """Return test images of every class with attention, predicted correctly and incorrectly."""
    run = next(
        (
            each
            for each in reversed(source.runs)
            if each.run.recipe.attention.layer in ("soft", "keras")
        ),
        source.runs[-1],
    )
    shown, missing, attention = _pictures(
        run,
        gallery(run.predictions, each),
        data,
        lambda case: f"predicted {case.prediction}, {case.probabilities[case.prediction]:.2f}",
    )
    return {"name": run.name, "missing": missing, "cases": shown, "attention": attention}


def _pictures(
    run: EvaluatedRun, names: Sequence[str], data: Path | None, predicted: Callable[[Case], str]
) -> tuple[list[dict[str, Any]], str | None, bool]:
    """Return images with captions, why there are none, and whether they show attention."""
    if not names:
        return [], "no images were requested.", False
    try:
        cases = list(make_cases(run.run, run.predictions, names, data=data))
    except Ham10000Error as error:
        return [], str(error), False
    shown: list[dict[str, Any]] = []
    for case in cases:
        assert case.truth is not None  # images of a split
        what, found = f"{case.image_id}, {run.run.info.class_names[case.truth]}", predicted(case)
        pictures: list[Embedded] = [
            embed_photo(thumbnail(case, attention=False), f"{what}: the image.")
        ]
        if case.attention is not None:
            alt = f"{what}: the image with attention, {found}."
            pictures.append(embed_photo(thumbnail(case), alt))
        shown.append({"case": case, "predicted": found, "pictures": pictures})
    return shown, None, any(case.attention is not None for case in cases)


def setup_section(run: EvaluatedRun) -> dict[str, Any]:
    """Return the recipe, the environment and the split of a run."""
    counts, classes = run.split_counts, run.run.info.classes
    rows = [
        [
            split,
            *(f"{counts.loc[split].get(dx, 0):,}" for dx in classes),
            f"{counts.loc[split].sum():,}",
        ]
        for split in ("train", "val", "test")
        if split in counts.index
    ]
    caption = "Number of images of each class in each split."
    return {
        "name": run.name,
        "recipe": run.recipe_text.strip(),
        "environment": list(_flat(run.environment)),
        "hash": run.split_hash,
        "split": Table(caption, ["split", *classes, "all"], rows),
    }


def _saliency(run: EvaluatedRun, data: Path | None, faithful: int) -> dict[str, Any]:
    folder = run.run.folder / "evaluation"
    stored = read_json(folder / LOCALIZATION_JSON, optional=True)
    other_split = bool(stored) and stored.get("split") != "test"
    weights = run.run.weights_hash
    # Without weights, nothing can be measured again, and nothing contradicts the stored results.
    if stored and not other_split and weights in (None, stored.get("weights")):
        return stored
    found, images = evaluate_saliency(run.run, data=data, faithful=faithful)
    if not other_split:  # keep results for another split
        write_saliency(found, images, folder)
    content: dict[str, Any] = json.loads(json.dumps(found))
    return content


def _saliency_tables(found: Mapping[str, Any], caption: str) -> list[Table]:
    """Return a table of all methods and, with attention, one of its differences to the others."""
    methods: Mapping[str, Any] = found["methods"]
    scores = list(next(iter(methods.values())))
    head = [method_name(score) for score in scores]
    rows = [
        [method_name(method), *(_with_interval(values[score]) for score in scores)]
        for method, values in methods.items()
    ]
    strong = frozenset(row for row, method in enumerate(methods) if method == "attention")
    tables = [Table(caption, ["map", *head], rows, strong)]
    if found["differences"]:
        rows = [
            [method_name(method), *(_with_interval(values[score], "+") for score in scores)]
            for method, values in found["differences"].items()
        ]
        caption = "Paired difference on the same images: attention minus each other map."
        tables.append(Table(caption, ["attention minus", *head], rows))
    return tables


def _map_tables(maps: Mapping[str, Any] | None) -> list[Table]:
    if not maps:  # no attention, or stored before the statistics existed
        return []
    statistics, gamma = maps["statistics"], maps["gamma"]
    caption = (
        "The attention maps themselves. Entropy is relative to that of uniform maps; effective "
        "maps is how many of the maps are different; constant maps is the share of uniform ones; "
        "deviation is the total variation distance between the attention of an image and the mean."
    )
    if gamma is not None:
        caption += f" Gamma was {gamma['initial']:.4g} at first and {gamma['trained']:.4g} trained."
    head = [method_name(name) for name in statistics]
    return [Table(caption, head, [[_with_interval(each) for each in statistics.values()]])]


def _with_interval(found: Mapping[str, float], sign: Literal["+", "-"] = "-") -> str:
    value, low, high = (format_change(found[name], 3, sign) for name in ("value", "low", "high"))
    return f"{value}\n{low} to {high}"


def _flat(values: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value)
        elif value is not None:
            rows.append((name, str(value)))
    return rows
