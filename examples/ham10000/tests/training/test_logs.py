import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ham10000.errors import DataError, TrainingError
from ham10000.recipe import Recipe
from ham10000.training.logs import explain_failures, log_to
from ham10000.training.run_dir import RunDir

LOG = logging.getLogger("ham10000.test")


def test_only_the_shown_process_writes_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_to(tmp_path / "log.txt", shown=True):
        LOG.info("an epoch")
        LOG.error("an error that is raised", extra={"raised": True})
    with log_to(tmp_path / "other.txt", shown=False):
        LOG.info("an epoch of another rank")
        LOG.error("an error of another rank")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == [
        "INFO an epoch",
        "ERROR an error that is raised",
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
