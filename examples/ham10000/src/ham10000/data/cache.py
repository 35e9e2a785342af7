"""Decoded images on disk: one uint8 array that all processes map, with its index.

A cache is a folder. `cache.json` names the array, the masks and the index that belong together, and
is written last; a folder without it is not a cache. Arrays are in NumPy's format, so that any tool
opens them.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from ham10000.data.folder import Folder, open_folder
from ham10000.data.images import decode_image, decode_mask, read_bytes, resize
from ham10000.data.metadata import read_table
from ham10000.errors import ArgumentError, CacheError, Ham10000Error, MissingDataError, cannot_write
from ham10000.utils import PARTIAL, in_order, replacing, write_text

__all__ = ["MANIFEST", "VERSION", "Cache", "Prepared", "open_cache", "prepare", "read_manifest"]

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


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did."""

    cache: Cache
    built: bool
    """Whether it decoded anything; otherwise the cache was there and up to date."""


def prepare(
    root: Path, out: Path, size: int, *, masks: bool = False, workers: int | None = None
) -> Prepared:
    """Make a cache of all images of a data set, or find that it is up to date.

    What went in is known by a hash of the table and of every file. A cache of the same inputs is
    left alone, another is replaced, and until the new one is whole the old one stays. Several
    processes may call this at once: one builds, the others wait.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.data import prepare
        >>> from ham10000.data import synthesize
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     synthesize(Path(folder) / "set", images=20, seed=0, width=60)
        ...     first = prepare(Path(folder) / "set", Path(folder) / "cache", size=32)
        ...     again = prepare(Path(folder) / "set", Path(folder) / "cache", size=32)
        >>> first.built, again.built, first.cache.images.shape
        (True, False, (20, 3, 32, 32))

    Args:
        root: the data set's folder.
        out: the cache's folder.
        size: in pixels; images become size x size.
        masks: put the lesion masks in too.
        workers: how many threads; as many as there are cores unless given.

    Raises:
        ArgumentError: the size can't be, or `out` is a folder of something else.
        Ham10000Error: an image is missing or damaged; the message names it, nothing is written.
        WriteError: the disk is full, or may not be written to; nothing half-written is left.
    """
    if size < 1 or size > 4096:
        raise ArgumentError(f"preparing: size must be between 1 and 4096 pixels, found {size}.")
    folder = open_folder(root)
    paths = folder.paths()
    mask_paths = folder.mask_paths() if masks else []
    _make_place(out)
    with FileLock(out / ".lock"):
        found = _up_to_date(out, folder, paths + mask_paths, size, masks, workers)
        if found is not None:
            return Prepared(found, built=False)
        _clear(out, keep=None, unfinished_only=True)
        _build(out, folder, paths, mask_paths, size, workers)
        return Prepared(open_cache(out), built=True)


def _make_place(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ArgumentError(f"preparing {out}: it is a file. Choose a folder for the cache.")
    if out.is_dir() and not (out / MANIFEST).exists():
        others = [path.name for path in out.iterdir() if not _is_ours(path)]
        if others:
            raise ArgumentError(
                f"preparing {out}: it holds {others[0]!r} and is no cache. Choose another folder."
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error


def _is_ours(path: Path) -> bool:
    return path.name == ".lock" or path.name.startswith((PARTIAL, "images-", "masks-", "index-"))


def _up_to_date(
    out: Path, folder: Folder, paths: list[Path], size: int, masks: bool, workers: int | None
) -> Cache | None:
    try:
        manifest = read_manifest(out)
        if manifest is None or manifest["size"] != size or bool(manifest["masks"]) != masks:
            return None
        cache = open_cache(out)
    except CacheError:
        return None  # another version, or damaged: made anew

    def job(path: Path) -> bytes:
        return hashlib.sha256(read_bytes(path)).digest()

    digests = in_order(job, paths, "Looking whether anything changed", workers)
    return cache if _hash_inputs(folder, size, digests) == cache.inputs else None


def _hash_inputs(folder: Folder, size: int, digests: Iterable[bytes]) -> str:
    whole = hashlib.sha256(f"{VERSION} {size}\n".encode())
    whole.update(folder.table.to_csv(index=False).encode())
    for digest in digests:
        whole.update(digest)
    return whole.hexdigest()


def _build(
    out: Path,
    folder: Folder,
    paths: list[Path],
    mask_paths: list[Path],
    size: int,
    workers: int | None,
) -> None:
    digests: list[bytes] = []

    def image(path: Path) -> tuple[bytes, Tensor]:
        raw = read_bytes(path)
        return hashlib.sha256(raw).digest(), resize(decode_image(raw, path), size)

    def mask(path: Path) -> tuple[bytes, Tensor]:
        raw = read_bytes(path)
        return hashlib.sha256(raw).digest(), resize(decode_mask(raw, path), size, mask=True)

    # The names are settled before what went in is known, so they count up instead: readers keep
    # the files that they have mapped, and the manifest switches from one set to the next.
    number = 1 + max((int(path.stem.split("-")[1]) for path in out.glob("index-*.csv")), default=0)
    names = {"images": f"images-{number}.npy", "masks": None, "index": f"index-{number}.csv"}
    try:
        decoded = in_order(image, paths, "Decoding and resizing", workers)
        digests += _write_array(out / f"images-{number}.npy", decoded, (len(paths), 3, size, size))
        if mask_paths:
            names["masks"] = f"masks-{number}.npy"
            decoded = in_order(mask, mask_paths, "Decoding the masks", workers)
            digests += _write_array(
                out / f"masks-{number}.npy", decoded, (len(mask_paths), 1, size, size)
            )
        write_text(out / f"index-{number}.csv", folder.table.to_csv(index=False))
        manifest = {
            "version": VERSION,
            "size": size,
            "count": len(paths),
            "inputs": _hash_inputs(folder, size, digests),
            **names,
        }
        write_text(out / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    except BaseException:
        for name in (f"images-{number}.npy", f"masks-{number}.npy", f"index-{number}.csv"):
            (out / name).unlink(missing_ok=True)
        raise
    _clear(out, keep=number, unfinished_only=False)


def _write_array(
    path: Path, items: Iterable[tuple[bytes, Tensor]], shape: tuple[int, ...]
) -> list[bytes]:
    # Written as a stream and not through a map: on a full disk a write is an error that can be
    # handled, while a page that can't be stored ends the process.
    digests: list[bytes] = []
    with replacing(path) as file:
        header = npy.header_data_from_array_1_0(np.empty(0, dtype=np.uint8))
        npy.write_array_header_1_0(file, {**header, "shape": shape})
        for digest, image in items:
            digests.append(digest)
            file.write(image.contiguous().numpy().data)
    return digests


def _clear(out: Path, keep: int | None, *, unfinished_only: bool) -> None:
    for path in out.iterdir():
        old = path.name.startswith(("images-", "masks-", "index-"))
        if keep is not None and old and path.stem.split("-")[1] == str(keep):
            continue
        if path.name.startswith(PARTIAL) or (old and not unfinished_only):
            path.unlink(missing_ok=True)
