import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ranks

from ham10000.errors import DataError, LockedError, MissingPackageError, TrainingError
from ham10000.recipe import Recipe, make_recipe
from ham10000.study import JobOptions, cluster
from ham10000.study.cluster import SubmititLauncher, queued_jobs
from ham10000.study.launcher import RunTrainer, claim_runs
from ham10000.study.plan import PlannedRun
from ham10000.training import RunDir, lock_run

pytest.importorskip("submitit", reason="needs the extra cluster: pip install submitit")

RUNS = [PlannedRun("tiny", seed) for seed in range(3)]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of stand-ins for Slurm's commands: the queue is a text file."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    scripts = {
        "srun": "exit 1",
        "sbatch": f"cp $1 {folder}/submitted; env > {folder}/env; echo Submitted batch job 7",
        "squeue": f"cat {folder}/queue",
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(cluster, "_POLL_SECONDS", 0)
    (folder / "queue").touch()
    return folder


def finish(study: Path, run: PlannedRun) -> None:
    RunDir(study / run.folder).predictions().touch()


def unset(runs: list[PlannedRun]) -> dict[PlannedRun, Recipe]:
    return {run: Recipe(run.recipe, seed=run.seed) for run in runs}


def test_the_resources_of_a_job_are_those_of_its_array(slurm: Path, tmp_path: Path) -> None:
    options = JobOptions(
        partition="gpu",
        timeout_min=90,
        gpus_per_node=2,
        cpus_per_task=8,
        mem_gb=32,
        sbatch="--account=vision --mail-type='END,FAIL' exclusive",
    )
    with pytest.raises(TrainingError, match=r"job 7_0 ended .+ 2 more failed too\. Run the same"):
        list(SubmititLauncher(tmp_path / "study", options, parallel=2)(unset(RUNS), print))
    text = (slurm / "submitted").read_text()
    found = {line.removeprefix("#SBATCH ") for line in text.splitlines() if "#SBATCH" in line}
    assert found >= {
        "--account=vision",
        "--array=0-2%2",
        "--cpus-per-task=8",
        "--exclusive",
        "--gpus-per-node=2",
        "--job-name=ham10000",
        "--mail-type=END,FAIL",
        "--mem=32GB",
        "--partition=gpu",
        "--signal=USR2@120",
        "--time=90",
    }
    assert " --cpus-per-task=8 " in next(line for line in text.splitlines() if "srun" in line)


def test_unset_resources_are_left_to_the_cluster(slurm: Path, tmp_path: Path) -> None:
    launcher = SubmititLauncher(tmp_path / "study", JobOptions(timeout_min=1))
    with pytest.raises(TrainingError, match="job 7 ended before the run was finished"):
        list(launcher(unset(RUNS[:1]), print))
    text = (slurm / "submitted").read_text()
    assert "--signal=USR2@30" in text
    assert not any(name in text for name in ("partition", "gpus", "cpus", "mem", "array"))


