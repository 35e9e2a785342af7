"""One recipe trained in every way that users choose, and how much the results differ."""

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import pandas as pd
import torch
from ham10000.data import (
    HAM10000,
    Augment,
    BatchLoader,
    CachedHAM10000,
    EpochSampler,
    link_sample,
    synthesize,
)
from ham10000.data import prepare as prepare_cache
from ham10000.errors import DataError
from ham10000.evaluation import Predictions, read_predictions
from ham10000.recipe import Recipe, find_recipe, load_recipe
from ham10000.training import INTERRUPTED, RunDir

from .campaign import WrongResultError
from .runs import TIMEOUT, start, wait

IMAGES, SIZE, BATCH = 600, 32, 16
CLASSES = 7
SEEDS = 50
"""Samples to draw until one has every class twice, which the protocol needs."""


@dataclass(frozen=True)
class Row:
    """The comparison of two ways to do the same."""

    what: str
    against: str
    promised: bool
    """Whether the results must be bit-identical."""
    weights: float | None
    """Largest absolute difference of a weight (of a pixel, for batches); `None` if untrained."""
    predictions: float | None
    """Largest absolute difference of a probability; `None` for batches."""

    @property
    def broken(self) -> bool:
        """Whether a promise is not kept."""
        return self.promised and bool(self.weights or self.predictions)


@dataclass(frozen=True)
class Way:
    """How a run is trained."""

    processes: int = 1
    threads: int = 1
    ends: signal.Signals | None = None
    """Signal that ends it after its first checkpoint, before it is continued."""
    changes: dict[str, object] = field(default_factory=dict)
    """Other values of fields in the section `training`."""
    workers: int = 0
    own_cache: bool = False
    """Whether the run decodes the images itself, instead of using a cache made before."""


WAYS: tuple[tuple[str, Way, str, bool], ...] = (
    ("trained again", Way(), "1 process", True),
    ("2 workers", Way(workers=2), "1 process", True),
    ("cache made by the run", Way(own_cache=True), "1 process", True),
    ("SIGTERM, continued", Way(ends=signal.SIGTERM), "1 process", True),
    ("SIGKILL, continued", Way(ends=signal.SIGKILL), "1 process", True),
    ("2 processes, 2 workers", Way(2, workers=2), "2 processes", True),
    ("2 processes, SIGTERM, continued", Way(2, ends=signal.SIGTERM), "2 processes", True),
    ("4 processes, 2 workers", Way(4, workers=2), "4 processes", True),
    ("4 processes, SIGKILL, continued", Way(4, ends=signal.SIGKILL), "4 processes", False),
    ("2 processes", Way(2), "1 process", False),
    ("4 processes", Way(4), "1 process", False),
    ("2 threads", Way(threads=2), "1 process", False),
)
"""Name of a way, the way, the name of the one to compare it with, and whether they must agree."""

BASES = {"1 process": Way(), "2 processes": Way(2), "4 processes": Way(4)}


def sample(folder: Path, root: Path | None) -> Path:
    """Make a small data set with every class: of real images, or of synthetic ones without root."""
    out = folder / "data"
    if root is None:
        synthesize(out, images=IMAGES, seed=0, width=48)
        return out
    for seed in range(SEEDS):
        link_sample(root, out, IMAGES, seed)
        table = pd.read_csv(out / "HAM10000_metadata.csv")
        single = table[table.groupby("lesion_id")["image_id"].transform("size") == 1]
        if (single["dx"].value_counts() > 1).sum() == CLASSES:
            return out
        shutil.rmtree(out)
    raise DataError(f"drawing {IMAGES} images of {root}: no sample has every class twice.")


def compare(folder: Path, root: Path | None, say: Callable[[str], None]) -> Iterator[Row]:
    """Load and train in every way; yield the differences."""
    data, cache = sample(folder, root), folder / "cache"
    prepare_cache(data, cache, SIZE)
    yield from _batches(data, cache)
    recipe = _recipe(data, cache)
    runs = {}
    for name, way in BASES.items():
        say(name)
        runs[name] = _train(recipe, folder / name.replace(" ", "-"), way)
    for name, way, against, promised in WAYS:
        if (out := runs.get(name)) is None:
            say(name)
            out = _train(recipe, folder / "other", way)
        yield compare_runs(name, out, against, runs[against], promised)
        if name not in runs:
            shutil.rmtree(out)
    for processes in (2, 4):
        name = f"predicted by {processes} processes"
        say(name)
        out = Path(shutil.copytree(runs["1 process"], folder / "other"))
        RunDir(out).predictions().unlink()
        _end(_start(recipe, out, Way(processes)))
        row = compare_runs(name, out, "1 process", runs["1 process"], promised=True)
        yield replace(row, weights=None)
        shutil.rmtree(out)


def table(rows: Iterable[Row]) -> list[str]:
    """Return the lines of a table in Markdown."""
    return [
        "| what | compared with | promised | weights or pixels | probabilities |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {row.what} | {row.against} | {'identical' if row.promised else 'no'} | "
            f"{_said(row.weights)} | {_said(row.predictions)} |"
            for row in rows
        ),
    ]


