"""Measure the cost of softattn next to its alternatives and to the limits of the machine.

    python benchmarks/run.py [PART ...] [--quick] [--threads N] [--rounds N] [--write]
        [--check] [--store]

The parts are limits, layer, system, cores, compile, per-map, block, memory, growth, processes,
wrapped, capture, import, start, steps, pipeline and epoch, and on a GPU gpu-layer and gpu-models.
Without names all parts run, which takes about 20 minutes on two cores. Each part runs in a process
of its own, pinned to as many cores as it has threads, with an allocator that keeps its memory
(except for `system`, which uses that of the system). Prints tables and writes out/bench/PART.json;
--write creates docs/performance.md from these files. --check compares the ratios of a quick run
with benchmarks/expected.json and fails if one exceeds the tolerance; --store writes that file.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from bench.block import block, memory, per_map
from bench.commands import epoch, pipeline
from bench.gpu import gpu_layer, gpu_models
from bench.growth import growth, processes
from bench.harness import Row, read_facts, read_rows, table, worse, write_rows
from bench.imports import imports, start
from bench.layer import compiled, cores, guard, layer, system
from bench.machine import facts, limits, pin
from bench.models import capture, wrapped
from bench.steps import steps

ROOT = Path(__file__).parents[1]
OUT = ROOT / "out" / "bench"
EXPECTED = Path(__file__).with_name("expected.json")
# Tolerance of the ratio of the fastest rounds. A Conv3d would exceed it several times.
TOLERANCE = 0.4
TRIES = 3
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}


@dataclass(frozen=True)
class Part:
    """Measurement of one part."""

    measure: Callable[[bool, int, int], Iterator[list[Row]]]
    """Function of (quick, rounds, threads) that yields the rows of each case."""
    rounds: int = 9
    allocator: str = "set"
    every_core: bool = False
    pinned: bool = True
    gpu: bool = False


PARTS = {
    "limits": Part(limits),
    "layer": Part(layer),
    "system": Part(system, allocator="system"),
    "cores": Part(cores, every_core=True),
    "compile": Part(compiled),
    "per-map": Part(per_map),
    "block": Part(block),
    "memory": Part(memory, rounds=1),
    "growth": Part(growth),
    "processes": Part(processes, pinned=False),
    "wrapped": Part(wrapped),
    "capture": Part(capture, rounds=25),
    "import": Part(imports),
    "start": Part(start, allocator="system"),
    "steps": Part(steps),
    "pipeline": Part(pipeline, rounds=3, allocator="system", pinned=False),
    "epoch": Part(epoch, rounds=2, allocator="system", pinned=False),
    "gpu-layer": Part(gpu_layer, allocator="system", pinned=False, gpu=True),
    "gpu-models": Part(gpu_models, allocator="system", pinned=False, gpu=True),
}
GUARD = Part(guard)


def file_of(name: str, quick: bool) -> Path:
    """Return the path of the rows of a part."""
    return OUT / f"{name}{'-quick' * quick}.json"


def in_a_process(name: str, options: argparse.Namespace, rounds: int | None = None) -> list[Row]:
    """Measure a part in a new interpreter."""
    part = PARTS.get(name, GUARD)
    environment = {k: v for k, v in os.environ.items() if k not in KEEP}
    environment |= KEEP if part.allocator == "set" else {}
    threads = (os.cpu_count() or 1) if part.every_core else options.threads
    environment |= {"OMP_NUM_THREADS": str(threads), "KINETO_LOG_LEVEL": "99"}
    command = [sys.executable, __file__, name, "--here", "--threads", str(threads)]
    command += ["--rounds", str(rounds or options.rounds or part.rounds)]
    subprocess.run(command + ["--quick"] * options.quick, env=environment, check=True)
    return read_rows(file_of(name, options.quick))


def measure_here(name: str, options: argparse.Namespace) -> None:
    """Measure a part in this process; print and write its rows, case by case."""
    part = PARTS.get(name, GUARD)
    if part.pinned:
        pin(options.threads)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    done: list[Row] = []
    for rows in part.measure(options.quick, options.rounds, options.threads):
        found = [dataclasses.replace(row, allocator=part.allocator) for row in rows]
        print("\n".join(table(found)), flush=True)
        done += found
        write_rows(file_of(name, options.quick), done, facts(options.threads))
    if not done:
        write_rows(file_of(name, options.quick), [], facts(options.threads))


def write_docs() -> None:
    """Write the page from all measured parts, preferring full runs to quick ones."""
    from bench.page import write_page  # matplotlib only where it is drawn with

    rows, machines = [], []
    for name in (name for name, part in PARTS.items() if not part.gpu):
        files = [file_of(name, quick) for quick in (False, True)]
        for file in [file for file in files if file.exists()][:1]:
            rows += read_rows(file)
            found = {k: v for k, v in read_facts(file).items() if k != "threads"}
            machines += [found] if found not in machines else []
    docs = ROOT / "docs"
    write_page(docs / "performance.md", rows, machines, docs / "images")


def check(options: argparse.Namespace) -> int:
    """Compare ratios with the stored ones; repeat for longer those that exceed the tolerance."""
    expected = json.loads(EXPECTED.read_text())
    rows: list[Row] = []
    lines: list[str] = []
    for attempt in range(TRIES):
        rows += in_a_process("guard", options, rounds=9 * 2**attempt)
        lines = worse(rows, expected, TOLERANCE)
        if not lines:
            print(f"\nno ratio is {TOLERANCE:.0%} beyond its own")
            return 0
        print("\n".join(["", f"beyond {TOLERANCE:.0%}, try {attempt + 1} of {TRIES}:", *lines]))
    return 1


def store(options: argparse.Namespace) -> None:
    """Write the ratios that `check` compares with."""
    rows = in_a_process("guard", options, rounds=25)
    ours = {row.key: round(row.best, 3) for row in rows if row.side == "softattn"}
    EXPECTED.write_text(json.dumps(ours, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer shapes, some minutes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    parser.add_argument("--check", action="store_true", help="compare with expected.json")
    parser.add_argument("--store", action="store_true", help="write expected.json")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS) - ({"guard"} if options.here else set()):
        parser.error(f"there is no part {min(unknown)!r}. Parts: {', '.join(PARTS)}")
    return options


def main() -> int:
    """Run the benchmark."""
    options = arguments()
    if options.here:
        measure_here(options.parts[0], options)
        return 0
    if options.check:
        return check(options)
    if options.store:
        store(options)
        return 0
    if os.getloadavg()[0] > 0.5:
        print(f"the machine is not idle: its load is {os.getloadavg()[0]:.1f}", flush=True)
    began = time.perf_counter()
    on_gpu = torch.cuda.is_available()
    names = options.parts or [name for name, part in PARTS.items() if part.gpu <= on_gpu]
    for number, name in enumerate(names, 1):
        minutes = (time.perf_counter() - began) / 60
        print(f"\n== {name}, part {number} of {len(names)}, {minutes:.1f} min ==", flush=True)
        in_a_process(name, options)
    if options.write:
        write_docs()
    return 0


if __name__ == "__main__":
    sys.exit(main())
