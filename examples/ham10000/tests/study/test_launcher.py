import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import timm
import torch

from ham10000.errors import ArgumentError, RecipeError, TrainingError
from ham10000.recipe import Recipe
from ham10000.study import launcher, run_study
from ham10000.study.launcher import (
    FrozenLauncher,
    LocalLauncher,
    RunTrainer,
    train_in_parallel,
    worker_environments,
)
from ham10000.study.plan import PlannedRun
from ham10000.training import INTERRUPTED, RunDir, open_run

RUNS = [PlannedRun("bare", seed) for seed in range(5)]


def test_a_run_is_the_command_that_a_person_would_type(tmp_path: Path) -> None:
    command = RunTrainer(tmp_path, processes=2).command(PlannedRun("bare", 3, fold=1))
    assert command[1:4] == ["-m", "ham10000", "train"]
    run = str(tmp_path / "runs/bare-seed3-fold1")
    assert command[4:] == ["--resume", run, "--processes", "2"]


def test_a_failure_quotes_the_output_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(TrainingError, match=r"exited with status 1.*no recipe\.yaml.*to resume"):
        RunTrainer(tmp_path)(PlannedRun("bare", 0), {})


def test_a_run_that_was_stopped_is_not_described_by_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"asked to stop, and has saved.*again to resume"):
        RunTrainer(tmp_path).check(PlannedRun("bare", 0), INTERRUPTED)


def test_a_folder_with_something_else_is_refused_before_any_training(tmp_path: Path) -> None:
    runs = {run: Recipe(run.recipe, seed=run.seed) for run in RUNS}
    other = tmp_path / RUNS[-1].folder
    other.mkdir(parents=True)
    (other / "thesis.tex").touch()
    with pytest.raises(ArgumentError, match="thesis"):
        next(LocalLauncher(tmp_path)(runs, print))
    assert not list(tmp_path.glob("runs/*.txt"))


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

    finished = list(train_in_parallel(trainer, RUNS, [{"name": "a"}, {"name": "b"}]))
    assert most == 2
    assert sorted(run.seed for run in finished) == [0, 1, 2, 3, 4]


def test_no_run_starts_after_a_failure() -> None:
    begun: list[int] = []

    def trainer(run: PlannedRun, environment: dict[str, str]) -> None:
        begun.append(run.seed)
        time.sleep(0.02)
        raise TrainingError("no")

    with pytest.raises(TrainingError):
        list(train_in_parallel(trainer, RUNS, [{}, {}]))
    assert len(begun) <= 2


def test_no_run_starts_after_the_iterator_is_closed() -> None:
    begun: list[int] = []

    def trainer(run: PlannedRun, environment: dict[str, str]) -> None:
        begun.append(run.seed)
        time.sleep(0.02)

    finished = train_in_parallel(trainer, RUNS, [{}])
    next(finished)
    finished.close()
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
    monkeypatch.setattr(launcher.torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(launcher, "available_cores", lambda: cores)
    assert worker_environments(parallel, runs, processes) == expected


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher.torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ArgumentError, match=r"2 processes for each run .* found 1\. Use"):
        worker_environments(None, 4, processes=2)


def write_frozen_recipes(folder: Path, data: Path, *, frozen: bool = True) -> list[Path]:
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "tiny.pth")
    base = {
        "name": "mean",
        "data": {"root": str(data), "size": 64, "augment": "none", "epoch_samples": 64},
        "model": {"backbone": "timm:test_resnet", "frozen": frozen},
        "training": {"epochs": 1, "monitor": "epoch", "mode": "max"},
    }
    base["model"] |= {"weights": str(folder / "tiny.pth")}  # type: ignore[operator]
    soft = {**base, "name": "soft", "attention": {"layer": "soft", "gamma": "uniform"}}
    paths = [folder / "mean.yaml", folder / "soft.yaml"]
    for path, content in zip(paths, (base, soft), strict=True):
        path.write_text(json.dumps(content))  # JSON is YAML
    return paths


def test_a_frozen_study(synthetic: Path, tmp_path: Path) -> None:
    out, lines = tmp_path / "study", list[str]()
    recipes = write_frozen_recipes(tmp_path, synthetic)
    result = run_study(recipes, [0, 1], out, folds=2, parallel=1, log=lines.append)
    assert set(result["comparisons"]) == {"soft"}
    assert len([line for line in lines if "trained, " in line]) == 8
    assert [line.split(":")[0] for line in lines].count("Features of timm") == 1
    runs = sorted((out / "runs").glob("*-seed*"))
    assert len(runs) == 8
    for fold in (0, 1):
        own = [run for run in runs if run.name.endswith(f"fold{fold}")]
        assert len({(run / "split.csv").stat().st_ino for run in own}) == 1
    assert open_run(runs[0]).load_model() is not None

    # The same command trains only what is missing, with the same result.
    lost = RunDir(runs[-1])
    before = lost.predictions().read_bytes()
    lost.predictions().unlink()
    lines.clear()
    again = run_study(recipes, [0, 1], out, folds=2, parallel=1, log=lines.append)
    assert [line for line in lines if "trained, " in line] == [
        f"runs/{runs[-1].name}: trained, 1 of 1"
    ]
    assert lost.predictions().read_bytes() == before
    assert again["comparisons"] == result["comparisons"]


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [True, False])
def test_no_process_of_a_study_outlives_its_parent(
    synthetic: Path, tmp_path: Path, frozen: bool
) -> None:
    recipes, out = write_frozen_recipes(tmp_path, synthetic, frozen=frozen), tmp_path / "study"
    command = [sys.executable, "-m", "ham10000", "study", *map(str, recipes), "--out", str(out)]
    options = ["--seeds", "0", "1", "--parallel", "2", "training.epochs=100000"]
    study = psutil.Popen([*command, *options], stdout=subprocess.DEVNULL)
    children: list[psutil.Process] = []
    try:
        # Heads train as soon as their runs have an environment.json; other runs log their steps.
        started = "runs/*/environment.json" if frozen else "runs/*/metrics.jsonl"
        deadline = time.monotonic() + 600
        while len(list(out.glob(started))) < 2:
            assert study.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        children = study.children(recursive=True)
        study.terminate()
        # Other runs end first, since they save a checkpoint.
        assert study.wait(60) == (-signal.SIGTERM if frozen else 128 + signal.SIGTERM)
        ended, alive = psutil.wait_procs(children, timeout=30)
        assert len(ended) >= 2
        assert not alive
        saved = {path.parents[1] for path in out.glob("runs/*/checkpoints/step-*.pt")}
        assert frozen or len(saved) == 2
    finally:
        for process in (study, *children):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def test_a_frozen_recipe_with_augmentation_is_refused_before_any_training(
    synthetic: Path, tmp_path: Path
) -> None:
    recipes = write_frozen_recipes(tmp_path, synthetic)
    out = tmp_path / "study"
    with pytest.raises(RecipeError, match=r"so data\.augment cannot be 'flips'"):
        run_study(recipes, [0, 1], out, overrides=["data.augment=flips"])
    assert not (out / "runs").exists()


def test_no_frozen_runs(tmp_path: Path) -> None:
    assert list(FrozenLauncher(tmp_path)({}, print)) == []


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError("no links")

    monkeypatch.setattr(launcher.os, "link", refuse)
    (tmp_path / "a.csv").write_text("image_id\n")
    launcher._link(tmp_path / "a.csv", tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text() == "image_id\n"
