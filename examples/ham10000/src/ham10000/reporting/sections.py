"""The parts of a report on single runs: figures, where the model looks, a gallery, the setup."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ham10000.data import CLASS_NAMES, CLASSES
from ham10000.errors import Ham10000Error
from ham10000.reporting import figures
from ham10000.reporting.cases import gallery, make_cases, thumbnail
from ham10000.reporting.figures import fading_figure
from ham10000.reporting.inputs import Found, Subject, read_json
from ham10000.reporting.style import Embedded, embed, embed_photo
from ham10000.reporting.tables import Table, words
from ham10000.saliency import LOCALIZATION_JSON, evaluate_saliency, write_saliency

__all__ = ["figures_of", "gallery_of", "gaze_of", "setup_of"]

FAITHFUL = 50
"""On how many images deletion and insertion are followed, which takes most of the time."""


def figures_of(found: Found) -> dict[str, Any]:
    """Draw the figures of one run."""
    level, name = found.evaluation.per_image, found.name
    targets, scores = found.predictions.targets, found.predictions.probabilities
    recalls = {dx: level.metrics[f"recall/{dx}"] for dx in CLASSES}
    values = {dx: recall.value for dx, recall in recalls.items()}
    ends = {dx: (recall.low, recall.high) for dx, recall in recalls.items()}
    spoken = ", ".join(f"{dx} {value:.2f}" for dx, value in values.items())
    metrics = level.metrics
    drawn = [
        (
            "Recall of each class, with its interval of 95 %",
            lambda theme: figures.recall_figure(values, ends, theme=theme),
            f"Recall of {name} by class: {spoken}.",
        ),
        (
            "Confusion matrix",
            lambda theme: figures.confusion_figure(level.confusion, CLASSES, theme=theme),
            f"Confusion matrix of {name}: {metrics['accuracy'].value:.1%} of {level.count:,} "
            "images are on the diagonal.",
        ),
        (
            "ROC, each class against the others",
            lambda theme: figures.roc_figure(targets, scores, theme=theme),
            f"ROC curves of {name}; mean area {metrics['auc_macro'].value:.3f}.",
        ),
        (
            "Calibration",
            lambda theme: figures.reliability_figure(targets, scores, theme=theme),
            f"Calibration of {name}: expected error {metrics['ece'].value:.3f}.",
        ),
    ]
    epochs = found.epochs
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
        "seed": found.run.recipe.seed,
        "figures": [(title, embed(draw, alt)) for title, draw, alt in drawn],
    }


def gaze_of(found: Found, data: Path | None) -> dict[str, Any]:
    """Show where a run's model looks; measure it unless that was done with these weights."""
    try:
        gaze = _gaze(found, data)
    except Ham10000Error as error:
        return {"name": found.name, "missing": str(error), "tables": [], "figures": []}
    excluded = (
        f"{gaze['without_mask']:,} without a mask and {gaze['empty_mask']:,} with an empty one"
    )
    caption = (
        f"{gaze['images']:,} test images of {gaze['lesions']:,} lesions; left out are {excluded}. "
        f"Lesions cover {gaze['mask_share']:.0%} of an image on average."
    )
    tables = _gaze_tables(gaze["localisation"], caption)
    faithfulness, drawn = gaze["faithfulness"], []
    if faithfulness["images"]:
        caption = (
            f"Area under the curve of the predicted class's probability, on "
            f"{faithfulness['images']} images: while the positions that a map ranks first "
            "are deleted (lower is better), and inserted (higher is better)."
        )
        tables += _gaze_tables(faithfulness, caption)
        curves = faithfulness["curves"]
        spoken = "; ".join(
            f"{words(method)}: deletion {values['deletion']['value']:.3f}, insertion "
            f"{values['insertion']['value']:.3f}"
            for method, values in faithfulness["methods"].items()
        )
        title = "Probability of the predicted class while the image goes, and while it comes"
        alt = f"Deletion and insertion curves of {found.name}. Areas under them: {spoken}."
        drawn.append((title, embed(lambda theme: fading_figure(curves, theme=theme), alt)))
    return {"name": found.name, "missing": None, "tables": tables, "figures": drawn}


