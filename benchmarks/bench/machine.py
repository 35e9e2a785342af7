"""Description of the machine, and its rates of copies and matrix products."""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.harness import Row, compare, take_turns

COPY = "copy of 64 MiB"
PRODUCT = "product of 1024 x 1024"


def facts(threads: int) -> dict[str, object]:
    """Describe the machine and the libraries."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
    }


def cpu_model(path: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name."""
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def pin(threads: int) -> None:
    """Pin this process to the last cores, one per thread, if the system supports it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


@dataclass(frozen=True)
class Rates:
    """Rates of the machine that limit every layer."""

    bytes: float
    """Bytes read and written per second while copying 64 MiB."""
    products: float
    """Operations per second of a product of two 1024 x 1024 matrices."""


def rates(threads: int, dtype: torch.dtype = torch.float32, rounds: int = 5) -> Rates:
    """Measure the rates, as the fastest of several rounds."""
    return _rates(_times(threads, dtype, rounds))


def limits(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Yield the rates in float32 and bfloat16."""
    del quick
    for dtype in (torch.float32, torch.bfloat16):
        times = _times(threads, dtype, rounds)
        speed = _rates(times)
        case = (
            f"{str(dtype)[6:]}, copies {speed.bytes / 1e9:.0f} GB/s, "
            f"products {speed.products / 1e9:.0f} GFLOP/s"
        )
        yield compare("limits", case, times, COPY)


def _times(threads: int, dtype: torch.dtype, rounds: int) -> dict[str, list[tuple[float, float]]]:
    source = torch.randn(2**26 // dtype.itemsize, dtype=dtype)
    target = torch.empty_like(source)
    a, b = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    works = {COPY: lambda: target.copy_(source), PRODUCT: lambda: a @ b}
    return take_turns(works, rounds, threads, least=0.03)


def _rates(times: dict[str, list[tuple[float, float]]]) -> Rates:
    copied, multiplied = (min(own for own, _ in times[name]) for name in (COPY, PRODUCT))
    return Rates(2 * 2**26 / copied, 2 * 1024**3 / multiplied)
