"""What softattn costs, beside what users would use instead and beside the machine's limits.

    python benchmarks/run.py [layer block memory growth wrapped capture import limits]
        [--quick] [--threads N] [--rounds N] [--write] [--check] [--store]

Each part runs in processes of its own: with the system's allocator as it is, and where that
matters also with one that keeps its memory. Prints tables and writes out/bench/PART.json; --write
makes docs/performance.md of all that is there. --check compares the quick form's ratios with
benchmarks/expected.json and fails if one is beyond the tolerance; --store writes that file.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from bench.harness import Row, read_rows, table, worse, write_rows
from bench.imports import imports
from bench.layer import block, growth, layer, memory
from bench.machine import facts, limits
from bench.models import capture, wrapped

ROOT = Path(__file__).parents[1]
OUT = ROOT / "out" / "bench"
EXPECTED = Path(__file__).with_name("expected.json")
# Of the ratio of the fastest rounds. A layer that became Conv3d would be several times over.
TOLERANCE = 0.4

PARTS: dict[str, tuple[Callable[[bool, int, int], list[Row]], int]] = {
    "limits": (limits, 9),
    "layer": (layer, 9),
    "block": (block, 9),
    "memory": (memory, 1),
    "growth": (growth, 9),
    "capture": (capture, 25),
    "wrapped": (wrapped, 9),
    "import": (imports, 15),
}
BOTH_ALLOCATORS = ("layer", "block", "growth", "wrapped")
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}


def in_a_process(part: str, allocator: str, options: argparse.Namespace) -> list[Row]:
    """Measure a part in a new interpreter."""
    file = OUT / f"{part}-{allocator}{'-quick' * options.quick}.json"
    environment = {k: v for k, v in os.environ.items() if k not in KEEP}
    environment |= KEEP if allocator == "set" else {}
    environment["OMP_NUM_THREADS"] = str(options.threads)
    command = [sys.executable, __file__, part, "--here", str(file), "--allocator", allocator]
    command += ["--threads", str(options.threads)]
    command += ["--rounds", str(options.rounds)] if options.rounds else []
    subprocess.run(command + ["--quick"] * options.quick, env=environment, check=True)
    return read_rows(file)


def measure_here(part: str, options: argparse.Namespace) -> None:
    """Measure a part in this process, and write its rows."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    measure, rounds = PARTS[part]
    rows = measure(options.quick, options.rounds or rounds, options.threads)
    rows = [dataclasses.replace(row, allocator=options.allocator) for row in rows]
    write_rows(options.here, rows, facts(options.threads))


def write_docs(threads: int) -> None:
    """Make the page of every part that was measured, in full where it was."""
    from bench.page import write_page  # matplotlib only where it is drawn with

    rows = []
    for part in PARTS:
        for allocator in ("set", "system"):
            files = [OUT / f"{part}-{allocator}{form}.json" for form in ("", "-quick")]
            there = [file for file in files if file.exists()]
            rows += read_rows(there[0]) if there else []
    docs = ROOT / "docs"
    write_page(docs / "performance.md", rows, facts(threads), docs / "images")


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer shapes, well under a minute")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    parser.add_argument("--check", action="store_true", help="compare with expected.json")
    parser.add_argument("--store", action="store_true", help="write expected.json")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--allocator", default="system", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {min(unknown)!r}. Parts: {', '.join(PARTS)}")
    if options.here:
        measure_here(options.parts[0], options)
        return 0
    guard = options.check or options.store
    options.quick |= guard
    rows: list[Row] = []
    for part in options.parts or (["layer"] if guard else PARTS):
        for allocator in ("set", "system") if part in BOTH_ALLOCATORS else ("system",):
            if guard and allocator == "system":
                continue  # the cost of fresh pages is the system's, and swings
            found = in_a_process(part, allocator, options)
            print("\n".join(table(found)), flush=True)
            rows += found
    if options.write:
        write_docs(options.threads)
    if options.store:
        ours = {row.key: round(row.best, 3) for row in rows if row.side == "softattn"}
        EXPECTED.write_text(json.dumps(ours, indent=1) + "\n")
    if options.check:
        lines = worse(rows, json.loads(EXPECTED.read_text()), TOLERANCE)
        print("\n".join(["", *lines]) if lines else f"\nno ratio is {TOLERANCE:.0%} beyond its own")
        return 1 if lines else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
