import threading
import time
from pathlib import Path

import pytest

from ham10000.errors import TrainingError
from ham10000.study import runner
from ham10000.study.plan import PlannedRun
from ham10000.study.runner import RunTrainer, train_missing, worker_environments

RUNS = [PlannedRun("bare", seed) for seed in range(5)]


def test_a_run_is_the_command_that_a_person_would_type(tmp_path: Path) -> None:
    trainer = RunTrainer(tmp_path, {"bare": Path("bare.yaml")}, ["data.size=64"])
    command = trainer.command(PlannedRun("bare", 3, fold=1))
    assert command[1:5] == ["-m", "ham10000", "train", "bare.yaml"]
    assert command[5:] == [
        "--out",
        str(tmp_path / "runs/bare-seed3-fold1"),
        "--processes",
        "1",
        "--seed=3",
        "--data.fold=1",
        "--data.size=64",
    ]


def test_a_failure_quotes_the_output_of_the_run(tmp_path: Path) -> None:
    trainer = RunTrainer(tmp_path, {"bare": tmp_path / "nowhere.yaml"}, [])
    with pytest.raises(TrainingError, match=r"exited with status 1.*nowhere\.yaml"):
        trainer(PlannedRun("bare", 0), {})


def test_an_environment_has_one_run_at_a_time() -> None:
    lock, busy, most = threading.Lock(), set[str](), 0

    def trainer(run: PlannedRun, environment: dict[str, str]) -> None:
        nonlocal most
        with lock:
            assert environment["name"] not in busy
            busy.add(environment["name"])
            most = max(most, len(busy))
        time.sleep(0.02)
        with lock:
            busy.remove(environment["name"])

    said: list[str] = []
    train_missing(trainer, RUNS, [{"name": "a"}, {"name": "b"}], said.append)
    assert most == 2
    assert said[-1].endswith("trained, 5 of 5")
    assert {line.partition(":")[0] for line in said} == {run.folder for run in RUNS}


def test_no_run_starts_after_a_failure() -> None:
    begun: list[int] = []

    def trainer(run: PlannedRun, environment: dict[str, str]) -> None:
        begun.append(run.seed)
        time.sleep(0.02)
        raise TrainingError("no")

    with pytest.raises(TrainingError):
        train_missing(trainer, RUNS, [{}, {}])
    assert len(begun) <= 2


@pytest.mark.parametrize(
    ("gpus", "cores", "parallel", "processes", "runs", "expected"),
    [
        (0, 8, None, 1, 3, [{"OMP_NUM_THREADS": "2"}] * 3),
        (0, 2, None, 1, 4, [{"OMP_NUM_THREADS": "1"}] * 2),
        (0, 2, 1, 1, 4, [{"OMP_NUM_THREADS": "2"}]),
        (2, 8, None, 1, 4, [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]),
        (0, 8, None, 2, 4, [{"OMP_NUM_THREADS": "1"}] * 4),
        (4, 8, None, 2, 4, [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]),
        (0, 2, None, 1, 0, [{"OMP_NUM_THREADS": "2"}]),
    ],
)
def test_worker_environments(
    gpus: int,
    cores: int,
    parallel: int | None,
    processes: int,
    runs: int,
    expected: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner.torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(runner, "available_cores", lambda: cores)
    assert worker_environments(parallel, runs, processes) == expected
