import errno
import logging
import os
from pathlib import Path

import pytest
import torch

from ham10000.errors import CheckpointError, MissingDataError
from ham10000.training.checkpoints import latest, read_checkpoint, save_step, write_checkpoint

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


def test_any_flipped_byte_and_any_cut_is_noticed(path: Path) -> None:
    raw = path.read_bytes()
    for place in [*range(0, len(raw), 97), len(raw) - 1, len(raw) - 72, len(raw) - 73]:
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        with pytest.raises(CheckpointError, match="cut short or changed"):
            read_checkpoint(path)
        path.write_bytes(raw[:place])
        with pytest.raises(CheckpointError, match="cut short or changed"):
            read_checkpoint(path)


def test_the_last_whole_one_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert latest(tmp_path) is None
    for step in (9, 10, 11):
        save_step(tmp_path, step, {"step": step}, keep=5)
    newest = tmp_path / "step-00000011.pt"
    newest.write_bytes(newest.read_bytes()[:-5])
    (tmp_path / "step-00000010.pt").write_bytes(b"")
    content = latest(tmp_path)
    assert content is not None
    assert content["step"] == 9
    assert "step-00000011.pt" in caplog.text
    (tmp_path / "step-00000009.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of its 3 checkpoints is whole"):
        latest(tmp_path)


def test_the_last_few_are_kept_and_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    left = tmp_path / ".ham10000-part-abc"
    left.write_bytes(b"half")
    for step in range(98, 103):
        assert save_step(tmp_path, step, {"step": step}, keep=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000101.pt", "step-00000102.pt"]


def test_a_full_disk_leaves_the_old_one_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_step(tmp_path, 1, {"step": 1}, keep=1)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.ERROR):
        assert not save_step(tmp_path, 2, {"step": 2}, keep=1)
    assert "no space left on device" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]
    assert latest(tmp_path) == {"step": 1}


def test_nothing_but_data_is_loaded(tmp_path: Path) -> None:
    class Surprise:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("touch surprise",)

    path = tmp_path / "step-00000001.pt"
    write_checkpoint(path, {"code": Surprise()})
    with pytest.raises(CheckpointError, match="it holds no checkpoint"):
        read_checkpoint(path)
    with pytest.raises(MissingDataError):
        read_checkpoint(tmp_path / "none.pt")
