import base64
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import ranks
import wandb_file
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ham10000.data import CLASSES
from ham10000.errors import TrainingError
from ham10000.evaluation import read_predictions
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


def test_wandb_records_config_scalars_confusion_attention_and_the_model(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs Weights & Biases: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    mine = recipe(logging={"wandb": True, "attention_images": 3}, training={"epochs": 2})
    run = tmp_path / "run"
    assert ranks.run(train, mine, run) == [0]
    folder = run / "wandb"
    records = wandb_file.read_records(folder)

    config = wandb_file.config(records)
    saved = yaml.safe_load((run / "recipe.yaml").read_text())
    assert {name: config[name] for name in saved} == saved

    rows = wandb_file.history(records)
    assert [row["_step"] for row in rows] == [1, 2]
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    written = {line["epoch"]: line for line in lines if line["split"] == "test"}
    (media,) = folder.glob("offline-run-*/files")
    for row in rows:
        assert row["test/auc_macro"] == pytest.approx(written[row["_step"]]["auc_macro"])
        assert row["train/loss"] > 0
        pictures = row["test/attention/filenames"]
        assert len(pictures) == row["test/attention/count"] == 3
        for name in pictures:
            with Image.open(media / name) as picture:
                assert picture.size == (2 * mine.data.size, mine.data.size)
        table = json.loads((media / row["test/confusion_table/path"]).read_text())
        counts = {(true, found): count for true, found, count in table["data"]}
        assert set(counts) == {(true, found) for true in CLASSES for found in CLASSES}
        assert sum(counts.values()) == len(read_predictions(run / "predictions.csv"))
        right = sum(counts[name, name] for name in CLASSES)
        assert right / sum(counts.values()) == pytest.approx(row["test/accuracy"])

    artifacts = [r.artifact for r in records if r.WhichOneof("record_type") == "artifact"]
    (artifact,) = (each for each in artifacts if each.type == "model")
    contents = {entry.path: entry for entry in artifact.manifest.contents}
    assert set(contents) == {"recipe.yaml", "split.csv", "checkpoints/best.pt"}
    for path, entry in contents.items():
        digest = hashlib.md5((run / path).read_bytes(), usedforsecurity=False).digest()
        assert entry.digest == base64.b64encode(digest).decode()


def test_a_failing_wandb_does_not_stop_training(
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