def _said(difference: float | None) -> str:
    if difference is None:
        return "-"
    return f"differ by {difference:.1g}" if difference else "identical"


def _recipe(data: Path, cache: Path) -> Recipe:
    fields = [
        f"data.root={data}",
        f"data.cache={cache}",
        f"data.size={SIZE}",
        "data.protocol=paper",
        "data.augment=strong",
        "data.workers=0",
        "data.epoch_samples=128",
        f"training.batch_size={BATCH}",
        "training.ema=0.9",
        "training.checkpoint_steps=3",
        "logging.tensorboard=false",
    ]
    return load_recipe(find_recipe("smoke_sa"), fields)


def _batches(data: Path, cache: Path) -> Iterator[Row]:
    """Compare the batches of an epoch from files, from the cache, with workers, and of ranks."""
    files, cached = HAM10000(data, size=SIZE), CachedHAM10000(cache)
    base = _epoch(cached)
    for name, found in (
        ("batches, cache, 2 workers", _epoch(cached, workers=2)),
        ("batches, files", _epoch(files)),
        ("batches, files, 2 workers", _epoch(files, workers=2)),
        *(
            (
                f"batches of {number} processes",
                # Rank r of n has every nth image of each batch, from r on.
                torch.stack([_epoch(cached, rank, number) for rank in range(number)], 1).flatten(
                    0, 1
                ),
            )
            for number in (2, 4)
        ),
    ):
        difference = float((found - base).abs().max())
        yield Row(name, "cache, 1 process", True, difference, None)


def _epoch(data: HAM10000, rank: int = 0, ranks: int = 1, workers: int = 0) -> torch.Tensor:
    sampler = EpochSampler(data.targets, "sqrt", 3, rank=rank, num_replicas=ranks)
    loader = BatchLoader(data, sampler, BATCH // ranks, Augment("strong", seed=3), workers=workers)
    return torch.cat([batch.images.clone() for batch in loader])[
        : len(data) // BATCH * BATCH // ranks
    ]


def _train(recipe: Recipe, out: Path, way: Way) -> Path:
    recipe = replace(
        recipe,
        data=replace(
            recipe.data, workers=way.workers, cache=None if way.own_cache else recipe.data.cache
        ),
        training=replace(recipe.training, **way.changes),
    )
    if way.ends is not None:
        processes = _start(recipe, out, way)
        until = time.monotonic() + TIMEOUT
        while not RunDir(out).step_checkpoints() and time.monotonic() < until:
            time.sleep(0.01)
        for process in processes:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid or 0, way.ends)
        _end(processes, INTERRUPTED if way.ends == signal.SIGTERM else -signal.SIGKILL)
    _end(_start(recipe, out, way))
    return out


def _start(recipe: Recipe, out: Path, way: Way) -> list:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(way.processes):

        def before(_: Path, rank: int = rank) -> None:
            torch.set_num_threads(way.threads)
            os.environ["OMP_NUM_THREADS"] = str(way.threads)  # or a run takes its share of cores
            if way.processes > 1:  # what torchrun says
                names = ("RANK", "LOCAL_RANK"), ("WORLD_SIZE", "LOCAL_WORLD_SIZE")
                os.environ.update(dict.fromkeys(names[0], str(rank)))
                os.environ.update(dict.fromkeys(names[1], str(way.processes)))
                os.environ.update(
                    GROUP_RANK="0",
                    MASTER_ADDR="127.0.0.1",
                    MASTER_PORT=str(port),
                    TORCHELASTIC_RUN_ID="determinism",
                )

        processes.append(start(recipe, out, before))
    return processes


def _end(processes: list, expected: int = 0) -> None:
    found = [wait(process) for process in processes]
    if set(found) != {expected}:
        raise WrongResultError(f"the processes end with {found}, expected {expected}")


def compare_runs(what: str, out: Path, against: str, base: Path, promised: bool) -> Row:
    """Compare two finished runs."""
    return Row(what, against, promised, _weights_apart(out, base), _predictions_apart(out, base))


def _weights_apart(first: Path, second: Path) -> float:
    """Return the largest difference of a weight in the last checkpoints of two runs."""
    contents = [
        torch.load(RunDir(run).step_checkpoints()[0], map_location="cpu", weights_only=True)
        for run in (first, second)
    ]
    parts = [
        list(chain(*(content[part].values() for part in ("model", "ema")))) for content in contents
    ]
    return max(
        float((a.double() - b.double()).abs().max())
        for a, b in zip(*parts, strict=True)
        if a.numel()
    )


def _predictions_apart(first: Path, second: Path) -> float:
    """Return the largest difference of a probability, 0 only if the files have the same bytes."""
    files = [RunDir(run).predictions() for run in (first, second)]
    if files[0].read_bytes() == files[1].read_bytes():
        return 0.0
    a, b = (_sorted(read_predictions(file)) for file in files)
    return float(abs(a - b).max().max()) or float("inf")


def _sorted(predictions: Predictions) -> pd.DataFrame:
    return predictions.table.set_index("image_id").sort_index().select_dtypes("float")
