"""Simulated predictions, with several images per lesion and HAM10000's class sizes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from ham10000.data import CLASSES
from ham10000.evaluation import Predictions, make_predictions

SIZES = {"akiec": 43, "bcc": 93, "bkl": 217, "df": 44, "mel": 171, "nv": 909, "vasc": 35}
"""The official test set's: 1,512 images in all."""


def make(
    sizes: dict[str, int] | None = None, seed: int = 0, skill: float = 2.0, grid: int | None = None
) -> Predictions:
    """Make predictions of a model with some skill, and one to three images for each lesion.

    With a grid, probabilities are multiples of 1 / grid, so that many are equal.
    """
    rng = np.random.default_rng(seed)
    counts = SIZES if sizes is None else sizes
    rows, scores = [], []
    for label, name in enumerate(CLASSES):
        left = counts.get(name, 0)
        while left:
            size = min(left, int(rng.choice([1, 1, 1, 2, 3])))
            lesion = f"HAM_{name}_{left}"
            center = rng.normal(size=7) + skill * (np.arange(7) == label)
            for _ in range(size):
                rows.append((f"ISIC_{len(rows):07d}", lesion, name, "test"))
                scores.append(center + 0.5 * rng.normal(size=7))
            left -= size
    values = np.exp(np.array(scores))
    values /= values.sum(axis=1, keepdims=True)
    if grid is not None:
        values = np.stack([rng.multinomial(grid, row) for row in values]) / grid
    order = rng.permutation(len(rows))
    frame = pd.DataFrame(rows, columns=["image_id", "lesion_id", "dx", "split"])
    return make_predictions(frame.iloc[order], values[order])


def store_evaluation(run: Path) -> None:
    """Write what `evaluate` writes into the folder of a run, with a made-up interval."""
    (run / "evaluation").mkdir()
    shutil.copy(run / "predictions.csv", run / "evaluation")
    metrics = {
        "accuracy": {"value": 0.25, "low": 0.125, "high": 0.5},
        "brier": {"value": None, "low": None, "high": None},
    }
    content = {"per_image": {"metrics": metrics}}
    (run / "evaluation" / "metrics.json").write_text(json.dumps(content))
