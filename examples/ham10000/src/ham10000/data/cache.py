"""Decoded images on disk: one uint8 array that all processes map, with its index.

A cache is a folder. `cache.json` is its manifest: it names the array, the masks and the index that
belong together, with their SHA-256, and is written last; a folder without it is not a cache. Arrays
are in NumPy's format, so that any tool opens them.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib import format as npy
from numpy.typing import NDArray

from ham10000.data.catalog import DATASETS, HAM10000_INFO
from ham10000.data.descriptions import DatasetInfo
from ham10000.data.metadata import read_table
from ham10000.errors import CacheError, Ham10000Error, MissingDataError

__all__ = [
    "MANIFEST",
    "NAMES",
    "VERSION",
    "Cache",
    "check_cache",
    "check_mapped",
    "is_truncated",
    "open_cache",
    "read_manifest",
]

VERSION = 2
"""Version of the format. `prepare` rebuilds caches of other versions."""

MANIFEST = "cache.json"
NAMES = {
    "images": re.compile(r"images-\d+\.npy"),
    "masks": re.compile(r"masks-\d+\.npy"),
    "index": re.compile(r"index-\d+\.csv"),
}
"""Names of the files of a cache. The number grows with each build."""


@dataclass(frozen=True)
class Cache:
    """An open cache. Only its table is in memory."""

    path: Path
    size: int
    inputs: str
    """Hash of the table and of all image files."""
    table: pd.DataFrame
    """The table as `read_table` returns it; row n belongs to image n."""
    images: NDArray[np.uint8]
    """(N, 3, size, size), mapped."""
    masks: NDArray[np.uint8] | None
    """(N, 1, size, size), 0 or 1, mapped; `None` if prepared without masks."""
    info: DatasetInfo = HAM10000_INFO
    """Description of the data set; of one that is not known only names and classes."""


def check_mapped(path: Path, array: NDArray[np.uint8]) -> None:
    """Check that the file of a mapped array is as long as the map.

    Reading beyond the end of a file that was truncated would end the process with SIGBUS.

    Args:
        path: The folder of the cache.
        array: One of its arrays, as mapped.

    Raises:
        CacheError: The file was truncated.
    """
    if is_truncated(array):
        name = Path(getattr(array, "filename", "")).name
        raise _damaged(path, f"{name} was truncated while it was in use")


def is_truncated(array: NDArray[Any]) -> bool:
    """Return whether the file of a mapped array is shorter than the map."""
    mapped = array.base
    return isinstance(mapped, mmap) and mapped.size() < len(mapped)


def open_cache(path: Path) -> Cache:
    """Map a cache that `prepare` made.

    The index is compared with its checksum; the arrays only with their shape, since reading them
    takes a second per GB: see `check_cache`.

    Raises:
        MissingDataError: There is no cache.
        CacheError: It has another version, or is damaged.
    """
    manifest = _require_manifest(path)
    count, size = manifest["count"], manifest["size"]
    _check_file(path, "index", manifest)
    try:
        info = _described(manifest)
        table = read_table(path / manifest["index"], info)
    except Ham10000Error as error:
        raise _damaged(path, str(error)) from error
    if len(table) != count:
        raise _damaged(path, f"{manifest['index']} has {len(table)} rows, expected {count}")
    images = _map(path, manifest["images"], (count, 3, size, size))
    masks = manifest["masks"] and _map(path, manifest["masks"], (count, 1, size, size))
    return Cache(path, size, manifest["inputs"], table, images, masks, info)


def check_cache(path: Path) -> None:
    """Compare every file of a cache with its checksum.

    This finds a single changed pixel. It reads the arrays once: 1.5 GB for HAM10000 at 224 pixels.

    Raises:
        MissingDataError: There is no cache.
        CacheError: It has another version, or a file of it has changed or can't be read.
    """
    manifest = _require_manifest(path)
    for kind in NAMES:
        if manifest[kind] is not None:
            _check_file(path, kind, manifest)


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Read the manifest of a cache; return `None` if there is none.

    Returns:
        "version", "size", "count", "inputs" and "mask_inputs" (or None), the file names "images",
        "masks" (or None) and "index", and "sha256", the checksum of each of these files. If the
        data set is not HAM10000, also "set", with its "name", "title" and "class_names".

    Raises:
        CacheError: It has another version, or is damaged.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"{MANIFEST} can't be read ({error})") from error
    version = manifest.get("version") if isinstance(manifest, dict) else None
    if type(version) is not int or version != VERSION:
        raise CacheError(
            f"opening the cache {path}: its format has version {version!r}, expected {VERSION}. "
            f"Rebuild it with: ham10000 prepare --out {path}"
        )
    wrong = [key for key, valid in _fields(manifest).items() if not valid]
    if wrong:
        raise _damaged(path, f"{MANIFEST} has no valid {wrong[0]!r}")
    return dict(manifest)


def _fields(manifest: dict[str, Any]) -> dict[str, bool]:
    """Return whether each field of a manifest is there and valid."""
    sums = manifest.get("sha256")
    files = {kind: manifest.get(kind) for kind in NAMES}
    present = [kind for kind, name in files.items() if name is not None]
    return {
        "size": type(size := manifest.get("size")) is int and 1 <= size <= 4096,
        "count": type(count := manifest.get("count")) is int and count >= 1,
        "inputs": isinstance(manifest.get("inputs"), str),
        # No name may refer to a file outside the folder.
        **{
            kind: (kind == "masks" and "masks" in manifest and name is None)
            or (isinstance(name, str) and NAMES[kind].fullmatch(name) is not None)
            for kind, name in files.items()
        },
        "set": "set" not in manifest or _describes(manifest["set"]),
        "sha256": isinstance(sums, dict)
        and all(isinstance(sums.get(kind), str) for kind in present),
    }


def _describes(part: Any) -> bool:
    """Return whether a part of a manifest describes a data set."""
    return (
        isinstance(part, dict)
        and all(isinstance(part.get(key), str) for key in ("name", "title"))
        and isinstance(names := part.get("class_names"), dict)
        and len(names) > 1
        and all(isinstance(name, str) for name in names.values())
    )


def _described(manifest: dict[str, Any]) -> DatasetInfo:
    part = manifest.get("set")
    if part is None:
        return HAM10000_INFO
    known = DATASETS.get(part["name"])
    if known is not None and list(part["class_names"].items()) == list(known.class_names.items()):
        return known
    return DatasetInfo(part["name"], part["title"], part["class_names"], tables=())


def _require_manifest(path: Path) -> dict[str, Any]:
    manifest = read_manifest(path)
    if manifest is None:
        raise MissingDataError(
            f"opening the cache {path}: there is no {MANIFEST} in it. "
            f"Make it with: ham10000 prepare --out {path}"
        )
    return manifest


def _check_file(path: Path, kind: str, manifest: dict[str, Any]) -> None:
    name = manifest[kind]
    try:
        with (path / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise _damaged(path, f"{name} is missing") from error
    except OSError as error:
        raise _damaged(path, f"{name} can't be read ({error})") from error
    if found != manifest["sha256"][kind]:
        raise _damaged(path, f"{name} has changed since it was written (other SHA-256)")


def _map(path: Path, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    try:
        # Mapping a file that is too short fails here, and not at the first access to its end.
        array = npy.open_memmap(path / name, mode="r")
    except FileNotFoundError as error:
        raise _damaged(path, f"{name} is missing") from error
    except Exception as error:  # a damaged header raises whatever tokenize, ast and mmap raise
        raise _damaged(path, f"{name} is cut short or damaged ({error})") from error
    if array.shape != shape or array.dtype != np.uint8 or not array.flags.c_contiguous:
        raise _damaged(path, f"{name} has {array.dtype} {array.shape}, expected uint8 {shape}")
    return array


def _damaged(path: Path, what: str) -> CacheError:
    return CacheError(
        f"opening the cache {path}: {what.rstrip('.')}. "
        f"Rebuild it with: ham10000 prepare --out {path}"
    )
