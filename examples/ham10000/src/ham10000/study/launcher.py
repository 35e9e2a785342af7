"""Launchers train the missing runs of a study; those in this module use this machine.

A launcher is called with the missing runs and yields each of them as soon as its predictions are
written. `run_study` depends on nothing else, so another way of training runs needs only another
launcher.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Protocol

import torch

from ham10000.errors import ArgumentError, Ham10000Error, TrainingError
from ham10000.models import FeatureMaps, open_features
from ham10000.recipe import Recipe
from ham10000.study.plan import PlannedRun
from ham10000.training import (
    INTERRUPTED,
    RunDir,
    check_frozen,
    claim_images,
    claim_run,
    find_features,
    lock_run,
    prepare_features,
    prepare_split,
    train_head,
)
from ham10000.utils import available_cores, end_with_parent, write_text

__all__ = [
    "FrozenLauncher",
    "Launcher",
    "LocalLauncher",
    "RunTrainer",
    "claim_runs",
    "train_in_parallel",
    "worker_environments",
]

Environment = dict[str, str]
"""Environment variables that assign devices or cores to a process."""


class Launcher(Protocol):
    """Callable that trains runs and yields each of them when it is finished.

    A run is finished when `RunDir(study / run.folder).done`. A launcher claims the folders of all
    runs (see `claim_runs`) before the first training, trains any number of runs at a time, and
    resumes interrupted runs. When its iterator is closed, as after Ctrl-C, it starts no further
    run.

    Example:
        >>> from collections.abc import Callable, Iterator, Mapping
        >>> from pathlib import Path
        >>> from ham10000.recipe import Recipe
        >>> from ham10000.study.launcher import Launcher, PlannedRun, claim_runs
        >>> class InProcess:
        ...     def __init__(self, study: Path) -> None:
        ...         self.study = study
        ...
        ...     def __call__(
        ...         self, runs: Mapping[PlannedRun, Recipe], log: Callable[[str], None]
        ...     ) -> Iterator[PlannedRun]:
        ...         claim_runs(self.study, runs)
        ...         for run, recipe in runs.items():
        ...             ...  # train it, and write its predictions
        ...             yield run
        >>> launcher: Launcher = InProcess(Path("study"))
        >>> list(launcher({}, print))
        []
    """

    def __call__(
        self, runs: Mapping[PlannedRun, Recipe], log: Callable[[str], None]
    ) -> Iterator[PlannedRun]:
        """Train runs.

        Args:
            runs: Missing runs, each with its recipe, in which the seed, the fold and all overrides
                are set.
            log: Called with one line of text for each step, except when a run is finished.

        Yields:
            Each run, as soon as it is finished.

        Raises:
            TrainingError: A run failed. Runs in progress are not lost.
        """
        ...


def claim_runs(study: Path, runs: Mapping[PlannedRun, Recipe]) -> None:
    """Create the folders of runs with their resolved recipes, or check that they match.

    Args:
        study: Folder of the study.
        runs: Runs with their recipes.

    Raises:
        ArgumentError: A folder holds other files.
        RecipeError: A folder belongs to another recipe.
        LockedError: Another process is training one of the runs.
    """
    for run, recipe in runs.items():
        with lock_run(study / run.folder):
            claim_run(study / run.folder, recipe)


@dataclass(frozen=True)
class LocalLauncher:
    """Launcher that trains runs in processes on this machine; see `Launcher`."""

    study: Path
    """Folder of the study."""
    parallel: int | None = None
    """Number of runs at a time. Defaults to one per GPU, or per core without a GPU."""
    processes: int = 1
    """Number of training processes of one run."""

    def __call__(
        self, runs: Mapping[PlannedRun, Recipe], log: Callable[[str], None]
    ) -> Iterator[PlannedRun]:
        """Train runs; see `Launcher`."""
        claim_runs(self.study, runs)
        environments = worker_environments(self.parallel, len(runs), self.processes)
        log(f"Training {len(environments)} at a time on this machine")
        trainer = _StoppableTrainer(self.study, self.processes)
        with _pass_on_sigterm(trainer):
            yield from train_in_parallel(trainer, list(runs), environments)


@dataclass(frozen=True)
class FrozenLauncher:
    """Launcher that trains runs with frozen backbones on this machine; see `Launcher`.

    The features are computed once. The heads are then trained by worker processes, on one thread
    each. Runs of the same fold share the file of the split.
    """

    study: Path
    """Folder of the study."""
    parallel: int | None = None
    """Number of worker processes. Defaults to one per core."""

    def __call__(
        self, runs: Mapping[PlannedRun, Recipe], log: Callable[[str], None]
    ) -> Iterator[PlannedRun]:
        """Train runs; see `Launcher`."""
        for recipe in runs.values():
            check_frozen(recipe)
        claim_runs(self.study, runs)
        self._prepare(runs, log)
        workers = max(1, min(self.parallel or available_cores(), len(runs)))
        log(f"Training {workers} at a time on this machine, on stored features")
        # Spawned, because a forked process can inherit a lock that another thread holds.
        with ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker) as pool:
            futures = {
                pool.submit(_train_one, self.study / run.folder, recipe): run
                for run, recipe in runs.items()
            }
            try:
                for future in as_completed(futures):
                    run = futures[future]
                    try:
                        future.result()
                    except (Ham10000Error, BrokenProcessPool) as error:
                        raise TrainingError(f"training {run.folder}: {error}") from error
                    yield run
            finally:  # also after Ctrl-C: runs in progress end, and no further run starts
                pool.shutdown(cancel_futures=True)

    def _prepare(self, runs: Mapping[PlannedRun, Recipe], log: Callable[[str], None]) -> None:
        found: dict[Path, FeatureMaps] = {}
        splits: dict[tuple[Path | None, int | None], Path] = {}
        for run, recipe in runs.items():
            files = RunDir(self.study / run.folder)
            features = find_features(files, recipe)
            if features not in found:
                log(f"Features of {recipe.model.backbone}: {features}")
                found[features] = prepare_features(files, recipe)
            claim_images(files, found[features].images)
            if not files.split.exists():
                shared = splits.get((recipe.data.split, recipe.data.fold))
                if shared is None:
                    prepare_split(files, recipe, found[features].table)
                else:
                    _link(shared, files.split)
            splits[recipe.data.split, recipe.data.fold] = files.split


def _link(source: Path, path: Path) -> None:
    # Splits are replaced and never changed in place, so hundreds of runs can share one file.
    try:
        os.link(source, path)
    except OSError:  # a file system without hard links
        write_text(path, source.read_text(encoding="utf-8"))


def _train_one(folder: Path, recipe: Recipe) -> None:
    files = RunDir(folder)
    with lock_run(folder):
        train_head(recipe, files, open_features(find_features(files, recipe), recipe))


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    end_with_parent()  # of SIGTERM and SIGKILL, which end the parent at once


@dataclass(frozen=True)
class RunTrainer:
    """Callable that trains a claimed run with `ham10000 train --resume` in a subprocess."""

    study: Path
    """Folder of the study."""
    processes: int = 1
    """Number of training processes of one run."""

    def command(self, run: PlannedRun) -> list[str]:
        """Return the command that trains a run, from the start or from its last checkpoint."""
        return [
            *(sys.executable, "-m", "ham10000", "train", "--resume", str(self.study / run.folder)),
            *("--processes", str(self.processes)),
        ]

    def output(self, run: PlannedRun) -> Path:
        """Return the text file beside the folder of a run to which its output is appended."""
        return self.study / f"{run.folder}.txt"

    def start(self, run: PlannedRun, environment: Environment) -> "subprocess.Popen[bytes]":
        """Start training a run in an environment."""
        with self.output(run).open("ab") as file:
            return subprocess.Popen(
                self.command(run),
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )

    def check(self, run: PlannedRun, status: int) -> None:
        """Raise an error if the process of a run failed, or ended before the run was finished.

        Raises:
            TrainingError: The message includes the last line of output.
        """
        if status == INTERRUPTED:
            raise TrainingError(
                f"training {run.folder}: it was asked to stop, and has saved a checkpoint. Run the "
                "same command again to resume."
            )
        if status or not RunDir(self.study / run.folder).done:
            text = self.output(run).read_text(errors="replace").strip()
            last = text.splitlines()[-1] if text else "(no output)"
            raise TrainingError(
                f"training {run.folder}: the process exited with status {status}. "
                f"Last line of its output: {last} The full output is in {self.output(run)}. Run "
                "the same command again to resume."
            )

    def __call__(self, run: PlannedRun, environment: Environment) -> None:
        """Train a run until it is finished.

        Raises:
            TrainingError: The process failed. The message includes its last line of output.
        """
        self.check(run, self.start(run, environment).wait())


@dataclass(frozen=True)
class _StoppableTrainer(RunTrainer):
    stopped: Event = field(default_factory=Event, repr=False, compare=False)
    started: "list[subprocess.Popen[bytes]]" = field(
        default_factory=list, repr=False, compare=False
    )

    def start(self, run: PlannedRun, environment: Environment) -> "subprocess.Popen[bytes]":
        process = super().start(run, environment)
        self.started.append(process)
        if self.stopped.is_set():  # by a signal since the process was started
            process.terminate()
        return process

    def stop(self) -> None:
        """Ask all subprocesses, also those that start later, to save a checkpoint and end."""
        self.stopped.set()
        for process in tuple(self.started):
            process.terminate()  # no effect on those that have ended


@contextmanager
def _pass_on_sigterm(trainer: _StoppableTrainer) -> Iterator[None]:
    """On SIGTERM, stop the runs in progress as well. Ctrl-C reaches them without help.

    Only the main thread receives signals; in another thread this has no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        trainer.stop()
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def worker_environments(
    parallel: int | None, num_runs: int, processes: int = 1
) -> list[Environment]:
    """Return one environment for each run that trains at the same time.

    Example:
        >>> from ham10000.study.launcher import worker_environments
        >>> len(worker_environments(parallel=2, num_runs=6))
        2

    With GPUs, each training process gets a GPU of its own. On the CPU, cores are divided evenly.

    Args:
        parallel: Number of runs at a time. Defaults to one per GPU, or per core without a GPU.
        num_runs: Number of runs to train.
        processes: Number of training processes of one run.

    Raises:
        ArgumentError: A run has more processes than there are GPUs.
    """
    gpus, cores = torch.cuda.device_count(), available_cores()
    if 0 < gpus < processes:
        raise ArgumentError(
            f"planning runs: {processes} processes for each run need as many GPUs, found {gpus}. "
            f"Use --processes {gpus}."
        )
    number = max(1, min(parallel or max(1, (gpus or cores) // processes), num_runs))
    if gpus:
        first = [worker * processes for worker in range(number)]
        owned = [[str((start + rank) % gpus) for rank in range(processes)] for start in first]
        return [{"CUDA_VISIBLE_DEVICES": ",".join(devices)} for devices in owned]
    return [{"OMP_NUM_THREADS": str(max(1, cores // number // processes))} for _ in range(number)]


def train_in_parallel(
    trainer: Callable[[PlannedRun, Environment], None],
    runs: Sequence[PlannedRun],
    environments: Sequence[Environment],
) -> Iterator[PlannedRun]:
    """Train runs in parallel, one at a time in each environment, and yield each finished run.

    Args:
        trainer: Trains one run in an environment.
        runs: Runs to train.
        environments: From `worker_environments`.

    Raises:
        TrainingError: A run failed. Runs in progress finish first, and no further run starts.
    """
    free, stopped = list(environments), Event()

    def train_one(run: PlannedRun) -> PlannedRun | None:
        if stopped.is_set():
            return None
        environment = free.pop()
        try:
            trainer(run, environment)
        except BaseException:
            stopped.set()
            raise
        finally:
            free.append(environment)
        return run

    with ThreadPoolExecutor(len(environments)) as pool:
        futures = [pool.submit(train_one, run) for run in runs]
        try:
            for future in as_completed(futures):
                run = future.result()
                if run is not None:
                    yield run
        finally:  # also after Ctrl-C: runs in progress save and end, and no further run starts
            stopped.set()
