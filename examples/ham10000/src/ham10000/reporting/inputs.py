"""What a report is made of: one run, or a study's runs with what was found over all of them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ham10000.errors import DataError, MissingDataError
from ham10000.evaluation import Evaluation, Predictions, evaluate
from ham10000.training.run import Run, find_predictions, open_run

__all__ = ["Found", "Subject", "open_subject", "read_json"]

STUDY = "study.json"


@dataclass(frozen=True)
class Found:
    """A run, its predictions of the test set, and what they are worth."""

    name: str
    run: Run
    predictions: Predictions
    evaluation: Evaluation

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; none if it isn't there."""
        path = self.run.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        try:
            return [json.loads(line) for line in lines if line.strip()]
        except ValueError as error:
            raise DataError(
                f"reading {path}: a line of it is no JSON ({error}). Remove that line."
            ) from error

    @property
    def environment(self) -> dict[str, Any]:
        """What environment.json says; nothing if it isn't there."""
        return read_json(self.run.folder / "environment.json", optional=True)

    @property
    def recipe_text(self) -> str:
        """The recipe, every field."""
        return (self.run.folder / "recipe.yaml").read_text(encoding="utf-8")

    @property
    def split_hash(self) -> str:
        """The SHA-256 of split.csv: runs with the same have the same images in each split."""
        return hashlib.sha256((self.run.folder / "split.csv").read_bytes()).hexdigest()

    @property
    def split_counts(self) -> pd.DataFrame:
        """How many images of each class are in each split."""
        table = self.run.split_table
        return pd.crosstab(table["split"], table["dx"])


@dataclass(frozen=True)
class Subject:
    """What a report is about."""

    title: str
    folder: Path
    found: tuple[Found, ...]
    """One run, or the first run of each of a study's recipes."""
    study: Mapping[str, Any] | None = None
    """What study.json holds."""


def open_subject(folder: Path) -> Subject:
    """Open a study or a run.

    Raises:
        MissingDataError: it is neither, or not finished.
        Ham10000Error: something in it can't be read.
    """
    if not (folder / STUDY).is_file():
        if not (folder / "recipe.yaml").is_file():
            raise MissingDataError(
                f"reporting on {folder}: it holds neither {STUDY}, as a study does, nor "
                "recipe.yaml, as a run does. Make a run with: ham10000 train RECIPE --out RUN"
            )
        found = _open(folder, None)
        return Subject(found.name, folder, (found,))
    study = read_json(folder / STUDY)
    first: dict[str, Path] = {}
    for run in study.get("runs", []):
        first.setdefault(str(run["recipe"]), folder / str(run["folder"]))
    if not first:
        raise DataError(f"reading {folder / STUDY}: it names no run.")
    names = [name for name in study["recipes"] if name in first]
    found_runs = tuple(_open(first[name], name) for name in names)
    return Subject(" and ".join(names), folder, found_runs, study)


def _open(folder: Path, name: str | None) -> Found:
    run = open_run(folder)
    path = folder / "predictions.csv"
    if not path.is_file():
        raise MissingDataError(
            f"reporting on {folder}: there is no predictions.csv, which training writes at its "
            f"end. Go on with it: ham10000 train --resume {folder}"
        )
    predictions = find_predictions(folder)
    return Found(name or run.recipe.name, run, predictions, evaluate(predictions))


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Read an object from a JSON file; an empty one where it may be missing and is.

    Raises:
        DataError: it can't be read, or is no object.
    """
    if optional and not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"reading {path}: it can't be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise DataError(f"reading {path}: expected an object, found {type(content).__name__}.")
    return content
