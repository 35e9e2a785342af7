"""Runs in a folder: their state, data and a metric; results that are stored with a run."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ham10000.errors import ArgumentError, Ham10000Error, MissingDataError, closest
from ham10000.evaluation import (
    METRICS,
    Predictions,
    best_temperature,
    metrics_of,
    read_predictions,
    reliability_bins,
    summarize,
)
from ham10000.reporting.inputs import read_json
from ham10000.training import TRAINER_LOCK, Run, RunDir, open_run
from ham10000.utils import is_locked

__all__ = ["RunSummary", "describe_test", "list_runs", "stored_metrics", "stored_predictions"]


def stored_metrics(run: Run) -> dict[str, dict[str, Any]]:
    """Return the metrics of the test set, per image, that `ham10000 evaluate RUN` has stored.

    Returns:
        A mapping with value, low and high for each metric, which are `None` if undefined. It is
        empty without an evaluation, or if that is of other predictions than predictions.csv: of
        another split, or averaged over another number of views.
    """
    folder = run.folder / "evaluation"
    try:
        if (folder / "predictions.csv").read_bytes() != run.files.predictions().read_bytes():
            return {}
        found: dict[str, dict[str, Any]] = read_json(folder / "metrics.json")["per_image"][
            "metrics"
        ]
    except (OSError, Ham10000Error, LookupError):
        return {}
    return found


def stored_predictions(run: Run) -> Predictions | None:
    """Return the predictions of the test images that the training has stored, if there are any."""
    path = run.files.predictions()
    return read_predictions(path, run.info.classes) if path.exists() else None


def describe_test(run: Run, predictions: Predictions | None) -> list[str]:
    """Return sentences about accuracy and calibration on the test images of a run.

    Args:
        run: From `open_run`.
        predictions: Of its test images, from `stored_predictions`.
    """
    if predictions is None:
        return ["The run has no test predictions, so this page cannot say how often it is right."]
    targets, scores = predictions.targets, predictions.probabilities
    found = summarize(targets, scores, predictions.classes)
    temperature = best_temperature(targets, scores)
    right, mean = (f"{100 * found[name]:.1f} %" for name in ("accuracy", "balanced_accuracy"))
    lesions = predictions.table["lesion_id"].nunique()
    views = run.recipe.training.tta * run.recipe.training.crops
    averaged = f" Those predictions are means over {views} views of an image; this model uses one."
    sure = "calibrated on average"
    if not 0.95 <= temperature <= 1.05:
        sure = "overconfident" if temperature > 1 else "underconfident"
    return [
        f"Of {len(predictions):,} test images of {lesions:,} lesions, which were not used in the "
        f"training, the model classified {right} correctly, and {mean} on average over the classes."
        + (averaged if views > 1 else ""),
        "Calibration: the highest probability of an image differs from the frequency with which it "
        f"is right by {found['ece']:.3f} on average (expected calibration error). Probabilities "
        "are shown as the model computes them, without a temperature. The temperature that fits "
        f"the test images best is {temperature:.2f}: the model is {sure}.",
    ]


def calibration_bins(predictions: Predictions, bins: int = 10) -> list[dict[str, float]]:
    """Return how often predictions were right, in bins of the highest probability of an image.

    Returns:
        For each bin, in ascending order: low, high, and the number of images, also of those that
        were right.
    """
    _, accuracy, sizes = reliability_bins(predictions.targets, predictions.probabilities, bins)
    right = (np.nan_to_num(accuracy) * sizes).round()
    return [
        {"low": k / bins, "high": (k + 1) / bins, "count": int(size), "right": int(correct)}
        for k, (size, correct) in enumerate(zip(sizes, right, strict=True))
    ]


def images_of_test(run: Run) -> dict[str, str]:
    """Return the classes of the test images of a run by name, in random order, always the same."""
    table = run.split_table.query("split == 'test'").sort_values("image_id")
    table = table.iloc[np.random.default_rng(0).permutation(len(table))]
    return dict(zip(table["image_id"], table["dx"], strict=True))


def example_images(run: Run, count: int) -> dict[str, str]:
    """Return some test images with their classes, as `images_of_test`, of all classes in turn."""
    found = images_of_test(run)
    turns = pd.Series(found).groupby(pd.Series(found)).cumcount()
    order = sorted(found, key=lambda name: (turns[name], found[name]))
    return {name: found[name] for name in order[:count]}


@dataclass(frozen=True)
class RunSummary:
    """A run at a glance."""

    name: str
    """Folder of the run, relative to the folder that was searched."""
    recipe: str = ""
    """Name of the recipe."""
    state: str = "damaged"
    """finished, running, interrupted, not started, or damaged (the recipe cannot be read)."""
    epoch: int = 0
    """Number of trained epochs."""
    epochs: int = 0
    """Largest number of epochs in the recipe."""
    data: str = ""
    """Name of the data set; empty before the split is made."""
    value: float | None = None
    """Metric on the test set; `None` before the run is finished, or if undefined."""
    interval: tuple[float, float] | None = None
    """Confidence interval of the metric, if the run was evaluated."""


def list_runs(folder: Path, metric: str) -> list[RunSummary]:
    """Summarize all runs in a folder and its subfolders, sorted by path.

    Args:
        folder: The folder, or a run itself.
        metric: Name of a metric, such as "auc_macro" or "recall/mel".

    Raises:
        ArgumentError: There is no such metric.
        MissingDataError: There is no such folder, or no run in it.
    """
    doing = f"listing the runs in {folder}"
    found = list(_run_folders(folder))
    known = METRICS if metric in METRICS else _metrics_of_runs(found)
    if metric not in known:
        raise ArgumentError(f"{doing}: there is no metric {metric!r}. {closest(metric, known)}")
    if not found:
        what = "no run in it" if folder.is_dir() else "no such folder"
        raise MissingDataError(
            f"{doing}: there is {what}. Train one with: ham10000 train RECIPE --out {folder}/NAME"
        )
    names: dict[tuple[int, int], str] = {}
    return [_summarize_run(path, folder, metric, names) for path in found]


def _metrics_of_runs(folders: Sequence[Path]) -> Sequence[str]:
    known = dict.fromkeys(METRICS)
    for folder in folders:
        with suppress(Ham10000Error):
            known |= dict.fromkeys(metrics_of(open_run(folder).info.classes))
    return list(known)


def _run_folders(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        if "recipe.yaml" in files:
            yield Path(root)
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _summarize_run(
    path: Path, folder: Path, metric: str, names: dict[tuple[int, int], str]
) -> RunSummary:
    relative = path.relative_to(folder).as_posix()
    name = path.resolve().name if relative == "." else relative
    try:
        run = open_run(path)
        epoch, data = _last_epoch(run.files), _data_of(run, names)
        value, interval = _metric_of(run, metric)
    except (Ham10000Error, OSError, ValueError, LookupError):
        return RunSummary(name)
    return RunSummary(
        name,
        run.recipe.name,
        _state(run.files, epoch),
        epoch,
        run.recipe.training.epochs,
        data,
        value,
        interval,
    )


def _state(files: RunDir, epoch: int) -> str:
    if files.done:
        return "finished"
    if is_locked(files.path, TRAINER_LOCK):
        return "running"
    return "interrupted" if epoch or files.step_checkpoints() else "not started"


def _last_epoch(files: RunDir) -> int:
    if not files.metrics.exists():
        return 0
    lines = files.metrics.read_text(encoding="utf-8").splitlines()
    return max((int(json.loads(line)["epoch"]) for line in lines if line.strip()), default=0)


def _data_of(run: Run, names: dict[tuple[int, int], str]) -> str:
    # Runs of a study share one file, which has thousands of rows.
    if not run.files.split.exists():
        return ""
    stat = run.files.split.stat()
    file = (stat.st_dev, stat.st_ino)
    if file not in names:
        names[file] = run.data_name
    return names[file]


def _metric_of(run: Run, metric: str) -> tuple[float | None, tuple[float, float] | None]:
    if not run.files.done:
        return None, None
    stored = stored_metrics(run).get(metric)
    if stored is not None and stored["value"] is not None:
        return stored["value"], (stored["low"], stored["high"])
    found = read_predictions(run.files.predictions(), run.info.classes)
    value = summarize(found.targets, found.probabilities, found.classes).get(metric, math.nan)
    return (None if math.isnan(value) else value), None
