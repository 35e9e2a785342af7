"""Train the missing runs of a study, each in a process of its own, several at a time."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import torch

from ham10000.errors import TrainingError
from ham10000.study.plan import PlannedRun
from ham10000.training import RunDir
from ham10000.utils import available_cores

__all__ = ["RunTrainer", "train_missing", "worker_environments"]

Environment = dict[str, str]
"""Environment variables that assign devices or cores to a process."""


@dataclass(frozen=True)
class RunTrainer:
    """Callable that trains one run of a study with `ham10000 train` in a subprocess."""

    study: Path
    """Folder of the study."""
    recipe_files: dict[str, Path]
    """Recipe file by recipe name."""
    overrides: Sequence[str]
    """Recipe fields that every run overrides, as `part.field=value`."""
    processes: int = 1
    """Number of training processes of one run."""

    def fields(self, run: PlannedRun) -> list[str]:
        """Return the recipe fields that a run overrides, as `part.field=value`."""
        fold = [] if run.fold is None else [f"data.fold={run.fold}"]
        return [f"seed={run.seed}", *fold, *self.overrides]

    def command(self, run: PlannedRun) -> list[str]:
        """Return the command that trains a run or resumes it."""
        return [
            *(sys.executable, "-m", "ham10000", "train", str(self.recipe_files[run.recipe])),
            *("--out", str(self.study / run.folder), "--processes", str(self.processes)),
            *(f"--{field}" for field in self.fields(run)),
        ]

    def __call__(self, run: PlannedRun, environment: Environment) -> None:
        """Train a run to its end; its output is appended to a text file beside its folder.

        Raises:
            TrainingError: The process failed. The message ends with its last line of output.
        """
        folder = RunDir(self.study / run.folder)
        output = self.study / f"{run.folder}.txt"
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("ab") as file:
            finished = subprocess.run(
                self.command(run),
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                check=False,
            )
        if finished.returncode or not folder.done:
            lines = output.read_text(errors="replace").strip().splitlines() or ["(no output)"]
            raise TrainingError(
                f"training {run.folder}: the process exited with status {finished.returncode}. "
                f"Last line of its output: {lines[-1]} The full output is in {output}. Run the "
                "same command again to resume."
            )


def worker_environments(
    parallel: int | None, num_runs: int, processes: int = 1
) -> list[Environment]:
    """Return one environment for each run that trains at the same time.

    Example:
        >>> from ham10000.study.runner import worker_environments
        >>> len(worker_environments(parallel=2, num_runs=6))
        2

    With GPUs, each training process gets a GPU of its own. On the CPU, cores are divided evenly.

    Args:
        parallel: Number of runs at a time. Defaults to one per GPU, or per core without a GPU.
        num_runs: Number of runs to train.
        processes: Number of training processes of one run.
    """
    gpus, cores = torch.cuda.device_count(), available_cores()
    number = max(1, min(parallel or max(1, (gpus or cores) // processes), num_runs))
    if gpus:
        first = [worker * processes for worker in range(number)]
        owned = [[str((start + rank) % gpus) for rank in range(processes)] for start in first]
        return [{"CUDA_VISIBLE_DEVICES": ",".join(devices)} for devices in owned]
    return [{"OMP_NUM_THREADS": str(max(1, cores // number // processes))} for _ in range(number)]


def train_missing(
    trainer: Callable[[PlannedRun, Environment], None],
    runs: Sequence[PlannedRun],
    environments: Sequence[Environment],
    log: Callable[[str], None] = lambda text: None,
) -> None:
    """Train runs in parallel, one at a time in each environment.

    Args:
        trainer: Trains one run in an environment.
        runs: Runs to train.
        environments: From `worker_environments`.
        log: Called with one line for each finished run.

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
            for number, future in enumerate(as_completed(futures), start=1):
                run = future.result()
                if run is not None:
                    log(f"{run.folder}: trained, {number} of {len(runs)}")
        finally:  # also after Ctrl-C: runs in progress save and end, and no further run starts
            stopped.set()
