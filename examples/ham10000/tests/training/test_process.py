import os
import signal
import subprocess
import sys

import pytest
import torch

from ham10000.training.process import StopRequest, catch_signals, keep_memory, share_cores

FAULTS = """
import resource, torch
from ham10000.training.process import keep_memory
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