def gallery_of(subject: Subject, data: Path | None, each: int) -> dict[str, Any]:
    """Show images of every class with the attention to them, right and wrong."""
    found = next(
        (each for each in reversed(subject.found) if each.run.recipe.model.attention),
        subject.found[-1],
    )
    names = gallery(found.predictions, each)
    if not names:
        missing = "none was asked for."
        return {"name": found.name, "missing": missing, "cases": [], "attention": False}
    try:
        cases = list(make_cases(found.run, found.predictions, names, data=data))
    except Ham10000Error as error:
        return {"name": found.name, "missing": str(error), "cases": [], "attention": False}
    shown: list[dict[str, Any]] = []
    for case in cases:
        sure = case.probabilities[case.prediction]
        what = f"{case.image_id}, {CLASS_NAMES[case.truth]}"
        said = f"predicted {case.prediction} with {sure:.2f}"
        pictures: list[Embedded] = [
            embed_photo(thumbnail(case, attention=False), f"{what}: the image.")
        ]
        if case.attention is not None:
            pictures.append(embed_photo(thumbnail(case), f"{what}: attention over it, {said}."))
        shown.append({"case": case, "said": said, "pictures": pictures})
    return {
        "name": found.name,
        "missing": None,
        "cases": shown,
        "attention": any(case.attention is not None for case in cases),
    }


def setup_of(found: Found) -> dict[str, Any]:
    """Show what a run was made of: recipe, environment, and which image was in which split."""
    counts = found.split_counts
    rows = [
        [
            split,
            *(f"{counts.loc[split].get(dx, 0):,}" for dx in CLASSES),
            f"{counts.loc[split].sum():,}",
        ]
        for split in ("train", "val", "test")
        if split in counts.index
    ]
    return {
        "name": found.name,
        "recipe": found.recipe_text.strip(),
        "environment": list(_flat(found.environment)),
        "hash": found.split_hash,
        "split": Table("Images of each class in each split.", ["", *CLASSES, "all"], rows),
    }


def _gaze(found: Found, data: Path | None) -> dict[str, Any]:
    place = found.run.folder / "evaluation"
    path = place / LOCALIZATION_JSON
    kept = read_json(path, optional=True)
    other_split = bool(kept) and kept.get("split") != "test"
    weights = found.run.weights_hash
    # A run without weights can't be measured again, and has none that could be others.
    if kept and not other_split and weights in (None, kept.get("weights")):
        return kept
    gaze, images = evaluate_saliency(found.run, data=data, faithful=FAITHFUL)
    if not other_split:  # that of another split was asked for, and stays
        write_saliency(gaze, images, place)
    content: dict[str, Any] = json.loads(json.dumps(gaze))
    return content


def _gaze_tables(found: Mapping[str, Any], caption: str) -> list[Table]:
    """Make a table of the methods, and where there is attention one of what it has more."""
    methods: Mapping[str, Any] = found["methods"]
    scores = list(next(iter(methods.values())))
    head = [words(score) for score in scores]
    rows = [
        [words(method), *(_with_ends(values[score]) for score in scores)]
        for method, values in methods.items()
    ]
    ours = frozenset(row for row, method in enumerate(methods) if method == "attention")
    tables = [Table(caption, ["where", *head], rows, ours)]
    if found["differences"]:
        rows = [
            [words(method), *(_with_ends(values[score], "+") for score in scores)]
            for method, values in found["differences"].items()
        ]
        caption = "Soft attention less each of the others, on the same images, so paired."
        tables.append(Table(caption, ["attention less", *head], rows))
    return tables


def _with_ends(found: Mapping[str, float], sign: str = "") -> str:
    value, low, high = (format(found[name], f"{sign}.3f") for name in ("value", "low", "high"))
    return f"{value}\n{low} to {high}"


def _flat(values: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value)
        elif value is not None:
            rows.append((name, str(value)))
    return rows
