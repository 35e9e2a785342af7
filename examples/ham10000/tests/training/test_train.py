import json
import os
import random
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ranks
import torch
from torch import nn

from ham10000.errors import PredictionError, TrainingError
from ham10000.recipe import Recipe
from ham10000.training import INTERRUPTED, RunDir, train
from ham10000.training.checkpoint_file import read_latest
from ham10000.utils import PARTIAL

MakeRecipe = Callable[..., Recipe]

TRAIN: Any = sys.modules[train.__module__]
"""The module `train`, since the name in the package is the function."""

KILLS = int(os.environ.get("HAM10000_KILLS", "3"))
"""How often a run is killed; set it to 30 for a thorough test, of minutes."""


STOPS = int(os.environ.get("HAM10000_STOPS", "4"))
"""How often the process group of a run gets SIGTERM; likewise."""


@pytest.fixture(scope="module")
def whole(recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption. It is shared, so tests must not change it."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert ranks.run(train, recipe(), out) == [0]
    return out


def outcome(out: Path) -> tuple[bytes, list[torch.Tensor], list[dict[str, object]]]:
    """Return the results of a run: predictions, last weights, and metrics without times."""
    run = RunDir(out)
    content = read_latest(run)
    assert content is not None
    weights = [value for part in ("model", "ema") for value in content[part].values()]
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    for record in records:
        record.pop("seconds")
        record.pop("images_per_second", None)
    return run.predictions().read_bytes(), weights, records


def assert_same(first: Path, second: Path) -> None:
    (predicted, weights, records), (predicted2, weights2, records2) = (
        outcome(first),
        outcome(second),
    )
    assert all(torch.equal(a, b) for a, b in zip(weights, weights2, strict=True))
    assert predicted == predicted2
    assert records == records2


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_ends_where_it_would_have(
    recipe: MakeRecipe, tmp_path: Path, count: int
) -> None:
    training = {"monitor": "auc_weighted", "mode": "max", "head_first_epochs": 1}
    mine = recipe(training={**training, "epochs": max(3, KILLS)})
    assert ranks.run(train, mine, tmp_path / "whole", ranks=count) == [0] * count
    killed = tmp_path / "killed"
    moments = random.Random(count)
    for _ in range(KILLS):
        before = RunDir(killed).step_checkpoints()[:1]
        processes = ranks.start(train, mine, killed, ranks=count)
        ranks.wait_for(
            lambda before=before: (
                RunDir(killed).step_checkpoints()[:1] != before or RunDir(killed).done
            )
        )
        time.sleep(moments.random() * 0.3)
        ranks.kill(processes)
    assert ranks.run(train, mine, killed, ranks=count) == [0] * count
    assert_same(tmp_path / "whole", killed)


@pytest.mark.parametrize("write", [5, 10])
def test_killed_while_it_writes_it_ends_where_it_would_have(
    recipe: MakeRecipe, whole: Path, tmp_path: Path, write: int
) -> None:
    def dying() -> int:
        count = 0
        fsync = os.fsync

        def die(handle: int) -> None:
            nonlocal count
            count += stat.S_ISREG(os.fstat(handle).st_mode)
            if count == write:
                os.ftruncate(handle, 100)  # as if half of it had come to the disk
                os.kill(os.getpid(), signal.SIGKILL)
            fsync(handle)

        os.fsync = die
        return train(recipe(), tmp_path / "killed")

    assert ranks.run(dying) == [-signal.SIGKILL]
    assert list((tmp_path / "killed").rglob(f"{PARTIAL}*"))
    assert ranks.run(train, recipe(), tmp_path / "killed") == [0]
    assert_same(whole, tmp_path / "killed")
    assert not list((tmp_path / "killed" / "checkpoints").glob(f"{PARTIAL}*"))


def test_a_damaged_checkpoint_costs_a_few_steps(
    recipe: MakeRecipe, whole: Path, tmp_path: Path
) -> None:
    stopped = Path(shutil.copytree(whole, tmp_path / "stopped"))
    (stopped / "predictions.csv").unlink()
    newest = RunDir(stopped).step_checkpoints()[0]
    raw = bytearray(newest.read_bytes())
    raw[len(raw) // 2] ^= 16
    newest.write_bytes(raw)
    assert ranks.run(train, recipe(), stopped) == [0]
    assert "truncated or was changed" in (stopped / "log.txt").read_text()
    assert_same(whole, stopped)


@pytest.mark.parametrize("count", [1, 2])
def test_a_request_to_stop_saves_and_is_logged(
    recipe: MakeRecipe, tmp_path: Path, count: int
) -> None:
    mine = recipe(training={"epochs": 500, "checkpoint_steps": None})
    processes = ranks.start(train, mine, tmp_path, ranks=count)
    ranks.wait_for(lambda: bool(RunDir(tmp_path).step_checkpoints()))
    ranks.kill(processes[-1:], signal.SIGTERM)  # one hears it, and all stop
    assert ranks.wait(processes) == [INTERRUPTED] * count
    log = (tmp_path / "log.txt").read_text()
    assert "Stopped and saved, since SIGTERM was received" in log
    content = read_latest(RunDir(tmp_path))
    assert content is not None
    assert f"step-{content['state']['step']:08d}.pt" in {
        path.name for path in RunDir(tmp_path).step_checkpoints()
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_that_waits_for_another_to_join(
    recipe: MakeRecipe, tmp_path: Path, number: signal.Signals
) -> None:
    def alone() -> int:
        if os.environ["RANK"] == "1":
            return 0  # it ends before it has joined
        signal.signal(signal.SIGINT, signal.default_int_handler)
        join = torch.distributed.init_process_group

        def join_and_say(*given: Any, **named: Any) -> None:
            (tmp_path / "joins").touch()
            join(*given, **named)

        torch.distributed.init_process_group = join_and_say
        return train(recipe(), tmp_path / "run")

    processes = ranks.start(alone, ranks=2)
    ranks.wait_for((tmp_path / "joins").exists)
    time.sleep(1)
    ranks.kill(processes[:1], number)
    assert ranks.wait(processes, timeout=5) == [-number, 0]


def test_a_signal_ends_a_process_that_waits_for_the_data_of_another(
    recipe: MakeRecipe, tmp_path: Path
) -> None:
    def slow() -> int:
        prepare = TRAIN.prepare_data

        def prepare_slowly(*given: Any) -> Path:
            path: Path = prepare(*given)
            (tmp_path / os.environ["RANK"]).touch()
            if os.environ["RANK"] == "1":
                time.sleep(60)
            return path

        TRAIN.prepare_data = prepare_slowly
        return train(recipe(), tmp_path / "run")

    processes = ranks.start(slow, ranks=2)
    ranks.wait_for(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
    time.sleep(1)
    ranks.kill(processes, signal.SIGTERM)
    assert ranks.wait(processes, timeout=5) == [-signal.SIGTERM] * 2


def train_in_own_group(recipe: Recipe, out: Path) -> int:
    os.setsid()
    return train(recipe, out)


def test_a_signal_to_the_whole_group_stops_and_saves_with_workers_too(
    recipe: MakeRecipe, tmp_path: Path
) -> None:
    mine = recipe(data={"workers": 2}, training={"epochs": 12})
    assert ranks.run(train, mine, tmp_path / "whole") == [0]
    stopped = RunDir(tmp_path / "stopped")
    moments = random.Random(5)
    codes = []
    for _ in range(STOPS):
        (process,) = ranks.start(train_in_own_group, mine, stopped.path)
        said = stopped.log.stat().st_size if stopped.log.exists() else 0
        ranks.wait_for(lambda said=said: stopped.log.exists() and stopped.log.stat().st_size > said)
        time.sleep(moments.random() * 0.4)
        os.killpg(process.pid, signal.SIGTERM)
        codes += ranks.wait([process])
    assert set(codes) <= {INTERRUPTED, 0}
    assert codes.count(INTERRUPTED) >= STOPS // 2, "the run was over before the signals"
    assert ranks.run(train, mine, stopped.path) == [0]
    assert_same(tmp_path / "whole", stopped.path)


def test_when_its_time_is_over_it_saves(recipe: MakeRecipe, tmp_path: Path) -> None:
    mine = recipe(training={"max_minutes": 1e-6})
    assert ranks.run(train, mine, tmp_path) == [INTERRUPTED]
    assert [path.name for path in RunDir(tmp_path).step_checkpoints()] == ["step-00000000.pt"]


@pytest.mark.parametrize("data", [{"workers": 2}, {"cache": None}], ids=["workers", "cache"])
def test_workers_and_the_place_of_the_cache_change_nothing(
    recipe: MakeRecipe, whole: Path, tmp_path: Path, data: dict[str, object]
) -> None:
    assert ranks.run(train, recipe(data=data), tmp_path / "run") == [0]
    assert_same(whole, tmp_path / "run")


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_predict_what_one_does_to_the_last_digit(
    recipe: MakeRecipe, tmp_path: Path, count: int
) -> None:
    # 23 test images in batches of 5: uneven shards, and a last batch of 3.
    mine = recipe(training={"eval_batch_size": 5, "epochs": 1})
    assert ranks.run(train, mine, tmp_path / "one") == [0]
    run = RunDir(tmp_path / "one")
    expected = run.predictions().read_bytes()
    run.predictions().unlink()
    assert ranks.run(train, mine, run.path, ranks=count) == [0] * count
    assert run.predictions().read_bytes() == expected


def test_a_single_process_of_torchrun_joins_a_group_and_predicts_the_same(
    recipe: MakeRecipe, whole: Path, tmp_path: Path
) -> None:
    assert ranks.wait(ranks.start(train, recipe(), tmp_path / "run", torchrun=True)) == [0]
    assert_same(tmp_path / "run", whole)


def test_a_run_trains_on_an_augmented_set(
    recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ham10000.data.augment.offline.TARGET", 60)
    monkeypatch.setattr("ham10000.data.augment.offline.BATCH", 10)
    mine = recipe(data={"offline": "auto", "augment": "none"}, training={"epochs": 1})
    assert ranks.run(train, mine, tmp_path / "run") == [0]
    (made,) = tmp_path.glob("[!.]*-offline-*")
    count = len((made / "index.csv").read_text().splitlines()) - 1
    run = RunDir(tmp_path / "run")
    assert f"tiny: {count} train, " in run.log.read_text()


def test_the_loss_knows_the_epoch(
    recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(
        "ham10000.training.losses.MultiWeightedLoss.set_epoch",
        lambda self, epoch: shown.append(f"epoch {epoch}"),
    )

    def report(mine: Recipe, out: Path) -> int:
        status = train(mine, out)
        (tmp_path / "shown.txt").write_text("\n".join(shown))
        return status

    mine = recipe(loss={"name": "multi_weighted"}, training={"epochs": 2})
    assert ranks.run(report, mine, tmp_path / "run") == [0]
    lines = (tmp_path / "shown.txt").read_text().splitlines()
    assert lines == ["epoch 0", "epoch 0", "epoch 1"]  # when it is built, and in each epoch


def test_a_run_that_is_done_stays_as_it_is(recipe: MakeRecipe, whole: Path, tmp_path: Path) -> None:
    tmp_path = Path(shutil.copytree(whole, tmp_path / "run"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert ranks.run(train, recipe(), tmp_path) == [0]
    kept = ("predictions.csv", "metrics.jsonl", "split.csv", "recipe.yaml")
    assert all(path.read_bytes() == raw for path, raw in before.items() if path.name in kept)


def test_a_process_that_dies_ends_the_others(
    recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKS_LOG", str(tmp_path / "errors"))
    mine = recipe(training={"epochs": 500})
    processes = ranks.start(train, mine, tmp_path / "run", ranks=2)
    ranks.wait_for(lambda: bool(RunDir(tmp_path / "run").step_checkpoints()))
    ranks.kill(processes[1:])
    survivor, killed = ranks.wait(processes, timeout=30)
    assert killed == -signal.SIGKILL
    assert survivor == 1
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "another process of this run has ended or does not answer" in log
    assert "Continue from step-" in log


def test_a_split_that_is_gone_at_the_end_is_made_again(
    recipe: MakeRecipe, whole: Path, tmp_path: Path
) -> None:
    def losing() -> int:
        train_epochs = TRAIN._train_epochs

        def train_and_lose(setup: Any, *given: Any) -> bool:
            done: bool = train_epochs(setup, *given)
            setup.run.split.unlink()
            return done

        TRAIN._train_epochs = train_and_lose
        return train(recipe(), tmp_path)

    assert ranks.run(losing) == [1]
    assert "split.csv cannot be read any more" in RunDir(tmp_path).log.read_text()
    assert ranks.run(train, recipe(), tmp_path) == [0]
    assert_same(whole, tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_cache_that_is_truncated_in_use_is_named_and_rebuilt(
    recipe: MakeRecipe, cache: Path, whole: Path, tmp_path: Path, workers: int
) -> None:
    own = Path(shutil.copytree(cache, tmp_path / "cache"))
    mine = recipe(data={"cache": str(own), "workers": workers})

    def truncating() -> int:
        train_step = TRAIN.train_step

        def truncate(setup: Any, state: Any, *given: Any) -> float:
            if state.counters.step == 3:
                os.truncate(own / "images-1.npy", 1000)
            loss: float = train_step(setup, state, *given)
            return loss

        TRAIN.train_step = truncate
        return train(mine, tmp_path / "run")

    assert ranks.run(truncating) == [1]
    last = RunDir(tmp_path / "run").log.read_text().splitlines()[-1]
    assert "images-1.npy was truncated while it was in use. Rebuild it with: ham10000" in last
    assert ranks.run(train, mine, tmp_path / "run") == [0]
    assert_same(whole, tmp_path / "run")


@pytest.mark.parametrize("count", [1, 2])
def test_a_non_finite_loss_is_skipped_by_all_ranks(
    recipe: MakeRecipe, tmp_path: Path, count: int
) -> None:
    def poisoned(bad: set[int], limit: int) -> int:
        train_step = TRAIN.train_step

        def poison(setup, state, batches, timer):  # type: ignore[no-untyped-def]
            if state.counters.step in bad and setup.rank == 0:
                batch = next(batches)
                batch.images[1] = torch.nan
                batches = iter([batch])
            return train_step(setup, state, batches, timer)

        TRAIN.train_step = poison
        return train(recipe(training={"max_bad_steps": limit, "epochs": 2}), tmp_path / str(limit))

    assert ranks.run(poisoned, {2, 5}, 2, ranks=count) == [0] * count
    content = read_latest(RunDir(tmp_path / "2"))
    assert content is not None
    assert content["state"]["skipped"] == 2
    assert all(value.isfinite().all() for value in content["model"].values())
    log = (tmp_path / "2" / "log.txt").read_text()
    # Attention and batch norm spread it over a rank's batch, whose images are named.
    assert "Step 3 was skipped: the loss of ISIC_" in log
    assert ranks.run(poisoned, {2, 5}, 1, ranks=count) == [1] * count
    log = (tmp_path / "1" / "log.txt").read_text()
    assert "more than training.max_bad_steps 1" in log
    assert "The last good checkpoint is" in log


def test_a_gradient_that_is_not_finite_is_not_called_a_loss(
    recipe: MakeRecipe, tmp_path: Path
) -> None:
    def poisoned() -> int:
        train_step = TRAIN.train_step

        def poison(setup, state, batches, timer):  # type: ignore[no-untyped-def]
            if state.counters.step != 2:
                return train_step(setup, state, batches, timer)
            hook = next(state.model.parameters()).register_hook(
                lambda gradient: gradient * torch.inf
            )
            try:
                return train_step(setup, state, batches, timer)
            finally:
                hook.remove()

        TRAIN.train_step = poison
        return train(recipe(training={"epochs": 1}), tmp_path)

    assert ranks.run(poisoned) == [0]
    log = (tmp_path / "log.txt").read_text()
    assert "Step 3 was skipped: the gradient of " in log
    assert " is not finite, although each loss is (1 skipped so far)." in log


def test_an_infinite_loss_is_skipped_where_its_gradient_is_finite(
    recipe: MakeRecipe, tmp_path: Path
) -> None:
    def poisoned() -> int:
        train_step = TRAIN.train_step

        def poison(setup, state, batches, timer):  # type: ignore[no-untyped-def]
            if state.counters.step == 2:
                loss = setup.loss
                setup = replace(setup, loss=lambda *given: loss(*given) + torch.inf)
            return train_step(setup, state, batches, timer)

        TRAIN.train_step = poison
        return train(recipe(training={"epochs": 1}), tmp_path)

    assert ranks.run(poisoned) == [0]
    content = read_latest(RunDir(tmp_path))
    assert content is not None
    assert content["state"]["skipped"] == 1
    assert all(value.isfinite().all() for value in content["model"].values())


def test_short_memory_is_said_with_the_size_of_a_batch(recipe: MakeRecipe, tmp_path: Path) -> None:
    def hungry() -> int:
        def fail(*_: object) -> float:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 TiB")

        TRAIN.train_step = fail
        return train(recipe(), tmp_path)

    assert ranks.run(hungry) == [1]
    log = (tmp_path / "log.txt").read_text()
    assert "out of memory with training.batch_size 16" in log
    assert "raise optimizer.accumulate by" in log


def test_a_last_batch_of_one_is_left_out(recipe: MakeRecipe, tmp_path: Path) -> None:
    mine = recipe(data={"epoch_samples": 33}, training={"epochs": 1})
    assert ranks.run(train, mine, tmp_path) == [0]
    content = read_latest(RunDir(tmp_path))
    assert content is not None
    assert content["state"]["step"] == 2


@pytest.mark.parametrize(
    ("combined", "fusion"), [({"metadata": True}, "metablock"), ({"mix": "cutmix"}, "late")]
)
def test_all_that_a_recipe_can_ask_for_works_together(
    recipe: MakeRecipe, tmp_path: Path, combined: dict[str, object], fusion: str
) -> None:
    mine = recipe(
        data={"protocol": "lesion", "workers": 1, **combined},
        model={"fusion": fusion},
        optimizer={"accumulate": 2, "clip_norm": 1.0, "name": "adamw"},
        schedule={"name": "plateau", "patience": 0},
        training={"precision": "bf16", "head_first_epochs": 1, "patience": 1, "epochs": 4},
        logging={"tensorboard": True, "profile": 1},
    )
    assert ranks.run(train, mine, tmp_path) == [0]
    assert (tmp_path / "predictions-val.csv").exists()
    assert list((tmp_path / "tensorboard").iterdir())
    assert json.loads((tmp_path / "profile" / "trace.json").read_text())["traceEvents"]
    facts = json.loads((tmp_path / "environment.json").read_text())
    assert facts["processes"] == 1


def test_the_log_has_the_parameters_of_each_part(whole: Path) -> None:
    lines = RunDir(whole).log.read_text().splitlines()
    for part in ("backbone", "head", "all"):
        assert any(f"│ {part} " in line for line in lines)


def test_weights_with_non_finite_outputs_fail_with_an_explanation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(*_: Any, **__: Any) -> None:
        raise PredictionError("predicting: row 2 has a non-finite probability.")

    monkeypatch.setattr(TRAIN, "predict", predict)
    run = RunDir(tmp_path)
    run.checkpoints.mkdir()
    run.step_checkpoint(3).touch()
    setup: Any = SimpleNamespace(
        validation=None,
        validation_split="val",
        recipe=None,
        rank=0,
        fabric=SimpleNamespace(device="cpu"),
        plan=SimpleNamespace(replicas=1),
        run=run,
    )
    state: Any = SimpleNamespace(
        model=nn.Linear(1, 1), ema=None, evaluated_model=None, counters=SimpleNamespace(step=7)
    )
    with pytest.raises(TrainingError, match=r"after step 7.*diverged.*step-00000003\.pt.*lr"):
        TRAIN.evaluate(setup, state)
