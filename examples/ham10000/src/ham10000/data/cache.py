"""Decoded images on disk: one uint8 array that all processes map, with its index.

A cache is a folder. `cache.json` names the array, the masks and the index that belong together, and
is the last thing that is written; a folder without it is no cache. An array has NumPy's format, so
that any tool opens it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ham10000.data.table import read_table
from ham10000.errors import CacheError, Ham10000Error, MissingDataError

__all__ = ["MANIFEST", "VERSION", "Cache", "open_cache", "read_manifest"]

VERSION = 1
"""Of the format; a cache of another version is made anew."""

MANIFEST = "cache.json"
_KEYS = ("version", "size", "count", "inputs", "images", "masks", "index")


@dataclass(frozen=True)
class Cache:
    """An open cache; nothing of it is in memory but the table."""

    path: Path
    size: int
    inputs: str
    """A hash of the table and of all files that went in."""
    table: pd.DataFrame
    """As `read_table` gives it; row n belongs to image n."""
    images: NDArray[np.uint8]
    """(N, 3, size, size), mapped."""
    masks: NDArray[np.uint8] | None
    """(N, 1, size, size), 0 or 1, mapped; `None` if prepared without."""


def open_cache(path: Path) -> Cache:
    """Map a cache that `prepare` made.

    Raises:
        MissingDataError: there is none.
        CacheError: it is of another version, or a file of it is cut short.
    """
    manifest = read_manifest(path)
    if manifest is None:
        raise MissingDataError(
            f"opening the cache {path}: there is no {MANIFEST} in it. "
            f"Make it with: ham10000 prepare --out {path}"
        )
    count, size = int(manifest["count"]), int(manifest["size"])
    try:
        table = read_table(path / manifest["index"])
    except Ham10000Error as error:
        raise _broken(path, str(error)) from error
    if len(table) != count:
        raise _broken(path, f"{manifest['index']} has {len(table)} rows, expected {count}")
    images = _map(path, manifest["images"], (count, 3, size, size))
    masks = manifest["masks"] and _map(path, manifest["masks"], (count, 1, size, size))
    return Cache(path, size, manifest["inputs"], table, images, masks)


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Read which files make up a cache; `None` if there is none.

    Raises:
        CacheError: it is of another version, or damaged.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _broken(path, f"{MANIFEST} can't be read ({error})") from error
    version = manifest.get("version") if isinstance(manifest, dict) else None
    if version != VERSION:
        raise CacheError(
            f"opening the cache {path}: its format is version {version!r}, and this is version "
            f"{VERSION}. Make it again with: ham10000 prepare --out {path}"
        )
    missing = [key for key in _KEYS if key not in manifest]
    if missing:
        raise _broken(path, f"{MANIFEST} lacks {missing[0]!r}")
    return dict(manifest)


def _map(path: Path, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    try:
        # Mapping a file that is too short fails here, not at the first read of what is not there.
        array: NDArray[np.uint8] = np.load(path / name, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise _broken(path, f"{name} is missing") from error
    except (OSError, ValueError, EOFError) as error:
        raise _broken(path, f"{name} is cut short or damaged ({error})") from error
    if array.shape != shape or array.dtype != np.uint8:
        raise _broken(path, f"{name} holds {array.dtype} {array.shape}, expected uint8 {shape}")
    return array


def _broken(path: Path, what: str) -> CacheError:
    return CacheError(
        f"opening the cache {path}: {what.rstrip('.')}. "
        f"Remove it, and make it again with: ham10000 prepare --out {path}"
    )
