"""What the numbers were measured on, and how fast it is at what layers are made of."""

import os
import platform
from pathlib import Path

import torch

from bench.harness import Row, compare, take_turns


def facts(threads: int) -> dict[str, object]:
    """Describe the machine and the libraries."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def cpu_model(path: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name."""
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def limits(quick: bool, rounds: int, threads: int) -> list[Row]:
    """Measure the copy rate and the matrix-product rate, which limit every layer."""
    del quick
    source, target = torch.randn(2**24), torch.empty(2**24)
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    works = {"copy": lambda: target.copy_(source), "product": lambda: a @ b}
    times = take_turns(works, rounds, 0.05, threads)
    copied, multiplied = (min(own for own, _ in times[name]) for name in works)
    gigabytes, gigaflops = 2 * 4 * 2**24 / copied / 1e9, 2 * 1024**3 / multiplied / 1e9
    return compare(
        "limits", f"copies {gigabytes:.0f} GB/s, products {gigaflops:.0f} GFLOP/s", times, "copy"
    )
