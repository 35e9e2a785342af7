"""Time and memory that `import softattn` and the commands take at their start."""

import subprocess
import sys
from collections.abc import Iterator, Sequence

from import_time import measure

from bench.harness import Row, compare

TORCH = "import torch"
STARTS = {
    TORCH: ["-c", "import torch"],
    "import torch, softattn": ["-c", "import torch, softattn"],
    "and SoftAttention": ["-c", "import torch; from softattn import SoftAttention"],
    "and all names": ["-c", "import torch; from softattn import *"],
    "softattn --version": ["-m", "softattn", "--version"],
    "softattn --help": ["-m", "softattn", "--help"],
    "ham10000 --version": ["-m", "ham10000", "--version"],
    "ham10000 --help": ["-m", "ham10000", "--help"],
}
START, MEMORY = "start-up", "start-up, peak memory in MB"


def imports(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time imports in new interpreters, both sides in turn."""
    del quick, threads
    measure("import softattn")
    times: dict[str, list[tuple[float, float]]] = {"torch, torchvision": [], "and softattn": []}
    for _ in range(rounds):
        base, added = measure("import softattn")
        times["torch, torchvision"].append((base, base))
        times["and softattn"].append((base + added, base + added))
    yield compare("import", "in one interpreter", times, "torch, torchvision")


def start(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Start interpreters that import torch or run a command, all sides in turn.

    The ratios are those of the CPU time and of the peak memory of whole processes.
    """
    del quick, threads
    for command in STARTS.values():
        run(command)  # fills the caches of the disk and of bytecode
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in STARTS}
    memory: dict[str, list[tuple[float, float]]] = {name: [] for name in STARTS}
    for turn in range(rounds):
        for name in list(STARTS) if turn % 2 else reversed(STARTS):
            cpu, wall, megabytes = run(STARTS[name])
            times[name].append((cpu, wall))
            # `compare` turns seconds into milliseconds.
            memory[name].append((megabytes / 1000, megabytes / 1000))
    yield compare(START, "new interpreters", times, TORCH)
    yield compare(MEMORY, "new interpreters", memory, TORCH)


# On Linux, the peak of a new process includes the memory of the process that starts it, so a small
# interpreter starts it.
LAUNCHER = """
import os, sys, time
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
began = time.perf_counter()
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, used = os.wait4(process, 0)
wall = time.perf_counter() - began
print(status, used.ru_utime + used.ru_stime, wall, used.ru_maxrss)
"""


def run(arguments: Sequence[str]) -> tuple[float, float, float]:
    """Run a Python process; return its CPU and wall-clock seconds, and its peak memory in MB.

    Raises:
        RuntimeError: the process fails.
    """
    command = [sys.executable, *arguments]
    launched = [sys.executable, "-I", "-S", "-c", LAUNCHER, *command]
    output = subprocess.run(launched, stdout=subprocess.PIPE, check=True).stdout
    status, cpu, wall, peak = map(float, output.split())
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with status {status:g}")
    # The peak is in bytes on macOS, and in KiB elsewhere.
    return cpu, wall, peak * (1 if sys.platform == "darwin" else 1024) / 1e6
