"""Feature maps of all images from a frozen backbone, stored as one float16 array on disk.

A feature array is a folder with three files. The manifest, `features.json`, is written last. It
holds the recipe fields that determine the maps, and the SHA-256 of `maps.npy` and `index.csv`. A
folder without a manifest is not a feature array.
"""

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor, nn

from ham10000.data import (
    HAM10000_INFO,
    Augment,
    CachedHAM10000,
    find_dataset,
    is_truncated,
    open_cache,
    read_table,
)
from ham10000.errors import (
    ArgumentError,
    CacheError,
    Ham10000Error,
    MissingDataError,
    RecipeError,
    cannot_write,
)
from ham10000.models.factory import build_model
from ham10000.recipe import Recipe
from ham10000.utils import PARTIAL, replacing, with_bar, write_text

__all__ = [
    "FeatureMaps",
    "check_features",
    "extract_features",
    "features_name",
    "hash_weights",
    "open_features",
]

_VERSION = 1
_MANIFEST = "features.json"
_MAPS = "maps.npy"
_INDEX = "index.csv"
_LOCK = ".lock"
_BATCH = 64


@dataclass(frozen=True)
class FeatureMaps:
    """An open feature array. Only its table is in memory."""

    path: Path
    table: pd.DataFrame
    """Metadata table; row n belongs to map n."""
    maps: NDArray[np.float16]
    """Memory-mapped array, (N, C, H, W)."""
    weights: str
    """Hash of the backbone's weights, from `hash_weights`."""
    images: str
    """Hash of the images, `Cache.inputs`."""

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the maps of some rows, (B, C, H, W), float32.

        Raises:
            CacheError: The file was truncated after it was opened.
        """
        if is_truncated(self.maps):
            raise _damaged(self.path, f"{_MAPS} was truncated while it was in use")
        return torch.from_numpy(self.maps[rows]).float()


def features_name(recipe: Recipe) -> str:
    """Return the default name of the folder of a recipe's features.

    Example:
        >>> from ham10000.models import features_name
        >>> from ham10000.recipe import DataRecipe, ModelRecipe, Recipe
        >>> data, model = DataRecipe(size=128), ModelRecipe("timm:resnet18")
        >>> features_name(Recipe("frozen", data=data, model=model))
        'features-timm-resnet18-128'
    """
    name = re.sub(r"[^\w.]+", "-", recipe.model.backbone)
    info = find_dataset(recipe.data.set)
    of = "" if info == HAM10000_INFO else f"{info.name}-"
    return f"features-{of}{name}-{recipe.data.size}"


def extract_features(recipe: Recipe, cache: Path, out: Path, *, check: bool = True) -> FeatureMaps:
    """Compute the feature maps of all images, unless `out` has them already.

    They are recomputed if the array is damaged or belongs to other images. Several processes may
    call this at the same time: one computes the maps, and the others wait.

    Args:
        recipe: Recipe with a pretrained backbone.
        cache: Folder of the images that `ham10000.data.prepare` decoded at the recipe's size.
        out: Folder of the features.
        check: Whether to verify the checksums of an existing array.

    Raises:
        CacheError: `out` has features of another backbone; the message lists the fields that
            differ.
        RecipeError: The backbone has no pretrained weights, or cannot be built.
        ArgumentError: `out` contains other files.
        WriteError: The disk is full or read-only. No incomplete array is left.
    """
    doing = f"extracting features to {out}"
    _check_pretrained(recipe, doing)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    others = [p.name for p in out.iterdir() if not _is_ours(p)]
    if others:
        raise ArgumentError(
            f"{doing}: the folder has {others[0]!r} in it, which is not a feature file. "
            "Choose another folder."
        )
    with FileLock(out / _LOCK):
        backbone = build_model(recipe).network.backbone.eval()
        fields = {**_fields(recipe), "weights_sha256": hash_weights(backbone)}
        images = open_cache(cache).inputs
        try:
            found = open_features(out, recipe)
            manifest = _read_manifest(out)
            _check_fields(manifest["fields"], fields, out)
            if check:
                check_features(out)
            if manifest["images"] == images:
                return found
        except (_DamagedError, MissingDataError):
            pass
        _write(recipe, backbone, cache, out, {"fields": fields, "images": images})
        return open_features(out, recipe)


def open_features(path: Path, recipe: Recipe) -> FeatureMaps:
    """Open a feature array as a memory map.

    Only the shape and dtype of the array are checked, since reading it takes a second per GB. Use
    `check_features` to verify the checksums.

    Args:
        path: Folder of the features.
        recipe: Recipe. The features must be those of its backbone.

    Raises:
        MissingDataError: There are no features.
        CacheError: The features are damaged or from another backbone; the message lists the fields
            that differ.
    """
    manifest = _read_manifest(path)
    fields = _fields(recipe)
    _check_fields({name: manifest["fields"].get(name) for name in fields}, fields, path)
    try:
        table = read_table(path / _INDEX, find_dataset(recipe.data.set))
        maps = npy.open_memmap(path / _MAPS, mode="r")
    except Ham10000Error as error:
        raise _damaged(path, str(error)) from error
    except Exception as error:  # a damaged header raises whatever tokenize, ast and mmap raise
        raise _damaged(path, f"{_MAPS} is missing, cut short or damaged ({error})") from error
    shape = tuple(manifest["shape"])
    if maps.shape != shape or maps.dtype != np.float16 or len(table) != len(maps):
        raise _damaged(path, f"{_MAPS} has {maps.dtype} {maps.shape}, expected float16 {shape}")
    return FeatureMaps(path, table, maps, manifest["fields"]["weights_sha256"], manifest["images"])


def check_features(path: Path) -> None:
    """Verify the checksums of a feature array.

    Args:
        path: Folder of the features.

    Raises:
        MissingDataError: There are no features.
        CacheError: A file has changed or cannot be read.
    """
    for name, expected in _read_manifest(path)["sha256"].items():
        try:
            with (path / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _damaged(path, f"{name} cannot be read ({error})") from error
        if found != expected:
            raise _damaged(path, f"{name} has changed since it was written (other SHA-256)")


class _DamagedError(CacheError):
    """The array must be computed again."""


def _damaged(path: Path, what: str) -> _DamagedError:
    return _DamagedError(
        f"opening the features {path}: {what.rstrip('.')}. Compute them again with: "
        f"ham10000 features RECIPE --out {path}"
    )


def _check_pretrained(recipe: Recipe, doing: str) -> None:
    if not recipe.model.pretrained and recipe.model.weights is None:
        raise RecipeError(
            f"{doing}: {recipe.model.backbone} has no pretrained weights, and a frozen backbone is "
            "not trained. Set model.weights to a file or the name of weights from a package, or "
            "model.pretrained=true."
        )


def _fields(recipe: Recipe) -> dict[str, Any]:
    model = recipe.model
    return {
        **{name: getattr(model, name) for name in ("backbone", "at", "pretrained", "weights")},
        "size": recipe.data.size,
        "mean": list(model.mean),
        "std": list(model.std),
    }


def _check_fields(found: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> None:
    differing = [name for name in expected if found.get(name) != expected[name]]
    if differing:
        texts = [f"{name} {found.get(name)!r} instead of {expected[name]!r}" for name in differing]
        raise CacheError(
            f"opening the features {path}: they are not those of the recipe: they have "
            f"{', '.join(texts)}. Choose another folder with data.features, or remove this one."
        )


def hash_weights(backbone: nn.Module) -> str:
    """Return a SHA-256 of the names and values of a backbone's weights.

    Args:
        backbone: `network.backbone` of a model from `build_model`.
    """
    whole = hashlib.sha256()
    for name, value in backbone.state_dict().items():
        whole.update(name.encode())
        whole.update(value.contiguous().numpy().tobytes())
    return whole.hexdigest()


def _is_ours(path: Path) -> bool:
    return path.name in (_MANIFEST, _MAPS, _INDEX, _LOCK) or path.name.startswith(PARTIAL)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingDataError(
            f"opening the features {path}: there is no {_MANIFEST} in it. Compute them with: "
            f"ham10000 features RECIPE --out {path}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"{_MANIFEST} cannot be read ({error})") from error
    valid = (
        isinstance(manifest, dict)
        and manifest.get("version") == _VERSION
        and isinstance(fields := manifest.get("fields"), dict)
        and isinstance(fields.get("weights_sha256"), str)
        and isinstance(manifest.get("images"), str)
        and isinstance(manifest.get("shape"), list)
        and isinstance(sums := manifest.get("sha256"), dict)
        and set(sums) == {_MAPS, _INDEX}
    )
    if not valid:
        raise _damaged(path, f"{_MANIFEST} is damaged or of another version")
    return dict(manifest)


def _write(
    recipe: Recipe, backbone: nn.Module, cache: Path, out: Path, manifest: Mapping[str, Any]
) -> None:
    data = CachedHAM10000(cache)
    for path in out.iterdir():
        if path.name == _MANIFEST or path.name.startswith(PARTIAL):
            path.unlink()
    index = data.table.to_csv(index=False)
    write_text(out / _INDEX, index)
    shape, digest = _write_maps(recipe, backbone, data, out / _MAPS)
    content = {
        "version": _VERSION,
        **manifest,
        "layout": "NCHW",
        "shape": shape,
        "sha256": {_MAPS: digest, _INDEX: hashlib.sha256(index.encode()).hexdigest()},
        "versions": {name: version(name) for name in ("torch", "timm", "torchvision")},
    }
    write_text(out / _MANIFEST, json.dumps(content, indent=2) + "\n")


@torch.no_grad()
def _write_maps(
    recipe: Recipe, backbone: nn.Module, data: CachedHAM10000, path: Path
) -> tuple[list[int], str]:
    # Written as a stream, not through a memory map: on a full disk, a failed write raises an error
    # that can be handled, while a failed page write kills the process.
    normalize = Augment("none", mean=recipe.model.mean, std=recipe.model.std)
    whole = hashlib.sha256()
    shape: list[int] = []
    batches = [range(a, min(a + _BATCH, len(data))) for a in range(0, len(data), _BATCH)]
    with replacing(path) as file:
        for batch in with_bar(batches, "Extracting features", len(batches)):
            images, _ = data.read(batch)
            maps = backbone(normalize(images, torch.arange(len(images)), 0)).half()
            if not maps.isfinite().all():
                raise RecipeError(
                    f"extracting features of {recipe.model.backbone}: a map has values that "
                    "float16 cannot hold. Choose another backbone or another model.at."
                )
            if not shape:
                shape = [len(data), *maps.shape[1:]]
                header = _header(shape)
                file.write(header)
                whole.update(header)
            values = maps.contiguous().numpy().tobytes()
            file.write(values)
            whole.update(values)
    return shape, whole.hexdigest()


def _header(shape: list[int]) -> bytes:
    buffer = io.BytesIO()
    description = npy.header_data_from_array_1_0(np.empty(0, dtype=np.float16))
    npy.write_array_header_1_0(buffer, {**description, "shape": tuple(shape)})
    return buffer.getvalue()
