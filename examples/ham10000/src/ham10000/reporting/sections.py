"""The parts of a report, each from what was found to what the page shows of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ham10000.data.facts import CLASS_NAMES, CLASSES
from ham10000.errors import Ham10000Error
from ham10000.evaluation.gaze import LOCALISATION, measure_gaze, write_gaze
from ham10000.reporting import figures
from ham10000.reporting.cases import gallery, make_cases
from ham10000.reporting.embed import Embedded, embed, embed_photo
from ham10000.reporting.inputs import Found, Subject
from ham10000.reporting.pictures import thumbnail
from ham10000.reporting.published import PUBLISHED, SOURCES

__all__ = [
    "Table",
    "comparison_table",
    "figures_of",
    "gallery_of",
    "gaze_tables",
    "headline",
    "published_table",
    "setup_of",
]

PRIMARY = "balanced_accuracy"
FAITHFUL = 50
"""On how many images deletion and insertion are followed, which takes most of the time."""

_PUBLISHED = ("precision_weighted", "accuracy", "auc_weighted", "balanced_accuracy")
_COMPARED = (
    "balanced_accuracy",
    "accuracy",
    "auc_macro",
    "auc_weighted",
    "average_precision_macro",
    "f1_macro",
    "precision_weighted",
    "ece",
    "brier",
)
_WORDS = {
    "auc": "AUC",
    "ece": "calibration error",
    "iou": "IoU",
    "grad_cam": "Grad-CAM",
    "gaussian": "centred Gaussian",
    "random": "random map",
    "attention": "soft attention",
}


@dataclass(frozen=True)
class Table:
    """A table of a page."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    """What comes after the end of a line is set small below, as intervals are."""
    strong: frozenset[int] = frozenset()
    """Rows that are ours."""


def headline(subject: Subject) -> dict[str, Any]:
    """Say the result in a sentence, and the number with its interval for each model."""
    study = subject.study
    primary = PRIMARY if study is None else str(study["primary"])
    numbers = [
        {"name": found.name, "text": _ours(subject, found, primary)} for found in subject.found
    ]
    first = subject.found[0].evaluation.per_image
    return {
        "verdict": None if study is None else study["verdict"],
        "rule": None if study is None else study.get("rule"),
        "metric": words(primary),
        "numbers": numbers,
        "images": first.count,
        "seeds": None if study is None else len(study["seeds"]),
        "absent": subject.found[0].evaluation.absent_classes,
    }


def published_table(subject: Subject) -> Table:
    """Put our numbers beside those of the authors and of the re-run."""
    rows = [
        [
            f"{found.name}\nours, {_attended(found.run.recipe.model.attention)}",
            *(_ours(subject, found, name) for name in _PUBLISHED),
        ]
        for found in subject.found
    ]
    ours = frozenset(range(len(rows)))
    for each in PUBLISHED:
        numbers = (each.precision, each.accuracy, each.auc, each.balanced_accuracy)
        whose = f"{each.backbone}\n{each.source}, {_attended(each.attention)}"
        rows.append([whose, *(f"{number:.3f}" for number in numbers)])
    head = ["", *(words(name) for name in _PUBLISHED)]
    notes = " ".join(f"{name.capitalize()}: {text}" for name, text in SOURCES.items())
    return Table(notes, head, rows, ours)


def comparison_table(subject: Subject) -> Table | None:
    """Show what the second recipe changes, of a study of two."""
    if subject.study is None or not subject.study.get("comparison"):
        return None
    changes: Mapping[str, Any] = subject.study["comparison"]
    names = [name for name in _COMPARED if name in changes]
    names += [f"recall/{name}" for name in CLASSES if f"recall/{name}" in changes]
    rows = [
        [
            words(name),
            f"{changes[name]['difference']:+.3f}\n"
            f"{changes[name]['low']:+.3f} to {changes[name]['high']:+.3f}",
            p_value(changes[name]["p"]),
            p_value(changes[name]["p_holm"]),
        ]
        for name in names
    ]
    caption = (
        f"{subject.study['recipes'][-1]} less {subject.study['recipes'][0]}, over seeds and test "
        "lesions, with intervals of 95 %. The last column is Holm's correction for the number of "
        "metrics."
    )
    return Table(caption, ["metric", "difference", "p", "p, Holm"], rows)


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


def gaze_tables(found: Found, data: Path | None) -> dict[str, Any]:
    """Show where a run's model looks; measure it unless that was done."""
    try:
        gaze = _gaze(found, data)
    except Ham10000Error as error:
        return {"name": found.name, "missing": str(error), "tables": []}
    excluded = (
        f"{gaze['without_mask']:,} without a mask and {gaze['empty_mask']:,} with an empty one"
    )
    caption = (
        f"{gaze['images']:,} test images of {gaze['lesions']:,} lesions; left out are {excluded}. "
        f"Lesions cover {gaze['mask_share']:.0%} of an image on average."
    )
    tables = [_gaze_table(gaze["localisation"], caption)]
    if gaze["faithfulness"]["images"]:
        caption = (
            f"Area under the curve of the predicted class's probability, on "
            f"{gaze['faithfulness']['images']} images: while the positions that a map ranks first "
            "are deleted (lower is better), and inserted (higher is better)."
        )
        tables.append(_gaze_table(gaze["faithfulness"], caption))
    return {"name": found.name, "missing": None, "tables": tables}


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
    """Show what a run was made of: recipe, environment, and who was on which side."""
    counts = found.split_counts
    rows = [
        [
            side,
            *(f"{counts.loc[side].get(dx, 0):,}" for dx in CLASSES),
            f"{counts.loc[side].sum():,}",
        ]
        for side in ("train", "val", "test")
        if side in counts.index
    ]
    return {
        "name": found.name,
        "recipe": found.recipe_text.strip(),
        "environment": list(_flat(found.environment)),
        "hash": found.split_hash,
        "split": Table("Images of each class on each side.", ["", *CLASSES, "all"], rows),
    }