def test_a_submission_from_a_job_keeps_only_the_path_of_slurm_conf(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/other.conf")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    with pytest.raises(TrainingError, match="job 7 ended before the run was finished"):
        list(SubmititLauncher(tmp_path / "study")(unset(RUNS[:1]), print))
    found = [line for line in (slurm / "env").read_text().splitlines() if line[:6] == "SLURM_"]
    assert found == ["SLURM_CONF=/etc/slurm/other.conf"]
    assert os.environ["SLURM_MEM_PER_CPU"] == "100"


def test_a_run_has_one_job_at_a_time(slurm: Path, tmp_path: Path) -> None:
    study, said = tmp_path / "study", list[str]()
    (slurm / "queue").write_text("7_0 RUNNING\n7_1 PENDING\n7_2 PENDING\n8 RUNNING\n")

    def interrupt(line: str) -> None:
        if line == "Jobs: 2 pending, 1 running":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(SubmititLauncher(study)(unset(RUNS), interrupt))
    (slurm / "submitted").unlink()
    # Meanwhile one run is finished, and a job is cancelled.
    finish(study, RUNS[0])
    (slurm / "queue").write_text("7_2 RUNNING\n")
    trained = SubmititLauncher(study)(unset(RUNS[1:]), said.append)
    finish(study, RUNS[1])
    assert next(trained) == RUNS[1]
    assert said[:3] == [
        "Queued or running since an earlier call: 1",
        "Ended before the run was finished: 1",
        f"Submitted: 1. Logs are in {study / 'jobs'}",
    ]
    assert "--array" not in (slurm / "submitted").read_text()
    finish(study, RUNS[2])
    (slurm / "queue").write_text("")
    assert list(trained) == [RUNS[2]]


def test_a_run_that_is_training_without_a_recorded_job_is_not_submitted(
    slurm: Path, tmp_path: Path
) -> None:
    with lock_run(tmp_path / RUNS[0].folder), pytest.raises(LockedError, match="training into"):
        next(SubmititLauncher(tmp_path)(unset(RUNS), print))
    assert not (slurm / "submitted").exists()


def test_all_jobs_are_waited_for_before_a_failure_is_raised(slurm: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def log(line: str) -> None:
        said.append(line)
        if line == "Jobs: 2 running":
            for job in range(2):
                text = f"ModuleNotFoundError: no job {job}\nsrun: error: vm: task 0: Exited\n"
                (tmp_path / f"jobs/7_{job}/7_{job}_0_log.out").write_text(text)
            (slurm / "queue").write_text("")
            finish(tmp_path, RUNS[1])

    (slurm / "queue").write_text("7_0 RUNNING\n7_1 RUNNING\n")
    trained = SubmititLauncher(tmp_path)(unset(RUNS[:2]), log)
    assert next(trained) == RUNS[1]
    message = (
        r"training runs/tiny-seed0: job 7_0 ended before the run was finished\. Last line of its "
        r"log: ModuleNotFoundError: no job 0 The full log is in .+7_0_0_log\.out\. Run the same"
    )
    with pytest.raises(TrainingError, match=message):
        list(trained)


def test_a_failed_trainer_is_quoted_by_its_own_output(slurm: Path, tmp_path: Path) -> None:
    def log(line: str) -> None:
        if line.startswith("Submitted"):
            (tmp_path / "jobs/7/7_0_log.out").write_text("x.TrainingError: status 1\nsrun: error\n")
            (tmp_path / f"{RUNS[0].folder}.txt").write_text("epoch 1\nCUDA out of memory.\n")

    message = r"job 7 ended.+ log: CUDA out of memory\. The full log is in .+tiny-seed0\.txt\. Run"
    with pytest.raises(TrainingError, match=message):
        list(SubmititLauncher(tmp_path)(unset(RUNS[:1]), log))


def test_slurm_may_be_down_for_a_while(slurm: Path, tmp_path: Path) -> None:
    (slurm / "queue").write_text("7 RUNNING\n")
    squeue, said = (slurm / "squeue").read_text(), list[str]()

    def log(line: str) -> None:
        said.append(line)
        if line == "Jobs: 1 running":
            (slurm / "squeue").write_text("#!/bin/sh\necho Unable to contact >&2; exit 1\n")
        elif "Trying again" in line:
            (slurm / "squeue").write_text(squeue)
            finish(tmp_path, RUNS[0])

    assert list(SubmititLauncher(tmp_path)(unset(RUNS[:1]), log)) == RUNS[:1]
    assert said[-1] == "Jobs: asking Slurm for its jobs: Unable to contact. Trying again"
    (slurm / "squeue").write_text("#!/bin/sh\necho Unable to contact >&2; exit 1\n")
    with pytest.raises(TrainingError, match="asking Slurm for its jobs: Unable to contact"):
        queued_jobs()


def test_a_rejected_submission_quotes_sbatch(slurm: Path, tmp_path: Path) -> None:
    text = "#!/bin/sh\necho sbatch: error: invalid partition specified >&2; exit 1\n"
    (slurm / "sbatch").write_text(text)
    with pytest.raises(
        TrainingError, match=r"3 jobs: sbatch: error: invalid partition specified\. No"
    ):
        next(SubmititLauncher(tmp_path)(unset(RUNS), print))
    assert not (tmp_path / "jobs.json").exists()


def test_a_damaged_list_of_jobs_is_named(slurm: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs.json").write_text("{")
    with pytest.raises(DataError, match=r"jobs\.json: it is damaged .* remove it"):
        next(SubmititLauncher(tmp_path)(unset(RUNS), print))


def test_what_is_missing_is_named(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TrainingError, match=r"srun was not found.*--launcher local"):
        SubmititLauncher(tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MissingPackageError, match="pip install submitit"):
        SubmititLauncher(tmp_path)


def tiny(data: Path, seed: int, **training: object) -> Recipe:
    return make_recipe(
        {
            "name": "tiny",
            "seed": seed,
            "data": {
                "root": str(data),
                "size": 16,
                "epoch_samples": 32,
                "workers": 0,
                "protocol": "paper",
            },
            "model": {"backbone": "ham10000:tiny", "at": "block2"},
            "training": {"epochs": 1, "batch_size": 16, **training},
            "logging": {"tensorboard": False},
        }
    )


def children(process: str) -> list[str]:
    """Return the processes below a process."""
    below = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [*below, *(each for child in below for each in children(child))]


class LocalJobs:
    """Jobs of submitit's local executor. Their ids are process ids."""

    def queued(self) -> dict[str, str]:
        found = {}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if b"submitit.local._local" in path.read_bytes():
                    found[path.parent.name] = "RUNNING"
            except OSError:  # it has just ended
                continue
        return found

    def warn(self, job: str) -> None:
        """Warn all processes of a job of its time limit, as Slurm does."""
        for process in children(job):
            os.kill(int(process), signal.SIGUSR2)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalJobs]:
    found = LocalJobs()
    before = set(found.queued())
    monkeypatch.setattr(cluster, "_EXECUTOR", "local")
    monkeypatch.setattr(cluster, "_POLL_SECONDS", 0.5)
    monkeypatch.setattr(cluster, "queued_jobs", found.queued)
    yield found
    for job in set(found.queued()) - before:
        os.kill(int(job), signal.SIGKILL)


@pytest.mark.slow
def test_a_job_outlives_an_interruption_and_is_requeued_after_a_warning(
    synthetic: Path,
    tmp_path: Path,
    jobs: LocalJobs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = RUNS[0]
    runs = {run: tiny(synthetic, seed=0, epochs=30)}
    launcher = SubmititLauncher(tmp_path / "study", JobOptions(timeout_min=10))
    folder = RunDir(tmp_path / "study" / run.folder)
    output = folder.path.with_suffix(".txt")

    def interrupt(line: str) -> None:
        if line.startswith("Jobs: "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(launcher(runs, interrupt))
    (job,) = json.loads((tmp_path / "study/jobs.json").read_text()).values()
    ranks.wait_for(lambda: bool(folder.step_checkpoints()))
    assert job in jobs.queued()
    jobs.warn(job)
    ranks.wait_for(lambda: "Stopped and saved, since SIGTERM" in output.read_text())

    said: list[str] = []
    assert list(launcher(runs, said.append)) == [run]
    assert said[0] == "Queued or running since an earlier call: 1"
    assert not any("Submitted" in line for line in said)
    assert "Resuming from step" in output.read_text()

    claim_runs(tmp_path / "local", runs)
    RunTrainer(tmp_path / "local")(run, {})
    expected = RunDir(tmp_path / "local" / run.folder).predictions().read_bytes()
    assert folder.predictions().read_bytes() == expected
