import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ranks

from ham10000.errors import TrainingError, WriteError
from ham10000.recipe import Recipe, load_recipe, save_recipe
from ham10000.training import INTERRUPTED, LAUNCHER_LOCK, TRAINER_LOCK, RunDir, lock_run, train


def hold_and_fork(folder: Path) -> None:
    with lock_run(folder):
        if os.fork() == 0:
            (folder / "forked").write_text(str(os.getpid()))
        signal.pause()


def test_the_lock_ends_with_its_process_even_if_forked_ones_live_on(tmp_path: Path) -> None:
    holders = ranks.start(hold_and_fork, tmp_path)
    ranks.wait_for(
        lambda: bool((tmp_path / "forked").exists() and (tmp_path / "forked").read_text())
    )
    forked = int((tmp_path / "forked").read_text())
    for name in (LAUNCHER_LOCK, TRAINER_LOCK):
        with (
            pytest.raises(
                TrainingError, match=rf"{tmp_path}: process {holders[0].pid} on .+ is al"
            ),
            lock_run(tmp_path, name),
        ):
            pass
    ranks.kill(holders)
    try:
        os.kill(forked, 0)
        with lock_run(tmp_path):
            pass
    finally:
        os.kill(forked, signal.SIGKILL)


def test_a_folder_that_cannot_be_made_is_an_error_of_writing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="writing"), lock_run(tmp_path / "file" / "run"):
        pass


@pytest.mark.parametrize("count", [1, 2])
def test_a_second_start_is_refused_before_it_writes_anything(
    recipe: Callable[..., Recipe],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    count: int,
) -> None:
    run = RunDir(tmp_path / "run")
    # The first checkpoint is far away: without one, another recipe replaces the folder's.
    mine = recipe(data={"epoch_samples": 10**6}, training={"checkpoint_steps": None})
    first = ranks.start(train, mine, run.path, ranks=count)
    try:
        ranks.wait_for(lambda: run.log.exists() and run.split.exists())
        before = {path: path.read_bytes() for path in (run.recipe, run.split)}
        for other in (mine, recipe(optimizer={"lr": 0.5}, data={"split_seed": 9})):
            assert ranks.run(train, other, run.path, ranks=count) == [1] * count
        said = capfd.readouterr().err
        assert said.count(f"{run.path}: process {first[0].pid} on ") == 2 * count
        assert not run.step_checkpoints(), "the first run should not have come to a checkpoint yet"
        assert all(path.read_bytes() == raw for path, raw in before.items())
        ranks.kill(first, signal.SIGTERM)
        assert ranks.wait(first) == [INTERRUPTED] * count
    finally:
        ranks.kill(first)


def test_a_launcher_and_its_processes_each_keep_others_away(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    mine = recipe(training={"epochs": 1000})
    save_recipe(mine, tmp_path / "tiny.yaml")
    save_recipe(recipe(optimizer={"lr": 0.5}), tmp_path / "other.yaml")
    command = [sys.executable, "-m", "ham10000", "train", "--out", str(run.path)]
    launched = subprocess.Popen(
        [*command, str(tmp_path / "tiny.yaml"), "--processes", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    trainer = run.path / TRAINER_LOCK
    # Its processes need seconds until one of them has the second lock.
    ranks.wait_for(lambda: (run.path / "recipe.yaml").exists())
    second = [*command, str(tmp_path / "other.yaml"), "--processes", "2"]
    refused = subprocess.run(second, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert f"process {launched.pid} on " in refused.stderr
    ranks.wait_for(lambda: bool(run.step_checkpoints()))
    launched.kill()
    launched.wait()
    holder = int(trainer.read_text().split()[1])
    try:
        refused = subprocess.run(second, capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert f"process {holder} on " in refused.stderr
        assert load_recipe(run.recipe).optimizer.lr == mine.optimizer.lr
    finally:
        os.kill(holder, signal.SIGKILL)
        ranks.wait_for(lambda: not Path(f"/proc/{holder}").exists())