def words(name: str) -> str:
    """Say the name of a metric or method in words."""
    if name in _WORDS:
        return _WORDS[name]
    metric, _, dx = name.partition("/")
    text = " ".join(_WORDS.get(part, part) for part in metric.split("_"))
    return f"{text} of {dx}" if dx else text


def _attended(attention: bool) -> str:
    return "with soft attention" if attention else "without"


def p_value(value: float) -> str:
    """Say a p-value to three places."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _ours(subject: Subject, found: Found, name: str) -> str:
    if subject.study is not None:
        whole = subject.study["metrics"].get(name, {}).get(found.name)
        if whole is None:
            return "undefined"
        return f"{whole['mean']:.3f}\n{whole['low']:.3f} to {whole['high']:.3f}"
    one = found.evaluation.per_image.metrics[name]
    return f"{one.value:.3f}\n{one.low:.3f} to {one.high:.3f}"


def _gaze(found: Found, data: Path | None) -> dict[str, Any]:
    place = found.run.folder / "evaluation"
    path = place / LOCALISATION
    if not path.is_file():
        gaze, images = measure_gaze(found.run, data=data, faithful=FAITHFUL)
        write_gaze(gaze, images, place)
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _gaze_table(found: Mapping[str, Any], caption: str) -> Table:
    methods: Mapping[str, Any] = found["methods"]
    scores = list(next(iter(methods.values())))
    rows = [
        [words(method), *(_with_ends(values[score]) for score in scores)]
        for method, values in methods.items()
    ]
    ours = frozenset(row for row, method in enumerate(methods) if method == "attention")
    return Table(caption, ["where", *(words(score) for score in scores)], rows, ours)


def _with_ends(found: Mapping[str, float]) -> str:
    return f"{found['value']:.3f}\n{found['low']:.3f} to {found['high']:.3f}"


def _flat(values: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value)
        elif value is not None:
            rows.append((name, str(value)))
    return rows
