import random

import numpy as np
import torch

from ham10000.training.reproducibility import (
    describe_environment,
    random_state,
    seed_all,
    set_random_state,
)


def draw() -> list[float]:
    return [random.gauss(0, 1), np.random.randn(), torch.rand(()).item()]


def test_ranks_draw_otherwise_and_states_come_back() -> None:
    before = random_state()
    try:
        seed_all(5, rank=0)
        first = draw()
        seed_all(5, rank=1)
        assert not set(first) & set(draw())
        state = random_state()
        following = [draw() for _ in range(3)]
        set_random_state(state)
        assert [draw() for _ in range(3)] == following
    finally:
        set_random_state(before)


def test_the_environment_names_versions_and_device() -> None:
    found = describe_environment(torch.device("cpu"), processes=3)
    assert torch.__version__.startswith(found["packages"]["torch"])
    assert (found["device"], found["processes"]) == ("cpu", 3)
