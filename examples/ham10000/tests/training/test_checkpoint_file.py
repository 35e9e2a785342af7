import errno
import hashlib
import logging
import os
import zipfile
from pathlib import Path

import pytest
import torch

from ham10000.errors import CheckpointError, MissingDataError
from ham10000.training.checkpoint_file import (
    VERSION,
    check_version,
    read_checkpoint,
    read_latest,
    save_step,
    write_checkpoint,
)
from ham10000.training.run_dir import RunDir

CONTENT = {"step": 1, "model": {"weight": torch.arange(300.0)}, "list": [1, "two", None]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "step-00000001.pt"
    write_checkpoint(path, CONTENT)
    return path


def test_a_checkpoint_is_what_torch_reads(path: Path) -> None:
    read = read_checkpoint(path)
    assert torch.equal(read["model"]["weight"], torch.arange(300.0))
    assert read["list"] == [1, "two", None]
    assert torch.load(path, weights_only=True)["step"] == 1


def test_the_comment_of_the_archive_is_the_checksum_of_the_rest(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        comment = archive.comment
    raw = path.read_bytes()
    assert raw.endswith(comment)
    digest = hashlib.sha256(raw.removesuffix(comment)).hexdigest()
    assert comment == f"sha256:{digest}".encode()


def test_any_flipped_byte_and_any_truncation_is_detected(path: Path) -> None:
    raw = path.read_bytes()
    for place in [*range(0, len(raw), 97), len(raw) - 1, len(raw) - 72, len(raw) - 73]:
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        with pytest.raises(CheckpointError, match="truncated or was changed"):
            read_checkpoint(path)
        path.write_bytes(raw[:place])
        with pytest.raises(CheckpointError, match="truncated or was changed"):
            read_checkpoint(path)


def test_the_last_whole_one_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunDir(tmp_path)
    assert read_latest(run) is None
    for step in (9, 10, 11):
        save_step(run, step, {"step": step}, keep=5)
    newest = run.step_checkpoint(11)
    newest.write_bytes(newest.read_bytes()[:-5])
    run.step_checkpoint(10).write_bytes(b"")
    content = read_latest(run)
    assert content is not None
    assert content["step"] == 9
    assert "step-00000011.pt" in caplog.text
    run.step_checkpoint(9).write_bytes(b"")
    with pytest.raises(CheckpointError, match="all 3 checkpoints are damaged"):
        read_latest(run)


def test_the_last_few_are_kept_and_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.checkpoints.mkdir()
    (run.checkpoints / ".ham10000-part-abc").write_bytes(b"half")
    for step in range(98, 103):
        assert save_step(run, step, {"step": step}, keep=2)
    names = sorted(path.name for path in run.checkpoints.iterdir())
    assert names == ["step-00000101.pt", "step-00000102.pt"]


def test_a_full_disk_leaves_the_old_one_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDir(tmp_path)
    save_step(run, 1, {"step": 1}, keep=1)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.ERROR):
        assert not save_step(run, 2, {"step": 2}, keep=1)
    assert "no space left on device" in caplog.text
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000001.pt"]
    assert read_latest(run) == {"step": 1}


def test_nothing_but_data_is_loaded(tmp_path: Path) -> None:
    class Surprise:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("touch surprise",)

    path = tmp_path / "step-00000001.pt"
    write_checkpoint(path, {"code": Surprise()})
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        read_checkpoint(path)
    with pytest.raises(MissingDataError):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a directory"):
        read_checkpoint(tmp_path)
    write_checkpoint(path, [1, 2])  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="expected a dict, found a list"):
        read_checkpoint(path)


def test_another_version_is_refused() -> None:
    check_version({"version": VERSION}, "resuming")
    check_version({"version": 2}, "resuming")  # runs of today, unless old versions are read
    with pytest.raises(CheckpointError, match="resuming: the checkpoint has version 1, expected"):
        check_version({"version": 1}, "resuming")
    with pytest.raises(CheckpointError, match="has version None"):
        check_version({}, "resuming")
