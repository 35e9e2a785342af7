from pathlib import Path

import pytest
import ranks
import torch

from ham10000.errors import TrainingError
from ham10000.training.distributed import (
    any_of,
    broadcast_all,
    gather,
    local_processes,
    start_fabric,
)


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
