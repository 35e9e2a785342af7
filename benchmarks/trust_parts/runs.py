"""A tiny run of the example that is killed, stopped, or cannot write."""

import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ham10000.data import prepare as prepare_cache
from ham10000.data import synthesize
from ham10000.errors import Ham10000Error
from ham10000.recipe import Recipe, find_recipe, load_recipe
from ham10000.training import INTERRUPTED, RunDir, train

from .campaign import WrongResultError

SIZE = 24
TIMEOUT = 120.0
FOREIGN = 70
"""Status of a run that ends with an exception that is not of the project."""


@dataclass(frozen=True)
class Whole:
    """The run without interruption, whose predictions all others must have."""

    folder: Path
    recipe: Recipe
    predictions: bytes
    metrics: list[dict[str, object]]
    seconds: float
    largest: int
    """Bytes of its largest file."""
    writes: int
    """Number of files that it synchronized to the disk."""


def tiny_recipe(data: Path, cache: Path) -> Recipe:
    """Return the recipe smoke_sa, shortened so that it trains in a second or two."""
    fields = [
        f"data.root={data}",
        f"data.cache={cache}",
        f"data.size={SIZE}",
        "data.protocol=paper",
        "data.workers=0",
        "data.epoch_samples=64",
        "training.epochs=3",
        "training.batch_size=16",
        "training.ema=0.9",
        "training.checkpoint_steps=2",
        "logging.tensorboard=false",
    ]
    return load_recipe(find_recipe("smoke_sa"), fields)


def prepare(folder: Path) -> Whole:
    """Make synthetic data and its cache, and train without interruption."""
    synthesize(folder / "data", images=280, seed=0, width=40)
    prepare_cache(folder / "data", folder / "cache", SIZE)
    recipe = tiny_recipe(folder / "data", folder / "cache")
    out = folder / "whole"
    began = time.monotonic()
    status = wait(start(recipe, out, _count_writes))
    seconds = time.monotonic() - began
    if status != 0:
        raise RuntimeError(f"the run without interruption ends with status {status}. {_said(out)}")
    files = [path for path in out.rglob("*") if path.is_file()]
    return Whole(
        folder,
        recipe,
        RunDir(out).predictions().read_bytes(),
        metrics(out),
        seconds,
        max(path.stat().st_size for path in files),
        int(_beside(out, "writes").read_text()),
    )


def kill(whole: Whole, rng: random.Random) -> None:
    """End a run at one to three moments, and continue it to its end."""
    out = _new_folder(whole)
    for _ in range(rng.randint(1, 3)):
        number = rng.choice((signal.SIGKILL, signal.SIGTERM))
        said = _size_of_log(out)
        data = replace(whole.recipe.data, workers=rng.choice((0, 2)))
        process = start(replace(whole.recipe, data=data), out)
        time.sleep(rng.random() * whole.seconds)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid or 0, number)
        status = wait(process)
        expected = {0, INTERRUPTED} if number == signal.SIGTERM else {0, -signal.SIGKILL}
        # A process that has nothing to save, or has saved all, ends at once.
        idle = RunDir(out).done or _size_of_log(out) == said
        if status not in expected and not (status == -signal.SIGTERM and idle):
            raise WrongResultError(f"after {number.name} the status is {status}. {_said(out)}")
    _continue(whole, out)


def disk_full(whole: Whole, rng: random.Random) -> None:
    """Run with a limit on the size of files, or with a write that fails, and continue it."""
    out = _new_folder(whole)
    if rng.random() < 0.5:
        limit = int(2 ** rng.uniform(0, 1 + whole.largest.bit_length()))
        status = wait(start(whole.recipe, out, lambda _: _limit_files(limit)))
        how = f"with files of at most {limit} bytes"
    else:
        first, count = rng.randint(1, whole.writes), rng.choice((1, 3, 10**6))
        status = wait(start(whole.recipe, out, lambda _: _fail_writes(first, count)))
        how = f"with failures of {count} writes from number {first}"
    if status not in (0, 1):
        raise WrongResultError(f"{how} the status is {status}. {_said(out)}")
    if status == 0:
        _check(whole, out, how)
    _continue(whole, out, how)


def start(recipe: Recipe, out: Path, before: Callable[[Path], Any] = lambda _: None) -> BaseProcess:
    """Train in a process that leads its own group."""
    process = multiprocessing.get_context("fork").Process(target=_train, args=(recipe, out, before))
    process.start()
    return process


def wait(process: BaseProcess) -> int | None:
    """Return the status of a process; end it after a time, which is `None`."""
    process.join(TIMEOUT)
    status = process.exitcode
    if status is None:
        process.kill()
        process.join()
    return status


def _train(recipe: Recipe, out: Path, before: Callable[[Path], Any]) -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A pipe would have no reader, and a file has a limit.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    status = FOREIGN
    try:
        before(out)
        status = train(recipe, out)
    except BaseException as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        _beside(out, "error").write_text(f"{type(error).__name__}: {error}")
        status = 1 if isinstance(error, Ham10000Error) else FOREIGN
    finally:
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(status)


def _limit_files(limit: int) -> None:
    # Python ignores SIGXFSZ, so a write beyond the limit raises an error. The hard limit stays, so
    # that an error can be written.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def _fail_writes(first: int, count: int) -> None:
    """Let synchronizing a file fail, as on a full disk, from the first on for some times."""
    fsync, done = os.fsync, 0

    def fail(handle: int) -> None:
        nonlocal done
        done += stat.S_ISREG(os.fstat(handle).st_mode)
        if first <= done < first + count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    os.fsync = fail


def _count_writes(out: Path) -> None:
    fsync, done = os.fsync, 0

    def count(handle: int) -> None:
        nonlocal done
        done += stat.S_ISREG(os.fstat(handle).st_mode)
        _beside(out, "writes").write_text(str(done))
        fsync(handle)

    os.fsync = count


def _continue(whole: Whole, out: Path, how: str = "after continuing") -> None:
    status = wait(start(whole.recipe, out))
    if status != 0:
        raise WrongResultError(f"{how}, continuing ends with status {status}. {_said(out)}")
    _check(whole, out, how)
    shutil.rmtree(out)


def _check(whole: Whole, out: Path, how: str) -> None:
    if RunDir(out).predictions().read_bytes() != whole.predictions:
        raise WrongResultError(f"{how}, the predictions are others")


def metrics(out: Path) -> list[dict[str, object]]:
    """Return the metrics of all epochs, without times."""
    records = [json.loads(line) for line in RunDir(out).metrics.read_text().splitlines()]
    times = ("seconds", "images_per_second")
    return [{key: value for key, value in r.items() if key not in times} for r in records]


def _new_folder(whole: Whole) -> Path:
    out = whole.folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    _beside(out, "error").unlink(missing_ok=True)
    return out


def _size_of_log(out: Path) -> int:
    log = RunDir(out).log
    return log.stat().st_size if log.exists() else 0


def _beside(out: Path, name: str) -> Path:
    return out.with_name(f"{out.name}.{name}")


def _said(out: Path) -> str:
    """Return the error of a run, and the end of its log."""
    error, log = _beside(out, "error"), RunDir(out).log
    parts = [error.read_text()] if error.exists() else []
    parts += log.read_text().splitlines()[-1:] if log.exists() else []
    return " | ".join(parts)
