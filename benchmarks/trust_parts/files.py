"""Damaged files of a model, a recipe, predictions, a split, a cache and checkpoints."""

import json
import random
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ham10000.data import CLASSES, check_cache, open_cache, read_split, read_table
from ham10000.evaluation import read_predictions
from ham10000.recipe import dump_recipe, load_recipe, save_recipe
from ham10000.training import RunDir
from ham10000.training.checkpoint_file import read_checkpoint, write_checkpoint

from softattn import wrap_backbone
from softattn.hub import from_pretrained, save_pretrained

from . import runs
from .campaign import WrongResultError

METADATA = "HAM10000_metadata.csv"
MEMORY = 8 * 2**30
"""Bytes that a reader may allocate."""


@dataclass(frozen=True)
class Target:
    """A folder that is read, with the files in it that may be damaged."""

    folder: Path
    files: tuple[str, ...]
    read: Callable[[Path], Any]
    """Return the content of the folder in a form that can be compared."""
    content: Any
    """What the undamaged folder holds."""
    sealed: bool = True
    """Whether a checksum covers all content, so that no change may pass."""


def prepare(folder: Path) -> list[Target]:
    """Write all files once."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_used() + MEMORY, most))
    whole = runs.prepare(folder)
    run = RunDir(folder / "whole")
    cache = folder / "cache"
    manifest = json.loads((cache / "cache.json").read_text())
    model = folder / "model"
    save_pretrained(wrap_backbone("test_resnet", num_classes=7, input_size=64), model)
    sources = {
        "predictions": run.predictions(),
        "split": run.split,
        "table": folder / "data" / METADATA,
    }
    for name, source in sources.items():
        (folder / name).mkdir()
        shutil.copy(source, folder / name)
    (folder / "recipe").mkdir()
    save_recipe(whole.recipe, folder / "recipe" / "recipe.yaml")
    checkpoint = run.step_checkpoints()[0]
    (folder / "checkpoint").mkdir()
    shutil.copy(checkpoint, folder / "checkpoint" / "step.pt")
    plain = folder / "small"
    plain.mkdir()
    write_checkpoint(plain / "step.pt", {"step": 3, "model": {"weight": torch.ones(4)}})
    table = read_table(folder / "data" / METADATA)
    split, predictions = run.split.name, run.predictions().name

    def read_whole_cache(path: Path) -> Any:
        check_cache(path)
        opened = open_cache(path)
        return opened.table, torch.from_numpy(opened.images[:].copy()), opened.size

    def read_fast(path: Path) -> Any:
        opened = open_cache(path)
        return opened.table, opened.images.shape, opened.size

    arrays = (manifest["images"], manifest["index"])
    named = {
        "config": (model, ("config.json",), _read_model, False),
        "weights": (model, ("model.safetensors",), _read_model, False),
        "recipe": (folder / "recipe", ("recipe.yaml",), _read_recipe, False),
        "predictions": (folder / "predictions", (predictions,), _reader(predictions), False),
        "split": (
            folder / "split",
            (split,),
            lambda path: _checked_split(read_split(path / split, table)),
            False,
        ),
        "table": (folder / "table", (METADATA,), lambda path: read_table(path / METADATA), False),
        "manifest": (cache, ("cache.json",), read_whole_cache, False),
        "arrays": (cache, arrays, read_whole_cache, True),
        "opened": (cache, arrays, read_fast, True),
        "checkpoint": (folder / "checkpoint", ("step.pt",), _read_checkpoint, True),
        "small": (plain, ("step.pt",), _read_checkpoint, True),
    }
    return [
        Target(path, names, read, _content(read, path), sealed)
        for path, names, read, sealed in named.values()
    ]


def case(targets: list[Target], rng: random.Random) -> None:
    """Damage a file of a copy, and read it."""
    target = rng.choice(targets)
    copy = target.folder.with_name(f"{target.folder.name}-damaged")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(target.folder, copy)
    path = copy / rng.choice(target.files)
    raw = path.read_bytes()
    changed = _damage(raw, rng, path.suffix)
    path.write_bytes(changed)
    content = target.read(copy)
    if target.sealed and not same(content, target.content):
        raise WrongResultError(f"{path.name} is damaged, and is read with other content")


def _content(read: Callable[[Path], Any], path: Path) -> Any:
    try:
        return read(path)
    except Exception as error:
        raise RuntimeError(f"the undamaged {path.name} cannot be read: {error}") from error


def _damage(raw: bytes, rng: random.Random, suffix: str) -> bytes:
    kinds = [_flip, _flip, _cut, _delete, _insert, _overwrite]
    if suffix == ".json":
        kinds += [_edit_json] * 6
    if suffix in (".csv", ".yaml"):
        kinds += [_edit_text] * 6
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        raw = rng.choice(kinds)(raw, rng)
    return raw


def _place(raw: bytes, rng: random.Random) -> int:
    # Headers are small, so half of the places are near an end.
    near = min(len(raw), 300)
    return rng.choice(
        (
            rng.randrange(len(raw) + 1),
            rng.randrange(near + 1),
            len(raw) - rng.randrange(near + 1),
        )
    )


def _flip(raw: bytes, rng: random.Random) -> bytes:
    at = _place(raw, rng)
    if at >= len(raw):
        return raw
    return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]


def _cut(raw: bytes, rng: random.Random) -> bytes:
    return raw[: _place(raw, rng)]


def _delete(raw: bytes, rng: random.Random) -> bytes:
    at = _place(raw, rng)
    return raw[:at] + raw[at + rng.randint(1, 20) :]


def _insert(raw: bytes, rng: random.Random) -> bytes:
    at = _place(raw, rng)
    return raw[:at] + rng.randbytes(rng.randint(1, 20)) + raw[at:]


def _overwrite(raw: bytes, rng: random.Random) -> bytes:
    at, count = _place(raw, rng), rng.randint(1, 20)
    return raw[:at] + rng.choice((b"\0", b"\xff", b"9", b" ")) * count + raw[at + count :]


TEXTS = ("", "nan", "inf", "-1", "1e400", "0x1", "null", '"', "'", "{", "[", ",", ":", "é", "&a *a")


def _edit_text(raw: bytes, rng: random.Random) -> bytes:
    """Replace a word, or repeat, remove or exchange lines."""
    lines = raw.decode("utf-8", "surrogateescape").split("\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        words = lines[at].replace(",", " , ").split(" ")
        words[rng.randrange(len(words))] = rng.choice(TEXTS)
        lines[at] = " ".join(words).replace(" , ", ",")
    elif kind == 1:
        lines.insert(at, lines[other])
    elif kind == 2:
        del lines[at]
    else:
        lines[at], lines[other] = lines[other], lines[at]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


VALUES = (None, True, 0, -1, 1.5, 10**30, float("nan"), "", "x", [], {}, [[1]], {"x": 1}, "../x")


def _edit_json(raw: bytes, rng: random.Random) -> bytes:
    """Replace, remove or rename a value at a random place of the tree."""
    try:
        content = json.loads(raw)
    except ValueError:
        return raw
    node: Any = content
    while True:
        if not isinstance(node, dict | list) or not node:
            return json.dumps(rng.choice(VALUES)).encode()
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.7:
            node = node[key]
            continue
        kind = rng.randrange(4)
        if kind == 0:
            del node[key]
        elif kind == 1 and isinstance(node, dict):
            node[rng.choice(("x", f"{key}s", "img_size", "at"))] = node.pop(key)
        elif kind == 2 and isinstance(node, dict):
            node[rng.choice(("x", "in_chans", "at", "block"))] = rng.choice(VALUES)
        else:
            node[key] = rng.choice(VALUES)
        return json.dumps(content).encode()


def _read_model(path: Path) -> Any:
    model = from_pretrained(path, local_files_only=True)
    return dict(model.state_dict())


def _read_recipe(path: Path) -> str:
    return dump_recipe(load_recipe(path / "recipe.yaml"))


def _reader(name: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        predictions = read_predictions(path / name)
        sums = predictions.probabilities.sum(axis=1)
        if not (abs(sums - 1) < 1e-2).all() or not (predictions.probabilities >= 0).all():
            raise WrongResultError(f"probabilities are read that sum to {sums.min()}")
        return predictions.table

    return read


def _checked_split(split: pd.DataFrame) -> pd.DataFrame:
    if split.duplicated("image_id").any() or not set(split["dx"]) <= set(CLASSES):
        raise WrongResultError("a split is read with an image twice, or an unknown class")
    return split


def _read_checkpoint(path: Path) -> Any:
    return read_checkpoint(path / "step.pt")


def same(first: Any, second: Any) -> bool:
    """Return whether two contents are equal."""
    if type(first) is not type(second):
        return False
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, pd.DataFrame):
        return first.equals(second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(v, second[k]) for k, v in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def _used() -> int:
    """Return the address space of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
