"""Time that `import softattn` adds to importing torch and torchvision.

    python benchmarks/import_time.py

Each import runs in a new interpreter, alternating between both. The added time is also measured
within one interpreter, after importing torch and torchvision, which excludes noise between
interpreters.
"""

import argparse
import statistics
import subprocess
import sys

BASE = "import torch, torchvision"
CODE = """
from time import perf_counter
start = perf_counter()
import torch, torchvision
middle = perf_counter()
{then}
print(middle - start, perf_counter() - middle)
"""


def measure(then: str) -> tuple[float, float]:
    """Return the seconds of importing torch and torchvision, and then `then`, in a new process."""
    command = [sys.executable, "-c", CODE.format(then=then)]
    first, second = subprocess.run(command, capture_output=True, check=True).stdout.split()
    return float(first), float(second)


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    measure("import softattn")  # fills the caches of the disk and of bytecode
    bare, ours, shares = [], [], []
    for _ in range(repeats):
        bare.append(sum(measure("pass")))
        base, added = measure("import softattn")
        ours.append(base + added)
        shares.append(added / base)
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    print(f"{repeats} pairs of new interpreters, Python {sys.version.split()[0]}")
    rows = [
        (f"{BASE} (s)", bare),
        (f"{BASE}, softattn (s)", ours),
        ("ratio, pair by pair", ratios),
        ("softattn's share within one interpreter", shares),
    ]
    print(f"{'':42}{'median':>10}{'min':>10}{'max':>10}")
    for name, values in rows:
        print(f"{name:42}{statistics.median(values):10.4f}{min(values):10.4f}{max(values):10.4f}")


if __name__ == "__main__":
    main()
