"""The random number generators of a process, as numbers that a checkpoint can hold."""

import os
import random
from typing import Any

import numpy as np
import torch

__all__ = ["random_state", "repeat_exactly", "seed_all", "set_random_state"]


def seed_all(seed: int, rank: int) -> None:
    """Seed Python, NumPy and PyTorch, each rank otherwise: dropout must not repeat across ranks."""
    sequence = np.random.SeedSequence([seed, rank])
    first, second, third = (int(value) for value in sequence.generate_state(3))
    random.seed(first)
    np.random.seed(second)
    torch.manual_seed(third)


def repeat_exactly(deterministic: bool) -> None:
    """Choose algorithms that give the same twice, or the fastest ones.

    On a CPU all that training uses give the same anyway. On a GPU it costs some speed, and where
    there is no such algorithm PyTorch warns.
    """
    if not torch.cuda.is_available():
        return
    # cuBLAS reads this when it starts, which it has not yet.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic


def random_state() -> dict[str, Any]:
    """Return where the generators of this process are.

    Example:
        >>> import torch
        >>> from ham10000.training.randomness import random_state, set_random_state
        >>> state = random_state()
        >>> first = torch.rand(3)
        >>> set_random_state(state)
        >>> bool((torch.rand(3) == first).all())
        True
    """
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, torch.tensor(numbers), gauss],
        "numpy": [
            kind,
            torch.from_numpy(np.array(keys, dtype=np.int64)),
            position,
            has_gauss,
            cached,
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators of this process where others were."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
