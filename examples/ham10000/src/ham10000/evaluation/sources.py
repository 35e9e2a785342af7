"""Where predictions come from: a run's folder, the run's model, or a file."""

from dataclasses import replace
from pathlib import Path

from ham10000.data import SPLITS, find_table, read_csv, read_table
from ham10000.errors import ArgumentError, MissingDataError, PredictionError
from ham10000.evaluation.predictions import Predictions, check_images, read_predictions

__all__ = ["find_predictions", "of_split", "predict_run"]


def find_predictions(
    source: Path, split: str = "test", tta: int | None = None, data: Path | None = None
) -> Predictions:
    """Return predictions of one split: read where they are written, made where not.

    Args:
        source: a run's folder, or a file of predictions.
        split: train, val or test.
        tta: over how many views of an image a run's model averages; as many as its recipe says
            unless given.
        data: the data set; what the run was trained on unless given. Predictions that are read
            must then be of its images.

    Raises:
        MissingDataError: there is neither.
        PredictionError: they can't be used, or are not of the run's images.
        ArgumentError: there are views to average, and no model.
    """
    if split not in SPLITS:
        raise ArgumentError(f"predicting: there is no split {split!r}. Pass one of {SPLITS}.")
    if source.is_dir():
        written = source / "predictions.csv"
        if split != "test" or tta is not None or not written.is_file():
            return predict_run(source, split, tta, data)
        found = of_split(read_predictions(written), split)
        if (source / "split.csv").is_file():
            splits = read_csv(source / "split.csv", ("image_id", "lesion_id", "dx", "split"))
            expected = splits[splits["split"] == split]
            check_images(found, expected, f"the split {split} of {source / 'split.csv'}")
    elif source.exists():
        if tta is not None and tta != 1:
            raise ArgumentError(
                f"reading {source}: predictions that are made already can't be averaged over "
                f"{tta} views. Pass a run's folder."
            )
        found = of_split(read_predictions(source), split)
    else:
        raise MissingDataError(
            f"opening {source}: there is neither a run's folder nor a file of predictions. Train "
            f"a run with: ham10000 train RECIPE --out {source}"
        )
    if data is not None:
        table = read_table(find_table(data))
        known = table[table["image_id"].isin(found.table["image_id"])]
        check_images(found, known, f"the data set {data}")
    return found


def of_split(predictions: Predictions, split: str) -> Predictions:
    """Return the rows of one split.

    Raises:
        PredictionError: there is none.
    """
    rows = predictions.table[predictions.table["split"] == split]
    if rows.empty:
        others = ", ".join(sorted(set(predictions.table["split"])))
        raise PredictionError(
            f"{predictions.source}: no row has split {split!r}, only {others}. "
            f"Pass --split {others.split(', ')[0]}, or predict that split."
        )
    return replace(predictions, table=rows)


def predict_run(
    folder: Path, split: str, tta: int | None = None, data: Path | None = None
) -> Predictions:
    """Let a run's best weights predict one of its splits.

    Raises:
        MissingDataError: there is no such run, or it has no weights yet.
    """
    from ham10000.training.run import open_run  # reading a file needs no network

    return open_run(folder, data=data).predict(split, tta)
