import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ranks

from ham10000.errors import ArgumentError, CheckpointError, MissingDataError, RecipeError
from ham10000.recipe import Recipe, dump_recipe, load_recipe, save_recipe
from ham10000.training import INTERRUPTED, TRAINER_LOCK, train
from ham10000.training.checkpoint_file import save_step
from ham10000.training.run_dir import (
    RunDir,
    check_same_recipe,
    claim_run,
    find_run,
    with_absolute_paths,
)
from ham10000.utils import PARTIAL


def test_another_recipe_is_refused_by_the_field_that_differs(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run, _ = claim_run(tmp_path / "run", recipe())
    save_step(run, 1, {"step": 1}, keep=1)
    with pytest.raises(RecipeError, match=r"with optimizer.lr 0.001 instead of 0.5. Choose"):
        claim_run(run.path, recipe(optimizer={"lr": 0.5}))
    claim_run(run.path, recipe(data={"workers": 1}, training={"max_minutes": 3}))
    assert load_recipe(run.recipe).data.workers == 1


def test_a_finished_run_without_its_weights_keeps_recipe_and_predictions(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run, mine = claim_run(tmp_path / "run", recipe())
    run.predictions().touch()
    with pytest.raises(RecipeError, match=r"with optimizer.lr 0.001 instead of 0.5. Choose"):
        claim_run(run.path, recipe(optimizer={"lr": 0.5}))
    with pytest.raises(CheckpointError, match=r"with training.tta 1, .* with 8, is gone"):
        claim_run(run.path, recipe(training={"tta": 8}))
    assert load_recipe(run.recipe) == mine
    assert run.done


def test_paths_do_not_depend_on_the_working_directory(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fields = {"data": {"offline": Path("augmented")}, "model": {"weights": "backbone.pt"}}
    found = with_absolute_paths(recipe(**fields))
    assert found.data.offline == tmp_path / "augmented"
    assert found.model.weights == str(tmp_path / "backbone.pt")
    packaged = {"data": {"offline": "auto"}, "model": {"weights": "efficientnet-lite0"}}
    found = with_absolute_paths(recipe(**packaged))
    assert (found.data.offline, found.model.weights) == ("auto", "efficientnet-lite0")


def test_before_anything_is_trained_a_recipe_may_change(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run, _ = claim_run(tmp_path / "run", recipe())
    run.split.touch()
    claim_run(run.path, recipe(optimizer={"lr": 0.5}))
    assert load_recipe(run.recipe).optimizer.lr == 0.5
    assert not run.split.exists()


def test_a_folder_whose_process_was_killed_while_claiming_it_can_be_claimed(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    def killed() -> None:
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        claim_run(tmp_path / "run", recipe())

    assert ranks.run(killed) == [-signal.SIGKILL]
    assert not RunDir(tmp_path / "run").recipe.exists()
    assert list((tmp_path / "run").glob(f"{PARTIAL}*"))
    run, _ = claim_run(tmp_path / "run", recipe())
    assert run.recipe.exists()
    assert not list(run.path.glob(f"{PARTIAL}*"))


def test_a_folder_of_something_else_is_left_alone(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ArgumentError, match=r"holds 'letter.txt' and is not a run"):
        claim_run(tmp_path, recipe())
    with pytest.raises(MissingDataError, match="ham10000 train RECIPE --out"):
        find_run(tmp_path)


def test_paths_are_spelled_out(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, resolved = claim_run(Path("run"), recipe(data={"root": "images"}))
    assert resolved.data.root == tmp_path / "images"
    assert load_recipe(Path("run") / "recipe.yaml") == resolved


def test_a_recipe_may_differ_where_the_weights_do_not(recipe: Callable[..., Recipe]) -> None:
    trained = dump_recipe(recipe())
    check_same_recipe(trained, recipe(), "resuming")
    check_same_recipe(
        trained,
        recipe(data={"workers": 3}, training={"tta": 2, "crops": 4, "crop_scale": 0.5}),
        "resuming",
    )
    other = recipe(optimizer={"lr": 0.5}, training={"epochs": 9})
    with pytest.raises(
        RecipeError, match=r"resuming: .* optimizer.lr was 0.001 and is now 0.5 and 1 more field"
    ):
        check_same_recipe(trained, other, "resuming")


def test_checkpoints_are_listed_from_the_newest(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.step_checkpoints() == []
    run.checkpoints.mkdir()
    for step in (9, 123_456_789, 10):
        run.step_checkpoint(step).touch()
    (run.checkpoints / "step-1.pt").touch()  # not a name of ours
    run.best.touch()
    assert run.step_checkpoints() == [run.step_checkpoint(step) for step in (123_456_789, 10, 9)]


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


@pytest.mark.slow
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
