"""Run a study from its plan to its verdict; finished runs are not repeated."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import torch

from ham10000.data import data_folder, open_cache, prepare, write_split
from ham10000.errors import TrainingError
from ham10000.recipe import Recipe, load_recipe
from ham10000.statistics import MIN_TRAINING_DF, seeds_needed
from ham10000.study.plan import PRIMARY, PlannedRun, StudyPlan, make_plan
from ham10000.study.preregistration import StudyRecord, split_hash
from ham10000.study.summary import SPLIT, check_test_images, read_study, summarize_study
from ham10000.training import RunDir, claim_run, lock_run, make_split, wants_validation
from ham10000.utils import available_cores, write_text

__all__ = ["RESULT", "RunTrainer", "run_study", "train_missing", "worker_environments"]

RESULT = "study.json"

Environment = dict[str, str]
"""Environment variables that assign devices or cores to a process."""


def run_study(
    recipe_files: Sequence[Path],
    seeds: Sequence[int],
    out: Path,
    *,
    folds: int | None = None,
    primary: str = PRIMARY,
    control: str | None = None,
    smallest_difference: float | None = None,
    looks: int = 1,
    extend: bool = False,
    parallel: int | None = None,
    processes: int = 1,
    overrides: Sequence[str] = (),
    log: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train the missing runs of a study and summarize all of them.

    All runs share one split. It is drawn once, with `data.split_seed` of the recipes or, without
    one, with the first seed. The seed of a run controls its initial weights, the order of images
    and the augmentation.

    The plan is recorded in plan.json before the first training, and every look at the result is
    added to it. A run with predictions.csv is finished, also without its checkpoints, so runs can
    be copied from another machine; keep recipe.yaml and split.csv beside it for the report.

    Args:
        recipe_files: Two or more recipes.
        seeds: At least two seeds, and all recorded seeds if the study exists.
        out: Folder of the study, with plan.json, split.csv, runs/ and study.json.
        folds: Number of folds, each of which is the test set once. Defaults to one split.
        primary: Name of the metric that decides the verdict.
        control: Name of the recipe with which the others are compared. Defaults to the first.
        smallest_difference: Smallest difference of interest in the primary metric; see
            `make_plan`.
        looks: Number of planned looks at the result.
        extend: Add seeds to a study. This is recorded; a look that was not planned is exploratory.
        parallel: Number of runs that train at the same time.
        processes: Number of training processes of one run.
        overrides: Recipe fields that every run overrides, as `part.field=value`.
        log: Called with one line for each step.

    Returns:
        The content of study.json.

    Raises:
        Ham10000Error: The study cannot be planned, trained or summarized.
    """
    recipes = [load_recipe(path, overrides) for path in recipe_files]
    plan = make_plan(
        recipes,
        seeds,
        folds,
        primary,
        control=control,
        smallest_difference=smallest_difference,
        looks=looks,
    )
    record = StudyRecord(out)
    shared = [*_share_images(recipes, plan, out), *overrides]
    record.register(plan, recipes, split_hash(out / SPLIT), extend=extend)
    finished, missing = _by_state(plan, out)
    record.check_predictions(_hashes(finished, out))
    _check_recipes(finished, record, out)
    check_test_images(finished, out, recipes[0].data.fold)
    files = {each.name: path for each, path in zip(recipes, recipe_files, strict=True)}
    trainer = RunTrainer(out, files, shared, processes)
    for run in missing:  # refuses a folder with something else before any training
        with lock_run(out / run.folder):
            claim_run(out / run.folder, load_recipe(files[run.recipe], trainer.fields(run)))
    environments = worker_environments(parallel, len(missing), processes)
    if not plan.enough_runs:
        log(
            f"Too few runs for a verdict: folds x (seeds - 1) is below {MIN_TRAINING_DF}. "
            f"{seeds_needed(plan.folds or 1)} seeds are needed."
        )
    log(f"{len(plan.runs)} runs, {len(missing)} to train, {len(environments)} at a time")
    train_missing(trainer, missing, environments, log)
    check_test_images(missing, out, recipes[0].data.fold)
    result = summarize_study(plan, read_study(plan, out), record.look_number(plan.seeds))
    record.add_look(result, _hashes(plan.runs, out))
    taken = ("number", "time", "seeds", "level", "exploratory", "verdicts")
    result["looks_taken"] = [{name: look[name] for name in taken} for look in record.looks]
    write_text(out / RESULT, json.dumps(result, indent=2) + "\n")
    return result


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
        >>> from ham10000.study.study import worker_environments
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


def _by_state(plan: StudyPlan, out: Path) -> tuple[list[PlannedRun], list[PlannedRun]]:
    """Return the finished runs and the others."""
    finished = [run for run in plan.runs if RunDir(out / run.folder).done]
    return finished, [run for run in plan.runs if run not in finished]


def _check_recipes(finished: Sequence[PlannedRun], record: StudyRecord, out: Path) -> None:
    # A finished run may come from another machine, or from another study by mistake.
    for run in finished:
        path = RunDir(out / run.folder).recipe
        if path.exists():
            record.check_run(run, load_recipe(path))


def _hashes(runs: Iterable[PlannedRun], out: Path) -> dict[str, str]:
    """Return the SHA-256 of the predictions by folder of the run."""
    paths = {run.folder: RunDir(out / run.folder).predictions() for run in runs}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}


def _share_images(recipes: Sequence[Recipe], plan: StudyPlan, out: Path) -> list[str]:
    """Prepare the cache and the split; return the recipe fields that refer to them."""
    data = recipes[0].data
    if any(recipe.data.size != data.size for recipe in recipes):
        # Each run prepares the cache of its own size, or finds it beside its folder.
        cache = out / f"cache-{data.size}"
        shared = []
    else:
        cache = data.cache or out / f"cache-{data.size}"
        shared = [f"data.cache={cache.absolute()}"]
    prepare(data_folder(data.root), cache, data.size)
    split = out / SPLIT
    if not split.exists():
        seed = plan.seeds[0] if data.split_seed is None else data.split_seed
        kind = replace(data, protocol="kfold") if plan.folds is not None else data
        table, validation = open_cache(cache).table, any(map(wants_validation, recipes))
        write_split(make_split(kind, seed, table, plan.folds or 5, validation=validation), split)
    return [*shared, f"data.split={split.absolute()}"]
