"""What a run ran on and with, for its environment.json."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import ham10000

__all__ = ["describe_environment"]

_PACKAGES = ("softattn", "ham10000", "torch", "torchvision", "timm", "lightning-fabric", "numpy")


def describe_environment(device: torch.device, processes: int) -> dict[str, Any]:
    """Return versions, device, processes, threads, git revision and time.

    Example:
        >>> import torch
        >>> from ham10000.training.environment import describe_environment
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
    # Only if the code itself lies in a repository, and only where git is.
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
