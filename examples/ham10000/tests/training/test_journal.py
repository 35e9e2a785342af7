import json
import logging
import math
from pathlib import Path

import pytest

from ham10000.errors import WriteError
from ham10000.training import RunDir, journal
from ham10000.training.journal import EpochProgress, try_write_metrics, write_metrics
from ham10000.training.state import Counters


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
