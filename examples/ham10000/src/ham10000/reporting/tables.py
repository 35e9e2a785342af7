"""Tables of a report: summary, metrics, comparison, and published results."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ham10000.data import CLASSES
from ham10000.evaluation import CLASS_METRICS, METRICS, Interval, metric_name
from ham10000.reporting.inputs import EvaluatedRun, ReportSource

__all__ = [
    "PUBLISHED",
    "SOURCES",
    "ArmTables",
    "Published",
    "Table",
    "class_table",
    "comparison_tables",
    "headline",
    "look_table",
    "method_name",
    "metric_table",
    "published_table",
    "summary_items",
]

PRIMARY = "balanced_accuracy"
_PUBLISHED_METRICS = ("balanced_accuracy", "accuracy", "auc_weighted", "precision_weighted")
_AVERAGES = tuple(name for name in METRICS if "/" not in name)
_NAMES = {
    "iou": "IoU",
    "grad_cam": "Grad-CAM",
    "gaussian": "centred Gaussian",
    "random": "random map",
}
_LAYERS = {
    "none": "without attention",
    "soft": "with soft attention",
    "placebo": "with uniform maps",
    "keras": "with the authors' layer",
}


@dataclass(frozen=True)
class Published:
    """Published results of one model."""

    source: str
    """Key of `SOURCES`."""
    backbone: str
    attention: bool
    precision: float
    """Average weighted by class frequency, like accuracy and the AUC."""
    accuracy: float
    auc: float
    balanced_accuracy: float
    """Mean recall over the classes."""


SOURCES = {
    "authors": (
        "Datta, Shaikh, Srihari and Gao, Soft-Attention Improves Skin Cancer Classification "
        "Performance, iMIMIC 2021, doi:10.1007/978-3-030-87444-5_2. From the notebooks of their "
        "repository, skrantidatta/Attention-based-Skin-Cancer-Classification. One run each; "
        "weights were selected on the test set."
    ),
    "re-run": (
        "An independent reproduction in Keras 3 with the same split and augmentation and one seed, "
        "kanhaiyak23/skin-lesion-soft-attention-reproduction. Its intervals for the weighted "
        "precision are 0.887 to 0.932 without and 0.891 to 0.935 with soft attention."
    ),
}
"""Description of each source, shown below the table."""

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
    """Cells. The lines after the first are set in small type, as intervals are."""
    strong: frozenset[int] = frozenset()
    """Indices of the rows in bold type."""


@dataclass(frozen=True)
class ArmTables:
    """Tables of one arm of a study and the control."""

    title: str
    planned: Table
    """Primary and secondary metrics, with their outcome."""
    others: Table
    """All other metrics."""


def summary_items(source: ReportSource) -> list[tuple[str, str]]:
    """Return the data, split, models and training of a report, as pairs of name and value."""
    recipes = [run.run.recipe for run in source.runs]
    folds = None if source.study is None else source.study.get("folds")
    sizes = _unique(f"{recipe.data.size} x {recipe.data.size} pixels" for recipe in recipes)
    epochs = _unique(
        str(max((row["epoch"] for row in run.epochs), default=run.run.recipe.training.epochs))
        for run in source.runs
    )
    protocol = f"{folds}-fold" if folds else _unique(recipe.data.protocol for recipe in recipes)
    times = [str(run.environment["time"])[:10] for run in source.runs if "time" in run.environment]
    return [
        ("data", f"{source.data_name}, {source.num_images:,} images"),
        ("split", f"{protocol}, {source.num_test_images:,} test images"),
        ("backbone", _unique(recipe.model.backbone for recipe in recipes)),
        ("input", sizes),
        ("epochs", epochs),
        *([("seeds", str(len(source.study["seeds"])))] if source.study is not None else []),
        *([("date", max(times))] if times else []),
    ]


def headline(source: ReportSource) -> dict[str, Any]:
    """Return the verdicts, and the primary metric of each model."""
    study = source.study
    primary = PRIMARY if study is None else str(study["primary"])
    return {
        "verdicts": [] if study is None else list(study["verdicts"].values()),
        "rule": None if study is None else study.get("rule"),
        "metric": metric_name(primary),
        "numbers": [
            {"name": run.name, "text": _value(source, run, primary)} for run in source.runs
        ],
        "images": source.num_test_images,
        "seeds": None if study is None else len(study["seeds"]),
        "absent": source.runs[0].evaluation.absent_classes,
    }


def published_table(source: ReportSource) -> Table | None:
    """Return a table of our results and published ones; `None` if the data are not HAM10000."""
    if not source.is_ham10000:
        return None
    rows = [
        [
            f"{run.name}\nthis report, {_with_layer(run.run.recipe.attention.layer)}",
            *(_value(source, run, name) for name in _PUBLISHED_METRICS),
        ]
        for run in source.runs
    ]
    ours = frozenset(range(len(rows)))
    for each in PUBLISHED:
        numbers = (each.balanced_accuracy, each.accuracy, each.auc, each.precision)
        attention = _with_layer("soft" if each.attention else "none")
        model = f"{each.backbone}\n{each.source}, {attention}"
        rows.append([model, *(f"{number:.3f}" for number in numbers)])
    notes = " ".join(f"{name.capitalize()}: {text}" for name, text in SOURCES.items())
    head = ["model", *(metric_name(name) for name in _PUBLISHED_METRICS)]
    return Table(notes, head, rows, ours)


def comparison_tables(source: ReportSource) -> list[ArmTables]:
    """Return the comparison of each arm of a study with the control; empty for a run."""
    study = source.study
    if study is None:
        return []
    return [_compare_arm(study, arm) for arm in study["arms"] if study["comparisons"][arm]]


def look_table(source: ReportSource) -> Table | None:
    """Return the recorded looks at the result of a study; `None` if there are none."""
    if source.study is None or not source.study.get("looks_taken"):
        return None
    rows = [
        [
            str(look["number"]),
            look["time"],
            ", ".join(map(str, look["seeds"])),
            "exploratory" if look["exploratory"] else f"{look['level']:g}",
            " ".join(look["verdicts"].values()),
        ]
        for look in source.study["looks_taken"]
    ]
    caption = "Looks at the result, as recorded in plan.json."
    return Table(caption, ["look", "time", "seeds", "level", "verdict"], rows)


def metric_table(run: EvaluatedRun) -> Table:
    """Return all averages of a run, per image and per lesion."""
    image, lesion = run.evaluation.per_image, run.evaluation.per_lesion
    rows = [
        [metric_name(name), _interval(image.metrics[name]), _interval(lesion.metrics[name])]
        for name in _AVERAGES
    ]
    head = ["metric", f"{image.count:,} images", f"{lesion.count:,} lesions"]
    caption = (
        "Below each value: its 95 % confidence interval over lesions. For lesions, probabilities "
        "are averaged over the images of a lesion."
    )
    return Table(caption, head, rows)


def class_table(run: EvaluatedRun) -> Table:
    """Return all metrics of each class of a run, per image."""
    image = run.evaluation.per_image
    rows = [
        [
            name,
            f"{image.class_counts[name]:,}",
            *(_interval(image.metrics[f"{metric}/{name}"]) for metric in CLASS_METRICS),
        ]
        for name in CLASSES
    ]
    head = ["class", "images", *(metric_name(metric) for metric in CLASS_METRICS)]
    return Table("Each class against all others, per image.", head, rows)


def method_name(name: str) -> str:
    """Return the display name of a saliency method or of a score of its maps.

    Example:
        >>> from ham10000.reporting.tables import method_name
        >>> method_name("grad_cam"), method_name("pointing_game")
        ('Grad-CAM', 'pointing game')
    """
    return _NAMES.get(name, name.replace("_", " "))


def _compare_arm(study: Mapping[str, Any], arm: str) -> ArmTables:
    control, primary = study["control"], study["primary"]
    changes = study["comparisons"][arm]
    tested = all(change["low"] is not None for change in changes.values())
    head = ["metric", control, arm, "difference", *(["p", "p (Holm)"] if tested else [])]
    planned = [name for name in (primary, *study["secondaries"]) if name in changes]
    others = [name for name in METRICS if name in changes and name not in planned]
    level = f"{100 * (1 - study['look']['level']):g} %"
    intervals = (
        f"Below each difference: its {level} confidence interval over training runs and test "
        "lesions, conditional on the data set and its folds. p (Holm) is adjusted for the number "
        f"of arms and, except for {metric_name(primary)}, which was chosen in advance, for the "
        "number of metrics."
    )
    caption = (
        f"The difference is {arm} minus {control}, averaged over folds and seeds. Below each mean: "
        "the standard deviation over seeds. "
    )
    if not tested:
        intervals = "There are too few runs for intervals and p-values."
    rows = [[*_change(study, arm, name), changes[name]["outcome"]] for name in planned]
    more = [_change(study, arm, name) for name in others]
    strong = frozenset({0} if primary in changes else ())
    note = "These metrics are exploratory and have no verdict."
    return ArmTables(
        f"{arm} compared with {control}",
        Table(caption + intervals, [*head, "outcome"], rows, strong),
        Table(note, head, more),
    )


def _change(study: Mapping[str, Any], arm: str, name: str) -> list[str]:
    change, both = study["comparisons"][arm][name], study["metrics"][name]
    tested = change["low"] is not None
    difference = f"{change['mean']:+.4f}"
    return [
        metric_name(name),
        *(_mean(both.get(recipe)) for recipe in (study["control"], arm)),
        f"{difference}\n{change['low']:+.4f} to {change['high']:+.4f}" if tested else difference,
        *(_p_value(change[key]) for key in ("p", "p_holm") if tested),
    ]


def _value(source: ReportSource, run: EvaluatedRun, name: str) -> str:
    if source.study is not None:
        return _mean(source.study["metrics"].get(name, {}).get(run.name))
    return _interval(run.evaluation.per_image.metrics[name])


def _mean(found: Mapping[str, Any] | None) -> str:
    return "undefined" if found is None else f"{found['mean']:.4f}\nsd {found['std']:.4f}"


def _interval(found: Interval) -> str:
    if math.isnan(found.value):
        return "undefined"
    return f"{found.value:.3f}\n{found.low:.3f} to {found.high:.3f}"


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _with_layer(layer: str) -> str:
    return _LAYERS.get(layer, f"with {layer.upper()}")


def _unique(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
