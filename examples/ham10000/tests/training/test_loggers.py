import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import ranks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ham10000.errors import TrainingError
from ham10000.recipe import Recipe
from ham10000.training import claim_run, train
from ham10000.training.loggers import open_loggers, trace_steps
from ham10000.training.state import Counters


def test_tensorboard_has_scalars_confusion_and_attention(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    mine = recipe(logging={"tensorboard": True, "attention_images": 3}, training={"epochs": 2})
    assert ranks.run(train, mine, tmp_path) == [0]
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    scalars = events.Scalars("test/balanced_accuracy")
    assert [event.step for event in scalars] == [1, 2]
    assert {"train/loss", "train/lr", "train/images_per_second"} <= set(events.Tags()["scalars"])
    images = events.Tags()["images"]
    assert "test/confusion" in images
    assert any(name.startswith("test/attention") for name in images)


def test_wandb_gets_the_scalars_of_tensorboard(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "told").mkdir()

    class Told(ModuleType):
        def init(self, **options: object) -> "Told":
            assert options["name"] == "tiny"
            return self

        def log(self, scalars: dict[str, float], step: int) -> None:
            (tmp_path / "told" / str(step)).write_text(str(sorted(scalars)))
            raise ConnectionError("no network")  # which is no reason to stop

        def finish(self) -> None:
            (tmp_path / "told" / "end").touch()

    monkeypatch.setitem(sys.modules, "wandb", Told("wandb"))
    mine = recipe(logging={"wandb": True}, training={"epochs": 2})
    assert ranks.run(train, mine, tmp_path / "run") == [0]
    assert sorted(path.name for path in (tmp_path / "told").iterdir()) == ["1", "2", "end"]
    assert "'test/auc_weighted'" in (tmp_path / "told" / "2").read_text()


def test_a_missing_wandb_is_reported(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run, mine = claim_run(tmp_path / "run", recipe(logging={"wandb": True}))
    with pytest.raises(TrainingError, match="pip install wandb"):
        open_loggers(mine, run, epoch=0)


def test_only_the_first_epoch_of_rank_0_is_traced() -> None:
    def traced(profile: int, epoch: int, rank: int) -> bool:
        setup: Any = SimpleNamespace(
            recipe=SimpleNamespace(logging=SimpleNamespace(profile=profile)), rank=rank, run=None
        )
        with trace_steps(setup, Counters(epoch=epoch)) as step_done:
            return step_done() is not None

    start = time.perf_counter()
    assert not any([traced(0, 0, 0), traced(3, 1, 0), traced(3, 0, 1)])
    assert time.perf_counter() - start < 60
