import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ranks
import torch

from ham10000.errors import TrainingError
from ham10000.recipe import Recipe, save_recipe
from ham10000.training import INTERRUPTED, RunDir
from ham10000.training.processes import (
    StopRequest,
    any_of,
    broadcast_all,
    catch_signals,
    gather,
    keep_memory,
    local_processes,
    share_cores,
    start_fabric,
)


def test_processes_start_again_when_one_dies_and_stop_when_told(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    save_recipe(recipe(training={"epochs": 500}), tmp_path / "tiny.yaml")
    run = RunDir(tmp_path / "run")

    def resumed() -> int:
        return run.log.read_text().count("Resuming from step") if run.log.exists() else 0

    command = [sys.executable, "-m", "ham10000", "train", str(tmp_path / "tiny.yaml")]
    command += ["--out", str(run.path), "--processes", "2", "--elastic"]
    launched = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    ranks.wait_for(lambda: bool(run.step_checkpoints()) or launched.poll() is not None)
    assert not resumed()
    os.kill(worker_of(launched.pid), signal.SIGKILL)
    ranks.wait_for(lambda: resumed() == 1 or launched.poll() is not None)
    launched.send_signal(signal.SIGTERM)
    out, err = launched.communicate(timeout=60)
    assert launched.returncode == INTERRUPTED, err
    assert "Not finished. Resume with: ham10000 train --resume" in out
    assert "Traceback" not in err


def worker_of(launcher: int) -> int:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in map(int, children):
        if "--resume" in Path(f"/proc/{child}/cmdline").read_text():
            return child
    raise AssertionError("it has started no process")


FAULTS = """
import resource, torch
from ham10000.training.processes import keep_memory
said = keep_memory() if {tuned} else ""
for _ in range(30):
    torch.ones(16 * 2**20).add_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt, said)
"""


def faults(tuned: bool) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(tuned=tuned)],
        capture_output=True,
        text=True,
        check=True,
    )
    count, _, said = done.stdout.partition(" ")
    return int(count), said


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, whose page faults are counted")
def test_large_blocks_are_kept() -> None:
    plain, _ = faults(tuned=False)
    tuned, said = faults(tuned=True)
    if "glibc keeps" not in said:
        pytest.skip(f"needs glibc's own allocator: {said.strip()}")
    assert tuned < plain / 2


def test_what_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert "as set by the variables" in keep_memory()
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", str(before))
    assert "OMP_NUM_THREADS" in share_cores(2)
    assert torch.get_num_threads() == before
    monkeypatch.delenv("OMP_NUM_THREADS")
    try:
        share_cores(10_000)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_signal_is_a_request_and_a_second_interruption_is_one() -> None:
    before = signal.getsignal(signal.SIGTERM)
    request = StopRequest()
    with catch_signals(request):
        assert not request
        os.kill(os.getpid(), signal.SIGTERM)
        assert request
        assert request.reason == "SIGTERM was received"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_time_is_a_request() -> None:
    assert not StopRequest(1.0)
    request = StopRequest(0.0)
    assert request
    assert "max_minutes" in str(request.reason)


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    tensor = torch.ones(2)
    broadcast_all([tensor])
    assert gather("mine") == ["mine"]
    assert any_of([True, False], torch.device("cpu")) == [True, False]
    assert local_processes() == 1


def test_collective_operations_of_two_processes(tmp_path: Path) -> None:
    def check() -> int:
        rank = start_fabric("32").global_rank
        tensor = torch.full((2,), float(rank + 5))
        broadcast_all([tensor])
        flags = any_of([rank == 1, False], torch.device("cpu"))
        good = tensor.tolist() == [5.0, 5.0] and flags == [True, False]
        return 0 if good and gather({"rank": rank}) == [{"rank": 0}, {"rank": 1}] else 1

    assert ranks.run(check, ranks=2) == [0, 0]


def test_processes_are_refused_where_machines_have_different_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="every machine must have the same number"):
        start_fabric("32")


def test_devices_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="fp16 needs a GPU"):
        start_fabric("fp16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(TrainingError, match="this machine has 1 GPUs"):
        start_fabric("32")
