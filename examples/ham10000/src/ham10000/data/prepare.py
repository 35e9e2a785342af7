"""Decode and resize every image once, into a cache that training maps."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.lib import format as npy
from torch import Tensor

from ham10000.data.cache import (
    MANIFEST,
    NAMES,
    VERSION,
    Cache,
    check_cache,
    open_cache,
    read_manifest,
)
from ham10000.data.catalog import HAM10000_INFO
from ham10000.data.descriptions import DatasetInfo
from ham10000.data.folder import Folder, open_folder
from ham10000.data.images import decode_image, decode_mask, read_bytes, resize
from ham10000.errors import ArgumentError, CacheError, cannot_write
from ham10000.utils import PARTIAL, in_order, replacing, write_text

__all__ = ["Prepared", "prepare"]

_LOCK = ".lock"


@dataclass(frozen=True)
class Prepared:
    """The result of `prepare`."""

    cache: Cache
    built: bool
    """Whether images were decoded; otherwise the cache was up to date."""


def prepare(
    root: Path,
    out: Path,
    size: int,
    *,
    masks: bool | None = False,
    workers: int | None = None,
    check: bool = True,
    info: DatasetInfo = HAM10000_INFO,
) -> Prepared:
    """Make a cache of all images of a data set, unless there is one that is up to date.

    A cache is up to date if the table and every file still have the hash that it was made from,
    and its own files have the checksums in its manifest. Otherwise, also if it is damaged, it is
    rebuilt; the old one is removed once the new one is complete. Several processes may call this at
    once: one builds, the others wait.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.data import prepare, synthesize
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     synthesize(Path(folder) / "set", images=20, seed=0, width=60)
        ...     first = prepare(Path(folder) / "set", Path(folder) / "cache", size=32)
        ...     again = prepare(Path(folder) / "set", Path(folder) / "cache", size=32)
        >>> first.built, again.built, first.cache.images.shape
        (True, False, (20, 3, 32, 32))

    Args:
        root: The data set's folder.
        out: The cache's folder.
        size: In pixels; images become size x size.
        masks: Include the lesion masks; with `None`, if an existing cache has them.
        workers: Number of threads; the number of cores by default.
        check: Compare the arrays of an existing cache with their checksums: `check_cache`.
        info: Description of the data set.

    Raises:
        ArgumentError: The size is out of range, or `out` is a folder of something else.
        Ham10000Error: An image is missing or damaged; the message names it, nothing is written.
        WriteError: The disk is full or read-only; no incomplete file is left.
    """
    if size < 1 or size > 4096:
        raise ArgumentError(f"preparing: size must be between 1 and 4096 pixels, found {size}.")
    folder = open_folder(root, info)
    paths = folder.paths()
    wanted = _has_masks(out) if masks is None else masks
    mask_paths = folder.mask_paths() if wanted else []
    _make_place(out)
    with _locked(out):
        found = _up_to_date(out, folder, paths, mask_paths, size, workers, check)
        if found is not None:
            return Prepared(found, built=False)
        _clear(out, keep=None, unfinished_only=True)
        _build(out, folder, paths, mask_paths, size, workers)
        return Prepared(open_cache(out), built=True)


def _has_masks(out: Path) -> bool:
    try:
        manifest = read_manifest(out)
    except CacheError:
        return False  # it is rebuilt
    return bool(manifest and manifest["masks"])


def _make_place(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ArgumentError(f"preparing {out}: it is a file. Choose a folder for the cache.")
    if out.is_dir() and not (out / MANIFEST).exists():
        others = [path.name for path in out.iterdir() if not _is_ours(path)]
        if others:
            raise ArgumentError(
                f"preparing {out}: it has {others[0]!r} in it and is not a cache. Choose another "
                "folder."
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    lock = FileLock(out / _LOCK)
    try:
        lock.acquire()
    except OSError as error:
        raise cannot_write(out / _LOCK, error) from error
    try:
        yield
    finally:
        lock.release()


def _is_ours(path: Path) -> bool:
    return path.name == _LOCK or path.name.startswith(PARTIAL) or _number(path) is not None


def _number(path: Path) -> int | None:
    """Return the number in the name of a cache's array or index."""
    if not any(pattern.fullmatch(path.name) for pattern in NAMES.values()):
        return None
    return int(path.stem.split("-")[1])


