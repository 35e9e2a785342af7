"""The numbers of a report: the headline, what changed, and what others published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ham10000.data import CLASSES
from ham10000.reporting.inputs import Found, Subject

__all__ = [
    "PUBLISHED",
    "SOURCES",
    "Published",
    "Table",
    "comparison_table",
    "headline",
    "published_table",
    "words",
]

PRIMARY = "balanced_accuracy"
_PUBLISHED = ("balanced_accuracy", "accuracy", "auc_weighted", "precision_weighted")
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
    "brier": "Brier score",
    "ece": "calibration error",
    "f1": "F1",
    "iou": "IoU",
    "grad_cam": "Grad-CAM",
    "gaussian": "centred Gaussian",
    "random": "random map",
    "attention": "soft attention",
}


@dataclass(frozen=True)
class Published:
    """One model of one source."""

    source: str
    """A key of `SOURCES`."""
    backbone: str
    attention: bool
    precision: float
    """Weighted by class, as are accuracy and area."""
    accuracy: float
    auc: float
    balanced_accuracy: float
    """The mean of the classes' recalls."""


SOURCES = {
    "authors": (
        "Datta, Shaikh, Srihari and Gao, Soft-Attention Improves Skin Cancer Classification "
        "Performance, iMIMIC 2021, doi:10.1007/978-3-030-87444-5_2. From the notebooks of their "
        "repository, skrantidatta/Attention-based-Skin-Cancer-Classification. One run each, the "
        "weights chosen on the test set."
    ),
    "re-run": (
        "An independent re-run in Keras 3 with the same split and augmentation and one seed, "
        "kanhaiyak23/skin-lesion-soft-attention-reproduction. Its intervals for the weighted "
        "precision are 0.887 to 0.932 without and 0.891 to 0.935 with soft attention."
    ),
}
"""Where the numbers are from, and what to know about them."""

PUBLISHED = (
    Published("authors", "VGG16", False, 0.862, 0.870, 0.951, 0.567),
    Published("authors", "VGG16", True, 0.882, 0.877, 0.949, 0.673),
    Published("authors", "ResNet34", False, 0.858, 0.862, 0.942, 0.631),
    Published("authors", "ResNet34", True, 0.866, 0.877, 0.957, 0.572),
    Published("authors", "ResNet50", False, 0.898, 0.905, 0.973, 0.722),
    Published("authors", "ResNet50", True, 0.911, 0.915, 0.979, 0.690),
    Published("authors", "DenseNet201", False, 0.904, 0.908, 0.974, 0.640),
    Published("authors", "DenseNet201", True, 0.910, 0.908, 0.976, 0.720),
    Published("authors", "Inception-ResNet-v2", False, 0.906, 0.912, 0.983, 0.689),
    Published("authors", "Inception-ResNet-v2", True, 0.938, 0.935, 0.984, 0.719),
    Published("re-run", "Inception-ResNet-v2", False, 0.909, 0.916, 0.978, 0.720),
    Published("re-run", "Inception-ResNet-v2", True, 0.913, 0.918, 0.981, 0.713),
)


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
        numbers = (each.balanced_accuracy, each.accuracy, each.auc, each.precision)
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
