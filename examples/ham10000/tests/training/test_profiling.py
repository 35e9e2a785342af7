import time
from types import SimpleNamespace
from typing import Any

import pytest

from ham10000.training import profiling
from ham10000.training.profiling import StepTimer, trace_steps
from ham10000.training.state import Counters


def test_times_of_a_part_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 5.0, 8.0])
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: next(now))
    timer = StepTimer()
    for _ in range(2):
        with timer.time("forward"):
            pass
    assert timer.forward == 4.0
    assert timer.shares() == "data 0%, forward 100%, backward 0%, update 0%"
    assert StepTimer().shares().startswith("data 0%")


def test_only_the_first_epoch_of_rank_0_is_traced() -> None:
    def traced(profile: int, epoch: int, rank: int) -> bool:
        setup: Any = SimpleNamespace(
            recipe=SimpleNamespace(logging=SimpleNamespace(profile=profile)), rank=rank, run=None
        )
        with trace_steps(setup, Counters(epoch=epoch)) as step_done:
            return step_done() is not None

    start = time.perf_counter()
    assert not any([traced(0, 0, 0), traced(3, 1, 0), traced(3, 0, 1)])
    assert time.perf_counter() - start < 60
