"""Train the missing runs of a study as jobs of a Slurm cluster, with submitit (extra: cluster)."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ham10000.errors import DataError, MissingPackageError, TrainingError
from ham10000.recipe import Recipe
from ham10000.study.launcher import RunTrainer, claim_runs
from ham10000.study.plan import PlannedRun
from ham10000.training import RunDir
from ham10000.utils import write_text

__all__ = ["JobOptions", "RunJob", "SubmititLauncher", "queued_jobs"]

JOBS = "jobs.json"
"""File with the job id of each run folder."""

_EXECUTOR = "slurm"

_POLL_SECONDS = 10
"""Time between two calls of squeue, which returns all jobs of the user at once."""

_MAX_WARNING_SECONDS = 120
"""Longest warning before the time limit of a job, in seconds, as in Hydra's launcher."""


@dataclass(frozen=True)
class JobOptions:
    """Resources of a job, with the names that submitit and Hydra's launcher use.

    Example:
        >>> from ham10000.study import JobOptions
        >>> JobOptions(partition="gpu", gpus_per_node=1, sbatch="--account=vision").parameters()
        {'name': 'ham10000', 'timeout_min': 60, 'gpus_per_node': 1, ...}
    """

    partition: str | None = None
    """Partition of the cluster. Defaults to the cluster's default, like all other resources."""
    timeout_min: int = 60
    """Time limit in minutes. A run that takes longer is requeued and resumes where it stopped."""
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    mem_gb: float | None = None
    sbatch: str = ""
    """Other options of sbatch, as on its command line; leading dashes can be left out."""

    def parameters(self, parallel: int | None = None) -> dict[str, Any]:
        """Return the parameters for `submitit.AutoExecutor.update_parameters`.

        Args:
            parallel: Number of jobs that run at the same time.
        """
        others: dict[str, str | bool] = {}
        for option in shlex.split(self.sbatch):
            name, has_value, value = option.lstrip("-").partition("=")
            others[name.replace("-", "_")] = value if has_value else True
        return {
            "name": "ham10000",
            "timeout_min": self.timeout_min,
            "gpus_per_node": self.gpus_per_node,
            "cpus_per_task": self.cpus_per_task,
            "mem_gb": self.mem_gb,
            "stderr_to_stdout": True,
            "slurm_partition": self.partition,
            "slurm_array_parallelism": parallel,
            "slurm_signal_delay_s": min(_MAX_WARNING_SECONDS, 30 * self.timeout_min),
            # Since Slurm 22.05, srun does not inherit --cpus-per-task from sbatch.
            "slurm_srun_args": self.cpus_per_task and [f"--cpus-per-task={self.cpus_per_task}"],
            "slurm_additional_parameters": others,
        }


@dataclass(frozen=True)
class SubmititLauncher:
    """Launcher that trains each run as a Slurm job; see `Launcher`.

    Jobs continue when the process that submitted them ends. Their ids are recorded in jobs.json, so
    a later call waits for jobs that are queued or running, and submits only runs whose jobs ended
    before the run was finished.

    Raises:
        MissingPackageError: submitit is not installed.
        TrainingError: Slurm is not available on this machine.
    """

    study: Path
    """Folder of the study, on a file system that all nodes share."""
    options: JobOptions = JobOptions()
    """Resources of each job."""
    parallel: int | None = None
    """Number of jobs that run at the same time. Defaults to the limits of the cluster."""
    processes: int = 1
    """Number of training processes of one run."""

    def __post_init__(self) -> None:
        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise MissingPackageError(
                "submitting jobs: the package submitit is not installed. Install it with: "
                "pip install submitit"
            ) from error
        if _EXECUTOR == "slurm" and shutil.which("srun") is None:
            raise TrainingError(
                "submitting jobs: Slurm's command srun was not found. Run this command on a node "
                "from which jobs can be submitted, or train on this machine with --launcher local."
            )

    def __call__(
        self, runs: Mapping[PlannedRun, Recipe], log: Callable[[str], None]
    ) -> Iterator[PlannedRun]:
        """Train runs; see `Launcher`."""
        recorded, queued = self._recorded(), queued_jobs()
        waiting = {run: recorded[run.folder] for run in runs if recorded.get(run.folder) in queued}
        ended = {run: recipe for run, recipe in runs.items() if run not in waiting}
        claim_runs(self.study, ended)
        if waiting:
            log(f"Queued or running since an earlier call: {len(waiting)}")
        resumed = sum(run.folder in recorded for run in ended)
        if resumed:
            log(f"Ended before the run was finished: {resumed}")
        if ended:
            waiting |= self._submit(list(ended), recorded)
            log(f"Submitted: {len(ended)}. Logs are in {self.study / 'jobs'}")
        log("If this command is interrupted, jobs continue. Repeat it to wait for them again")
        yield from self._wait(waiting, log)

    def _recorded(self) -> dict[str, str]:
        path = self.study / JOBS
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"reading {path}: it is damaged ({error}). If no jobs of the study are queued "
                "(see squeue), remove it, and run the same command again."
            ) from error

    def _submit(
        self, runs: Sequence[PlannedRun], recorded: Mapping[str, str]
    ) -> dict[PlannedRun, str]:
        """Submit an array with one job for each run; record and return the job ids."""
        import submitit

        executor = submitit.AutoExecutor(self.study.absolute() / "jobs" / "%j", cluster=_EXECUTOR)
        trainer = RunTrainer(self.study.absolute(), self.processes)
        executor.update_parameters(**self.options.parameters(self.parallel))
        try:
            with _outside_jobs():
                jobs = executor.submit_array([RunJob(trainer, run) for run in runs])
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as e:
            said = "; ".join(str(e).strip().splitlines())
            raise TrainingError(
                f"submitting {len(runs)} jobs: {said}. Nothing was submitted."
            ) from e
        submitted = {run: job.job_id for run, job in zip(runs, jobs, strict=True)}
        recorded = {**recorded, **{run.folder: job for run, job in submitted.items()}}
        write_text(self.study / JOBS, json.dumps(recorded, indent=2) + "\n")
        return submitted

    def _wait(
        self, waiting: dict[PlannedRun, str], log: Callable[[str], None]
    ) -> Iterator[PlannedRun]:
        failures, missing, said = [], set[PlannedRun](), ""
        while waiting:
            answered, states = True, dict[str, str]()
            try:
                states = queued_jobs()
                counts = Counter(states[job].lower() for job in waiting.values() if job in states)
                line = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
            except TrainingError as error:  # the jobs continue while the controller is down
                answered, line = False, f"{error}. Trying again"
            if line and line != said:
                log(f"Jobs: {line}")
                said = line
            for run, job in list(waiting.items()):
                if RunDir(self.study / run.folder).done:
                    del waiting[run]
                    yield run
                elif job in states or not answered:
                    missing.discard(run)
                elif run not in missing:  # predictions may appear late on a network file system
                    missing.add(run)
                else:
                    del waiting[run]
                    failures.append(self._failure(run, job))
                    log(failures[-1])
            if waiting:
                time.sleep(_POLL_SECONDS)
        if failures:
            others = f" {len(failures) - 1} more failed too." if failures[1:] else ""
            raise TrainingError(f"{failures[0]}{others} Run the same command again to resume.")

    def _failure(self, run: PlannedRun, job: str) -> str:
        from submitit.core.utils import JobPaths

        log = JobPaths(self.study / "jobs" / "%j", job).stdout
        line = _last_line(log)
        if "TrainingError: " in line:  # the trainer itself failed
            log = RunTrainer(self.study).output(run)
            line = _last_line(log)
        return (
            f"training {run.folder}: job {job} ended before the run was finished. Last line of its "
            f"log: {line} The full log is in {log}."
        )


