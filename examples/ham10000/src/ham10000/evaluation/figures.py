"""The figures that an evaluation leaves beside its numbers."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from ham10000.data.facts import CLASSES
from ham10000.data.files import replacing
from ham10000.evaluation.evaluate import Evaluation
from ham10000.evaluation.predictions import Predictions
from ham10000.reporting.figures import (
    confusion_figure,
    recall_figure,
    reliability_figure,
    roc_figure,
)

__all__ = ["write_figures"]


def write_figures(evaluation: Evaluation, predictions: Predictions, out: Path) -> list[Path]:
    """Write confusion.png, roc.png, reliability.png and recall.png into a folder.

    Returns:
        The files.

    Raises:
        WriteError: the system refuses.
    """
    found = evaluation.per_image
    recalls = {name: found.metrics[f"recall/{name}"] for name in CLASSES}
    targets, probabilities = predictions.targets, predictions.probabilities
    figures = {
        "confusion": confusion_figure(found.confusion, CLASSES),
        "roc": roc_figure(targets, probabilities),
        "reliability": reliability_figure(targets, probabilities),
        "recall": recall_figure(
            {name: recall.value for name, recall in recalls.items()},
            {name: (recall.low, recall.high) for name, recall in recalls.items()},
        ),
    }
    return [_write(figure, out / f"{name}.png") for name, figure in figures.items()]


def _write(figure: Figure, path: Path) -> Path:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150, bbox_inches="tight")
    with replacing(path) as file:
        file.write(picture.getvalue())
    return path
