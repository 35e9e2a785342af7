import errno
import os
import signal
import stat
from pathlib import Path

import pytest
import ranks

from ham10000.errors import ArgumentError, LockedError, WriteError
from ham10000.utils import is_locked, lock_folder, new_folder, replacing, write_text


def test_a_failure_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fill() -> None:
        with replacing(path) as file:
            file.write(b"new")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WriteError, match="no space left"):
        fill()
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.txt"):
        raise KeyboardInterrupt

    def stop() -> None:
        with new_folder(tmp_path / "folder") as partial:
            (partial / "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert list(tmp_path.iterdir()) == []


def test_results_are_as_readable_as_the_umask_allows(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    write_text(tmp_path / "a.txt", "text")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="writing"):
        write_text(tmp_path / "file" / "a.txt", "text")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(ArgumentError, match="exists already"), new_folder(tmp_path):
        pass
    assert (tmp_path / "kept").exists()


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as partial:
        (partial / "file").touch()
    assert (tmp_path / "empty" / "file").exists()


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/old").touch()
    with new_folder(tmp_path / "folder", replace=True) as partial:
        (partial / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]


def test_a_folder_that_cannot_be_replaced_is_kept(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/old").touch()

    def fill() -> None:
        with new_folder(tmp_path / "folder", replace=True) as partial:
            partial.rmdir()  # so that renaming it fails

    with pytest.raises(WriteError):
        fill()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder/old").exists()


def hold_and_fork(folder: Path) -> None:
    with lock_folder(folder, "a.lock", "holding", ""):
        if os.fork() == 0:
            (folder / "forked").write_text(str(os.getpid()))
        signal.pause()


def test_a_lock_ends_with_its_process_even_if_forked_ones_live_on(tmp_path: Path) -> None:
    holders = ranks.start(hold_and_fork, tmp_path)
    ranks.wait_for(
        lambda: bool((tmp_path / "forked").exists() and (tmp_path / "forked").read_text())
    )
    forked = int((tmp_path / "forked").read_text())
    message = rf"waiting: process {holders[0].pid} on .+ has locked {tmp_path}\. .+ Try later\."
    lock = ("a.lock", "waiting", "Try later.")
    with pytest.raises(LockedError, match=message), lock_folder(tmp_path, *lock):
        pass
    with lock_folder(tmp_path, "b.lock", "another lock of the folder", ""):
        pass
    assert is_locked(tmp_path, "a.lock")
    assert not is_locked(tmp_path, "b.lock")
    assert not is_locked(tmp_path, "c.lock")
    ranks.kill(holders)
    assert not is_locked(tmp_path, "a.lock")
    (tmp_path / "a.lock").write_text("process 1 on another host")
    assert not is_locked(tmp_path, "a.lock")
    try:
        os.kill(forked, 0)
        with lock_folder(tmp_path, *lock):
            pass
    finally:
        os.kill(forked, signal.SIGKILL)


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "run"
    with pytest.raises(WriteError, match="writing"), lock_folder(folder, "a.lock", "locking", ""):
        pass
