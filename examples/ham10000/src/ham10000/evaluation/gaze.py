"""Where a run's model looks: what `look` and `follow` found, with intervals, as a file.

The intervals are of the mean over images, from draws of lesions, as those of the metrics. The
differences are attention less the other method on the same images of each draw, so they are paired.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from ham10000.data import HAM10000, Augment, data_folder, open_folder
from ham10000.evaluation.faithfulness import area
from ham10000.evaluation.looking import (
    METHODS,
    Scores,
    follow,
    image_network,
    look,
    read_masks,
)
from ham10000.evaluation.resampling import RESAMPLES, draw_lesions
from ham10000.training.run import Run
from ham10000.utils import write_text

__all__ = ["IMAGES", "LOCALISATION", "measure_gaze", "reader", "with_intervals", "write_gaze"]

LOCALISATION = "localisation.json"
"""The name of the file in a run's folder `evaluation`."""

IMAGES = "localisation.csv"
"""The same image by image."""

Floats = npt.NDArray[np.float64]


def measure_gaze(
    run: Run,
    split: str = "test",
    *,
    data: Path | None = None,
    faithful: int = 100,
    steps: int = 20,
    resamples: int = RESAMPLES,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Measure where the model of a run looks, against the masks of the lesions.

    Args:
        run: from `open_run`.
        split: "train", "val" or "test".
        data: the data set's folder, for the masks; the recipe's unless given.
        faithful: on how many images deletion and insertion are followed; they are drawn, and each
            takes 2 (`steps` + 1) passes for each method.
        steps: how many points their curves have.
        resamples: how many draws the intervals are taken from.
        seed: of the draws and of the random maps.
        device: where the model runs.

    Returns:
        The means with their intervals, ready for JSON, and the scores of each image and method.

    Raises:
        MissingDataError: no image has a mask, or something of the run is not there.
    """
    weights = run.weights_hash
    images = run.dataset(split)
    size = run.recipe.data.size
    table = images.table
    folder = open_folder(data_folder(data if data is not None else run.recipe.data.root))
    masks = read_masks(folder.masks, table["image_id"].tolist(), size)
    model = run.load_model(device)
    methods = [name for name in METHODS if name != "attention" or model.has_attention]
    network, read = image_network(model), reader(run, images, device)
    kept = table.iloc[masks.kept].reset_index(drop=True)
    found = look(network, read, masks.kept, masks.masks, methods=methods, seed=seed)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(kept))[:faithful])
    rows = [masks.kept[place] for place in chosen]
    curves = follow(network, read, rows, methods=methods, steps=steps, seed=seed) if rows else {}
    areas = {
        method: {name: area(values) for name, values in scores.items()}
        for method, scores in curves.items()
    }
    gaze: dict[str, Any] = {
        "split": split,
        "weights": weights,
        "size": size,
        "images": len(kept),
        "lesions": int(kept["lesion_id"].nunique()),
        "without_mask": masks.missing,
        "empty_mask": masks.empty,
        "mask_share": float(masks.masks.double().mean()),
        "resamples": resamples,
        "seed": seed,
        "localisation": with_intervals(found, _draws(kept, resamples, seed)),
        "faithfulness": {
            "images": len(rows),
            "steps": steps,
            **with_intervals(areas, _draws(kept.iloc[chosen], resamples, seed)),
            "curves": {
                method: {name: values.mean(axis=0).tolist() for name, values in scores.items()}
                for method, scores in curves.items()
            },
        },
    }
    return gaze, _by_image(kept, found)


def with_intervals(scores: Scores, draws: Floats) -> dict[str, Any]:
    """Average scores over images, and give 95 % intervals from draws of lesions.

    Example:
        >>> import numpy as np
        >>> from ham10000.evaluation.gaze import with_intervals
        >>> scores = {"attention": {"iou": np.array([0.25, 0.75])}}
        >>> with_intervals(scores, np.array([[1.0, 1.0], [1.0, 1.0]]))["methods"]
        {'attention': {'iou': {'value': 0.5, 'low': 0.5, 'high': 0.5}}}

    Args:
        scores: (N,) for each method and score.
        draws: (N, R), how often each image counts in each draw.

    Returns:
        "methods": value, low and high of each; and "differences": of attention less each other
        method, where there is attention.
    """
    return {
        "methods": {
            method: {name: _interval(values, draws) for name, values in found.items()}
            for method, found in scores.items()
        },
        "differences": {
            method: {
                name: _interval(scores["attention"][name] - values, draws)
                for name, values in found.items()
            }
            for method, found in scores.items()
            if "attention" in scores and method != "attention"
        },
    }


def write_gaze(gaze: Mapping[str, Any], images: pd.DataFrame, out: Path) -> None:
    """Write what `measure_gaze` returns as `LOCALISATION` and `IMAGES` into a folder.

    Raises:
        WriteError: the system refuses.
    """
    write_text(out / IMAGES, images.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    write_text(out / LOCALISATION, json.dumps(gaze, indent=2) + "\n")


def reader(
    run: Run, images: HAM10000, device: torch.device | str = "cpu"
) -> Callable[[Sequence[int]], Tensor]:
    """Return what reads images of a run by their numbers, as its model wants them."""
    normalize = Augment("none", mean=run.recipe.model.mean, std=run.recipe.model.std)

    def read(rows: Sequence[int]) -> Tensor:
        pixels, *_ = images.read(list(rows))
        return normalize(pixels.to(device), torch.tensor(list(rows)), epoch=0)

    return read


def _draws(table: pd.DataFrame, resamples: int, seed: int) -> Floats:
    if table.empty:
        return np.empty((0, resamples))
    classes, lesions = (pd.factorize(table[name])[0] for name in ("dx", "lesion_id"))
    return draw_lesions(classes, lesions, resamples, seed)


def _interval(values: Floats, draws: Floats) -> dict[str, float]:
    means = values @ draws / draws.sum(axis=0)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def _by_image(table: pd.DataFrame, found: Scores) -> pd.DataFrame:
    columns = ["image_id", "lesion_id", "dx"]
    parts = [table[columns].assign(method=name, **scores) for name, scores in found.items()]
    return pd.concat(parts, ignore_index=True)
