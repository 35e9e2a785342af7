"""Evaluate the saliency maps of a run's model: localization and faithfulness of each method.

Confidence intervals are for means over images, from bootstrap resamples of lesions, as for the
metrics. Differences are attention minus another method on the same resamples, so they are paired.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from softattn import SoftAttention
from torch import Tensor, nn

from ham10000.data import HAM10000, Augment, data_folder, open_folder, read_mask, resize
from ham10000.errors import MissingDataError, some
from ham10000.evaluation import RESAMPLES, draw_lesions
from ham10000.models import LateFusion, LesionClassifier
from ham10000.saliency.methods import (
    attention_maps,
    feature_size,
    gaussian_map,
    grad_cam_maps,
    random_maps,
)
from ham10000.saliency.scores import (
    CURVES,
    SCORES,
    Floats,
    Scores,
    curve_area,
    faithfulness_curves,
    localization_scores,
    map_statistics,
    rank_positions,
    with_intervals,
)
from ham10000.training import Run
from ham10000.utils import write_text

__all__ = [
    "LOCALIZATION_CSV",
    "LOCALIZATION_JSON",
    "METHODS",
    "Masks",
    "Scores",
    "evaluate_saliency",
    "image_network",
    "image_reader",
    "measure_faithfulness",
    "measure_localization",
    "measure_maps",
    "read_masks",
    "write_saliency",
]

METHODS = ("attention", "grad_cam", "gaussian", "random")
"""Saliency methods: the sum of the attention maps, Grad-CAM of the predicted class at the same
feature map, a centred Gaussian, and noise at the resolution of the feature map."""

LOCALIZATION_JSON = "localisation.json"
"""File name of the scores in the folder `evaluation` of a run."""

LOCALIZATION_CSV = "localisation.csv"
"""File name of the scores of each image."""

ReadImages: TypeAlias = Callable[[Sequence[int]], Tensor]
"""Function from image indices to images, (B, 3, S, S), normalized."""


class Masks(NamedTuple):
    """Lesion masks of a list of images."""

    masks: Tensor
    """(M, S, S), True on the lesion."""
    kept: list[int]
    """Indices of the images that the masks belong to."""
    missing: int
    """Number of images without a mask."""
    empty: int
    """Number of images with an empty mask."""


def read_masks(paths: Mapping[str, Path], image_ids: Sequence[str], size: int) -> Masks:
    """Read the masks of images, and count the images without a usable mask.

    Args:
        paths: Mask files by image_id; `masks` of `open_folder`.
        image_ids: The images.
        size: Masks are resized to size x size.

    Raises:
        MissingDataError: No image has a mask.
        DataError: A mask cannot be decoded; the message names the file.
    """
    there = [row for row, name in enumerate(image_ids) if name in paths]
    read = [resize(read_mask(paths[image_ids[row]]), size, mask=True)[0].bool() for row in there]
    marked = [place for place, mask in enumerate(read) if mask.any()]
    if not marked:
        raise MissingDataError(
            f"reading masks: none of the {len(image_ids)} images has a mask that is not empty "
            f"({some(image_ids)}). Download masks with: ham10000 download --parts masks --out DIR"
        )
    masks = torch.stack([read[place] for place in marked])
    kept = [there[place] for place in marked]
    return Masks(masks, kept, len(image_ids) - len(there), len(there) - len(marked))


class _WithUnknownMetadata(nn.Module):
    def __init__(self, model: LesionClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, return_maps: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        unknown = x.new_zeros(len(x), self.model.metadata_features)
        found: Tensor | tuple[Tensor, Tensor] = self.model(x, unknown, return_maps)
        return found


def image_network(model: nn.Module) -> nn.Module:
    """Return a model that takes the image alone.

    Metadata whose logits are added (`model.fusion` late) does not change the maps, so it is left
    out. With another fusion, age, sex and site of every lesion are unknown to the model.

    Args:
        model: From `Run.load_model`, or any model that takes images alone.
    """
    if not isinstance(model, LesionClassifier):
        return model
    late = model.metadata is None or isinstance(model.metadata, LateFusion)
    return model.network if late else _WithUnknownMetadata(model).train(model.training)


def image_reader(
    run: Run, images: HAM10000, device: torch.device | str = "cpu"
) -> Callable[[Sequence[int]], Tensor]:
    """Return a function that reads images by index, normalized for the model of a run."""
    normalize = Augment("none", mean=run.recipe.model.mean, std=run.recipe.model.std)

    def read(rows: Sequence[int]) -> Tensor:
        pixels, *_ = images.read(list(rows))
        return normalize(pixels.to(device), torch.tensor(list(rows)), epoch=0)

    return read


def evaluate_saliency(
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
    """Evaluate the saliency methods on a run's model, against the lesion masks.

    Args:
        run: From `open_run`.
        split: "train", "val" or "test".
        data: Folder of the data set, for the masks; default: the recipe's.
        faithful: Number of randomly drawn images for deletion and insertion. Each takes
            2 (`steps` + 1) forward passes for each method.
        steps: Number of points of their curves.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resamples and of the random maps.
        device: Where the model runs.

    Returns:
        The mean scores with confidence intervals, ready for JSON, and the scores of each image and
        method.

    Raises:
        MissingDataError: No image has a mask, or a part of the run is missing.
    """
    weights = run.weights_hash
    images = run.dataset(split)
    size = run.recipe.data.size
    table = images.table
    root = data_folder(data if data is not None else run.recipe.data.root)
    folder = open_folder(root, run.info)
    masks = read_masks(folder.masks, table["image_id"].tolist(), size)
    model = run.load_model(device)
    methods = [name for name in METHODS if name != "attention" or model.has_attention]
    network, read = image_network(model), image_reader(run, images, device)
    kept = table.iloc[masks.kept].reset_index(drop=True)
    found = measure_localization(network, read, masks.kept, masks.masks, methods=methods, seed=seed)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(kept))[:faithful])
    rows = [masks.kept[place] for place in chosen]
    curves: Scores = {}
    if rows:
        curves = measure_faithfulness(network, read, rows, methods=methods, steps=steps, seed=seed)
    areas = {
        method: {name: curve_area(values) for name, values in scores.items()}
        for method, scores in curves.items()
    }
    maps, statistics = {}, {}
    if model.has_attention:
        statistics = measure_maps(network, read, masks.kept)
        found_maps = with_intervals({"attention": statistics}, _resample(kept, resamples, seed))
        maps = {"statistics": found_maps["methods"]["attention"], "gamma": _gamma(network)}
    summary: dict[str, Any] = {
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
        "maps": maps,
        "localisation": with_intervals(found, _resample(kept, resamples, seed)),
        "faithfulness": {
            "images": len(rows),
            "steps": steps,
            **with_intervals(areas, _resample(kept.iloc[chosen], resamples, seed)),
            "curves": {
                method: {name: values.mean(axis=0).tolist() for name, values in scores.items()}
                for method, scores in curves.items()
            },
        },
    }
    return summary, _by_image(kept, found, statistics, chosen, areas)


def write_saliency(summary: Mapping[str, Any], images: pd.DataFrame, out: Path) -> None:
    """Write the results of `evaluate_saliency` as `LOCALIZATION_JSON` and `LOCALIZATION_CSV`.

    Raises:
        WriteError: A file cannot be written.
    """
    table = images.to_csv(index=False, lineterminator="\n", float_format="%.6g")
    write_text(out / LOCALIZATION_CSV, table)
    write_text(out / LOCALIZATION_JSON, json.dumps(summary, indent=2) + "\n")


def measure_localization(
    model: nn.Module,
    read: ReadImages,
    rows: Sequence[int],
    masks: Tensor,
    *,
    methods: Sequence[str] = METHODS,
    batch_size: int = 32,
    seed: int = 0,
) -> Scores:
    """Compute the localization scores of each method.

    Args:
        model: In eval mode, takes the image alone; see `image_network`.
        read: Reads images by index.
        rows: Image indices.
        masks: (M, S, S), the masks of these images.
        methods: Some of `METHODS`; "attention" needs a model with attention.
        batch_size: Number of images in a batch.
        seed: Seed of the random maps.

    Returns:
        (M,) for each method and each of `SCORES`.
    """
    rng = np.random.default_rng(seed)
    found = _empty(methods, SCORES)
    for start in range(0, len(rows), batch_size):
        part = slice(start, start + batch_size)
        images = read(rows[part])
        classes = _predicted(model, images)
        for method, maps in _maps(model, images, classes, methods, rng).items():
            for score, values in localization_scores(maps, masks[part]).items():
                found[method][score].append(values)
    return _joined(found)


def measure_maps(
    model: nn.Module, read: ReadImages, rows: Sequence[int], *, batch_size: int = 32
) -> dict[str, Floats]:
    """Compute statistics of the attention maps, (M,) for each of `STATISTICS`.

    Args:
        model: In eval mode, with attention, takes the image alone; see `image_network`.
        read: Reads images by index.
        rows: Image indices.
        batch_size: Number of images in a batch.
    """
    parts = []
    for start in range(0, len(rows), batch_size):
        with torch.inference_mode():
            parts.append(model(read(rows[start : start + batch_size]), return_maps=True)[1].cpu())
    return map_statistics(torch.cat(parts))


def measure_faithfulness(
    model: nn.Module,
    read: ReadImages,
    rows: Sequence[int],
    *,
    methods: Sequence[str] = METHODS,
    steps: int = 20,
    batch_size: int = 32,
    seed: int = 0,
) -> Scores:
    """Compute the deletion and insertion curves of each method.

    Args:
        model: In eval mode, takes the image alone; see `image_network`.
        read: Reads images by index.
        rows: Image indices.
        methods: Some of `METHODS`.
        steps: Number of points of a curve after the first.
        batch_size: Number of images in a batch.
        seed: Seed of the random maps and of the order of ties.

    Returns:
        (M, steps + 1) for each method and each of `CURVES`.
    """
    rng = np.random.default_rng(seed)
    found = _empty(methods, CURVES)
    for start in range(0, len(rows), batch_size):
        images = read(rows[start : start + batch_size])
        classes = _predicted(model, images)
        for method, maps in _maps(model, images, classes, methods, rng).items():
            ranks = rank_positions(maps, (images.shape[2], images.shape[3]), rng)
            for curve, values in faithfulness_curves(model, images, classes, ranks, steps).items():
                found[method][curve].append(values)
    return _joined(found)


@torch.inference_mode()
def _predicted(model: nn.Module, images: Tensor) -> Tensor:
    classes: Tensor = model(images).argmax(dim=1)
    return classes


def _maps(
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    methods: Sequence[str],
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    size = feature_size(model, images[0])
    middle = gaussian_map((images.shape[2], images.shape[3]))
    make: dict[str, Callable[[], Tensor]] = {
        "attention": lambda: attention_maps(model, images),
        "grad_cam": lambda: grad_cam_maps(model, images, classes),
        "gaussian": lambda: middle.expand(len(images), *middle.shape),
        "random": lambda: random_maps(len(images), size, rng),
    }
    return {method: make[method]() for method in methods}


def _empty(methods: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, list[Floats]]]:
    return {method: {name: [] for name in names} for method in methods}


def _joined(found: dict[str, dict[str, list[Floats]]]) -> Scores:
    return {
        method: {name: np.concatenate(parts) for name, parts in scores.items()}
        for method, scores in found.items()
    }


def _resample(table: pd.DataFrame, resamples: int, seed: int) -> Floats:
    if table.empty:
        return np.empty((0, resamples))
    classes, lesions = (pd.factorize(table[name], sort=True)[0] for name in ("dx", "lesion_id"))
    return draw_lesions(classes, lesions, resamples, seed)


def _gamma(model: nn.Module) -> dict[str, float] | None:
    for module in model.modules():
        if isinstance(module, SoftAttention) and module.gamma is not None:
            assert module.initial_gamma is not None
            return {"initial": module.initial_gamma, "trained": module.gamma.item()}
    return None


def _by_image(
    table: pd.DataFrame,
    found: Scores,
    maps: Mapping[str, Floats],
    chosen: npt.NDArray[np.int64],
    areas: Scores,
) -> pd.DataFrame:
    columns, parts = ["image_id", "lesion_id", "dx"], []
    for name, scores in found.items():
        own = maps if name == "attention" else {}
        part = table[columns].assign(method=name, **scores, **own)
        for curve, values in areas.get(name, {}).items():
            part.loc[chosen, curve] = values  # NaN for the other images
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
