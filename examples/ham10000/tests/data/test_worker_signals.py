import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import ranks

from ham10000.data.augment import Augment
from ham10000.data.dataset import HAM10000
from ham10000.data.loader import BatchLoader
from ham10000.data.samplers import EpochSampler
from ham10000.data.worker_signals import blocked_signals


def make_loader(root: Path) -> BatchLoader:
    data = HAM10000(root, size=24)
    return BatchLoader(data, EpochSampler(data.targets), 8, Augment("authors"), workers=2)


def read_until_told(root: Path, told: Path) -> int:
    """Go through epochs until `told` exists, with SIGTERM handled, as the trainer does it."""
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    loader = make_loader(root)
    told.with_name("started").touch()
    while not told.exists():
        for _ in loader:
            pass
    return 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_survive_what_somebody_else_sends(
    synthetic: Path, tmp_path: Path, number: signal.Signals
) -> None:
    processes = ranks.start(read_until_told, synthetic, tmp_path / "told")
    ranks.wait_for((tmp_path / "started").exists)
    workers = psutil.Process(processes[0].pid).children()
    assert len(workers) == 2
    for _ in range(20):
        for worker in workers:
            worker.send_signal(number)
        time.sleep(0.01)
    assert all(worker.is_running() for worker in workers)
    (tmp_path / "told").touch()
    assert ranks.wait(processes) == [3]
    assert not [worker for worker in workers if worker.is_running()]


def test_workers_die_with_their_parent_and_by_its_order(synthetic: Path, tmp_path: Path) -> None:
    processes = ranks.start(read_until_told, synthetic, tmp_path / "told")
    ranks.wait_for((tmp_path / "started").exists)
    workers = psutil.Process(processes[0].pid).children()
    ranks.kill(processes)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    loader = make_loader(synthetic)
    worker = psutil.Process().children()[-1]
    assert len(list(loader)) > 0
    worker.terminate()
    _, alive = psutil.wait_procs([worker], timeout=5)
    assert not alive


def test_a_signal_that_arrives_while_blocked_is_delivered_afterwards() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with blocked_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            assert not heard
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
