"""Training what a study lacks: each run a process of its own, side by side where cores allow."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import torch

from ham10000.data.parallel import available_cores
from ham10000.errors import TrainingError
from ham10000.study.plan import PlannedRun
from ham10000.training.folder import RunFolder

__all__ = ["Trainer", "train_missing", "workplaces"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Trainer:
    """How a run of a study is trained."""

    study: Path
    recipe_files: dict[str, Path]
    changes: Sequence[str]
    """Fields that all runs have instead of their recipes', `part.field=value`."""
    processes: int = 1
    """How many share the work of one run."""

    def fields(self, run: PlannedRun) -> list[str]:
        """Return what a run has instead of its recipe's fields."""
        fold = [] if run.fold is None else [f"data.fold={run.fold}"]
        return [f"seed={run.seed}", *fold, *self.changes]

    def command(self, run: PlannedRun) -> list[str]:
        """Return the command that trains a run, or goes on with it."""
        return [
            *(sys.executable, "-m", "ham10000", "train", str(self.recipe_files[run.recipe])),
            *("--out", str(self.study / run.folder), "--processes", str(self.processes)),
            *(f"--{field}" for field in self.fields(run)),
        ]

    def __call__(self, run: PlannedRun, environment: dict[str, str]) -> None:
        """Train a run to its end.

        Raises:
            TrainingError: it ended otherwise; the message ends with the last that it said.
        """
        folder = RunFolder(self.study / run.folder)
        console = self.study / f"{run.folder}.txt"
        console.parent.mkdir(parents=True, exist_ok=True)
        with console.open("ab") as file:
            done = subprocess.run(
                self.command(run),
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                check=False,
            )
        if done.returncode or not folder.done:
            said = console.read_text(errors="replace").strip().splitlines() or ["nothing"]
            raise TrainingError(
                f"training {run.folder}: it ended with {done.returncode} and said: {said[-1]} "
                f"All of it is in {console}. The same command again goes on where it stopped."
            )


def workplaces(parallel: int | None, runs: int, processes: int = 1) -> list[dict[str, str]]:
    """Return the environments of the processes that train side by side.

    On GPUs each process has one of its own; on the CPU each has a core, or several if there are.

    Args:
        parallel: how many runs; as many as the GPUs, or else the cores, suffice for unless given.
        runs: how many there are to train.
        processes: how many share the work of one run.
    """
    gpus, cores = torch.cuda.device_count(), available_cores()
    number = max(1, min(parallel or max(1, (gpus or cores) // processes), runs))
    if gpus:
        first = [place * processes for place in range(number)]
        owned = [[str((at + more) % gpus) for more in range(processes)] for at in first]
        return [{"CUDA_VISIBLE_DEVICES": ",".join(devices)} for devices in owned]
    return [{"OMP_NUM_THREADS": str(max(1, cores // number // processes))} for _ in range(number)]


def train_missing(
    trainer: Callable[[PlannedRun, dict[str, str]], None],
    runs: Sequence[PlannedRun],
    places: Sequence[dict[str, str]],
    say: Say = lambda text: None,
) -> None:
    """Train runs side by side, one at a time in each place.

    Args:
        trainer: what trains one, in a place.
        runs: those to train.
        places: environments, from `workplaces`.
        say: is told what ended.

    Raises:
        TrainingError: one failed. Those under way are brought to their ends first, and no other
            begins.
    """
    free, stopped = list(places), Event()

    def job(run: PlannedRun) -> PlannedRun | None:
        if stopped.is_set():
            return None
        place = free.pop()
        try:
            trainer(run, place)
        except BaseException:
            stopped.set()
            raise
        finally:
            free.append(place)
        return run

    with ThreadPoolExecutor(len(places)) as pool:
        jobs = [pool.submit(job, run) for run in runs]
        try:
            for number, ended in enumerate(as_completed(jobs), start=1):
                run = ended.result()
                if run is not None:
                    say(f"{run.folder}: trained, {number} of {len(runs)}")
        finally:  # after an interruption too: who trains saves and ends, and no other begins
            stopped.set()
