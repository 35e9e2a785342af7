"""Random number generators, deterministic algorithms, and a record of the environment."""

import os
import platform
import random
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ham10000

__all__ = [
    "describe_environment",
    "random_state",
    "seed_all",
    "set_deterministic",
    "set_random_state",
]

_PACKAGES = ("softattn", "ham10000", "torch", "torchvision", "timm", "lightning-fabric", "numpy")


def seed_all(seed: int, rank: int) -> None:
    """Seed Python, NumPy and PyTorch, differently on each rank so that dropout masks differ."""
    sequence = np.random.SeedSequence([seed, rank])
    first, second, third = (int(value) for value in sequence.generate_state(3))
    random.seed(first)
    np.random.seed(second)
    torch.manual_seed(third)


def set_deterministic(deterministic: bool) -> None:
    """Use deterministic algorithms, or the fastest ones.

    On a CPU everything that training uses is deterministic. On a GPU determinism costs some speed,
    and PyTorch warns where it has no deterministic algorithm.
    """
    if not torch.cuda.is_available():
        return
    # cuBLAS reads this at its start, which comes later.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic


def random_state() -> dict[str, Any]:
    """Return the state of all generators of this process, for a checkpoint.

    Example:
        >>> import torch
        >>> from ham10000.training.reproducibility import random_state, set_random_state
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
    """Restore what `random_state` returned."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def describe_environment(device: torch.device, processes: int) -> dict[str, Any]:
    """Return versions, device, processes, threads, git revision and time, for environment.json.

    Example:
        >>> import torch
        >>> from ham10000.training.reproducibility import describe_environment
        >>> describe_environment(torch.device("cpu"), processes=1)["device"]
        'cpu'
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "git": _revision(Path(ham10000.__file__).parent),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _revision(folder: Path) -> str | None:
    # `None` if the code is not in a repository, or without git.
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