class RunJob:
    """Callable that trains a run in a job, and stops it when the time limit is near.

    submitit calls `checkpoint` when Slurm announces the time limit or a preemption, and requeues
    the job with the returned submission.

    Args:
        trainer: Trainer of the run.
        run: Run to train.
    """

    def __init__(self, trainer: RunTrainer, run: PlannedRun) -> None:
        self.trainer = trainer
        self.run = run
        self._pid: int | None = None

    def __call__(self) -> None:
        """Train the run until it is finished.

        Raises:
            TrainingError: The process failed, or was stopped.
        """
        cores = int(os.environ.get("SLURM_CPUS_PER_TASK", "0"))
        share = {"OMP_NUM_THREADS": str(max(1, cores // self.trainer.processes))}
        # Slurm sends the warning to all processes of a job. The trainer and its workers ignore it,
        # since a signal that is ignored at the start of a process stays ignored.
        warnings = (signal.SIGUSR1, signal.SIGUSR2)
        handlers = {each: signal.signal(each, signal.SIG_IGN) for each in warnings}
        process = self.trainer.start(self.run, share if cores else {})
        self._pid = process.pid
        for each, handler in handlers.items():
            signal.signal(each, handler)
        self.trainer.check(self.run, process.wait())

    def checkpoint(self) -> Any:
        """Let the trainer save and exit; return a job to resume the run, `None` if finished."""
        from submitit.helpers import DelayedSubmission

        if self._pid is not None:
            # Not through Popen: this can interrupt its wait(), which holds a lock.
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._pid, signal.SIGTERM)
                os.waitpid(self._pid, 0)
        if RunDir(self.trainer.study / self.run.folder).done:
            return None
        return DelayedSubmission(RunJob(self.trainer, self.run))


def queued_jobs() -> dict[str, str]:
    """Return the states of all queued and running jobs of this user by id.

    This calls squeue. submitit calls sacct, which needs an accounting database.

    Raises:
        TrainingError: Slurm does not answer.
    """
    command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i %T"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or error).strip()
        raise TrainingError(f"asking Slurm for its jobs: {said}") from error
    return dict(line.split(maxsplit=1) for line in found.stdout.splitlines())


@contextmanager
def _outside_jobs() -> Iterator[None]:
    """Hide the variables of the job that this may run in, except the path of slurm.conf."""
    from submitit.helpers import clean_env

    path = os.environ.get("SLURM_CONF")
    with clean_env():
        if path is not None:
            os.environ["SLURM_CONF"] = path
        yield


def _last_line(log: Path) -> str:
    """Return the last line of a log, ignoring lines of srun that do not mention a signal."""
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines()]
    useful = [line for line in lines if line and (line[:5] != "srun:" or "signal" in line)]
    return useful[-1] if useful else "(no output)"
