import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ham10000.errors import DataError, TrainingError, WriteError
from ham10000.recipe import Recipe
from ham10000.training import RunDir, journal
from ham10000.training.journal import (
    EpochProgress,
    explain_failures,
    log_to,
    table_head,
    table_row,
    try_write_metrics,
    write_metrics,
)
from ham10000.training.state import Counters

LOG = logging.getLogger("ham10000.test")


def test_only_the_shown_process_writes_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_to(tmp_path / "log.txt", shown=True):
        LOG.info("an epoch")
        LOG.error("an error that is raised", extra={"raised": True})
        LOG.info("a detail", extra={"file_only": True})
    with log_to(tmp_path / "other.txt", shown=False):
        LOG.info("an epoch of another rank")
        LOG.error("an error of another rank")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == [
        "INFO an epoch",
        "ERROR an error that is raised",
        "INFO a detail",
    ]
    assert not (tmp_path / "other.txt").exists()
    assert capsys.readouterr().err == "an epoch\nan error of another rank\n"
    assert not logging.getLogger("ham10000").handlers


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory with training.batch_size 16"),
        (MemoryError(), "out of memory with training.batch_size 16"),
        (
            RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1\nmore"),
            r"ended or does not answer \(\[gloo\] .*:1\)\. Start again with: ham10000 train --res",
        ),
    ],
)
def test_failures_of_the_machine_are_explained(
    recipe: Callable[..., Recipe],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    message: str,
) -> None:
    with pytest.raises(TrainingError, match=message), explain_failures(recipe(), RunDir(tmp_path)):
        raise error
    assert "training: " in caplog.text


def test_other_errors_are_logged_and_stay(
    recipe: Callable[..., Recipe], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for error in (RuntimeError("a bug"), DataError("a table")):
        caught = pytest.raises(type(error), match=str(error))
        with caught, explain_failures(recipe(), RunDir(tmp_path)):
            raise error
        assert str(error) in caplog.text


def test_a_full_disk_does_not_print_a_traceback_for_each_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_to(Path("/dev/full"), shown=True):
        LOG.info("an epoch")
    assert "Traceback" not in capsys.readouterr().err


def test_without_a_terminal_there_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
    shown = EpochProgress("epoch 2/3", steps=10, done=4, note="", shown=True)
    with caplog.at_level(logging.INFO):
        for loss in (1.0, math.nan, 2.0, 2.0):
            now[0] += 40.0
            shown.step(loss, images=8)
    shown.close()
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "epoch 2/3 step 6/10, loss 1.000, 0 images/s, 160 s left",
        "epoch 2/3 step 8/10, loss 1.098, 0 images/s, 80 s left",
    ]
    assert shown.rate == 32 / 160


def test_epochs_are_a_table_of_at_most_80_columns() -> None:
    train = {"epoch": 100, "loss": 1.5, "accuracy": 0.25, "seconds": 600.4}
    train["images_per_second"] = 1234.5
    validation = {"loss": 12.25, "accuracy": 1.0, "balanced_accuracy": 0.5}
    validation |= {"auc_weighted": math.nan, "seconds": 3.0}
    head = table_head("test")
    row = table_row(train, validation, 100, is_best=True)
    assert max(map(len, [*head, row])) <= 80
    assert head[0].split() == ["train", "test", "*", "=", "best", "so", "far"]
    assert head[1].split()[:3] == ["epoch", "loss", "accuracy"]
    assert head[1].split()[-4:] == ["balanced", "weighted", "time", "images/s"]
    assert head[2].split() == ["accuracy", "AUC"]
    assert " ".join(row.split()) == "100/100* 1.5000 0.2500 12.2500 1.0000 0.5000 nan 10:03 1234"
    ends = [head[1].index(word) + len(word) for word in ("time", "images/s")]
    assert [row.index(word) + len(word) for word in ("10:03", "1234")] == ends
    assert "*" not in table_row(train, validation, 100, is_best=False)


def test_other_processes_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    quiet = EpochProgress("epoch", steps=1, done=0, note="", shown=False)
    with caplog.at_level(logging.INFO):
        quiet.step(1.0, images=1)
    assert not caplog.records


def test_metrics_are_written_as_json_without_nan(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write_metrics(run, Counters(records=[{"epoch": 1, "auc": None}, {"epoch": 2, "auc": 0.5}]))
    lines = run.metrics.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"epoch": 1, "auc": None},
        {"epoch": 2, "auc": 0.5},
    ]


def test_metrics_that_cannot_be_written_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDir(tmp_path / "a file" / "run")
    (tmp_path / "a file").touch()
    with pytest.raises(WriteError):
        write_metrics(run, Counters())
    try_write_metrics(run, Counters())
    assert "Training continues." in caplog.text