def _up_to_date(
    out: Path,
    folder: Folder,
    paths: list[Path],
    mask_paths: list[Path],
    size: int,
    workers: int | None,
    check: bool,
) -> Cache | None:
    try:
        manifest = read_manifest(out)
        masks = bool(mask_paths)
        if manifest is None or manifest["size"] != size or bool(manifest["masks"]) != masks:
            return None
        if manifest.get("set") != _describe(folder.info).get("set"):
            return None
        cache = open_cache(out)
        if check:
            check_cache(out)
    except CacheError:
        return None  # rebuilt if it has another version or is damaged

    def job(path: Path) -> bytes:
        return hashlib.sha256(read_bytes(path)).digest()

    everything = [*paths, *mask_paths]
    digests = list(in_order(job, everything, "Comparing the files with the cache", workers))
    of_images, of_masks = digests[: len(paths)], digests[len(paths) :]
    same_images = _hash_inputs(folder, size, of_images) == cache.inputs
    same_masks = _hash_masks(of_masks) == manifest.get("mask_inputs")
    return cache if same_images and same_masks else None


def _hash_masks(digests: Sequence[bytes]) -> str | None:
    """Return a hash of the mask files. It is not part of that of the images, which train a run."""
    return hashlib.sha256(b"".join(digests)).hexdigest() if digests else None


def _hash_inputs(folder: Folder, size: int, digests: Iterable[bytes]) -> str:
    whole = hashlib.sha256(f"{VERSION} {size}\n".encode())
    if folder.info != HAM10000_INFO:  # its classes in order, and not how they are displayed
        whole.update(json.dumps([folder.info.name, *folder.info.classes]).encode())
    whole.update(folder.table.to_csv(index=False).encode())
    for digest in digests:
        whole.update(digest)
    return whole.hexdigest()


def _describe(info: DatasetInfo) -> dict[str, Any]:
    """Return what the manifest says about the data set: nothing for HAM10000."""
    if info == HAM10000_INFO:
        return {}
    names = dict(info.class_names)
    return {"set": {"name": info.name, "title": info.title, "class_names": names}}


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

    # New files get a new number, so that readers keep those that they have mapped, and the manifest
    # switches from one set to the next.
    number = 1 + max((_number(path) or 0 for path in out.iterdir()), default=0)
    names = {"images": f"images-{number}.npy", "masks": None, "index": f"index-{number}.csv"}
    sums: dict[str, str] = {}
    try:
        decoded = in_order(image, paths, "Decoding and resizing", workers)
        sums["images"] = _write_array(
            out / f"images-{number}.npy", decoded, (len(paths), 3, size, size), digests
        )
        if mask_paths:
            names["masks"] = f"masks-{number}.npy"
            decoded = in_order(mask, mask_paths, "Decoding the masks", workers)
            sums["masks"] = _write_array(
                out / f"masks-{number}.npy", decoded, (len(mask_paths), 1, size, size), digests
            )
        index = folder.table.to_csv(index=False)
        sums["index"] = hashlib.sha256(index.encode()).hexdigest()
        write_text(out / f"index-{number}.csv", index)
        manifest = {
            "version": VERSION,
            "size": size,
            "count": len(paths),
            "inputs": _hash_inputs(folder, size, digests[: len(paths)]),
            "mask_inputs": _hash_masks(digests[len(paths) :]),
            **names,
            **_describe(folder.info),
            "sha256": sums,
        }
        write_text(out / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    except BaseException:
        for name in (f"images-{number}.npy", f"masks-{number}.npy", f"index-{number}.csv"):
            (out / name).unlink(missing_ok=True)
        raise
    _clear(out, keep=number, unfinished_only=False)


def _write_array(
    path: Path,
    items: Iterable[tuple[bytes, Tensor]],
    shape: tuple[int, ...],
    digests: list[bytes],
) -> str:
    """Write images as an array, append the digest of each, and return the file's SHA-256."""
    # Written as a stream and not through a map: on a full disk a write is an error that can be
    # handled, while a page that can't be stored ends the process.
    whole = hashlib.sha256()
    header = io.BytesIO()
    description = npy.header_data_from_array_1_0(np.empty(0, dtype=np.uint8))
    npy.write_array_header_1_0(header, {**description, "shape": shape})
    with replacing(path) as file:
        file.write(header.getvalue())
        whole.update(header.getvalue())
        for digest, image in items:
            digests.append(digest)
            pixels = image.contiguous().numpy().data
            file.write(pixels)
            whole.update(pixels)
    return whole.hexdigest()


def _clear(out: Path, keep: int | None, *, unfinished_only: bool) -> None:
    for path in out.iterdir():
        number = _number(path)
        old = number is not None and number != keep and not unfinished_only
        if old or path.name.startswith(PARTIAL):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise cannot_write(path, error) from error
