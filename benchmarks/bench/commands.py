"""Rows of other benchmarks of the repository: the input pipeline and the trainer.

They need HAM10000, whose folder HAM10000_DIR names; without it these parts are skipped.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.harness import Row, compare

ROOT = Path(__file__).parents[2]
PIPELINE = ROOT / "benchmarks" / "input_pipeline.py"
TRAINING = ROOT / "examples" / "ham10000" / "benchmarks" / "training.py"


def pipeline(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time loading images from the cache and with PIL; the ratio is of times."""
    del threads
    options = ["--rounds", str(rounds), "--presets", "authors"]
    options += ["--images", "300", "--sizes", "128"] if quick else ["--sizes", "128"]
    for case in _run([str(PIPELINE), *options]):
        times = {side: [(one["busy"], one["seconds"]) for one in case[side]]
                 for side in ("PIL", "cache")}  # fmt: skip
        yield compare("input pipeline, an image", case["case"], times, "PIL")


def epoch(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time an epoch of the trainer next to a usual loop, and two processes next to one."""
    del threads
    with tempfile.TemporaryDirectory() as folder:
        for what in ("epoch",) if quick else ("epoch", "scaling"):
            options = [what, "--cache", f"{folder}/cache", "--rounds", str(rounds)]
            for case in _run([str(TRAINING), *options]):
                times = {side: [(one, one) for one in seconds]
                         for side, seconds in case["seconds"].items()}  # fmt: skip
                yield compare(f"trainer, {what}", case["case"], times, next(iter(times)))


def _run(command: list[str]) -> list[dict[str, Any]]:
    """Run a benchmark and return its output; if it can't run, print why and return nothing."""
    if "HAM10000_DIR" not in os.environ:
        print("  skipped: set HAM10000_DIR to the folder of HAM10000", flush=True)
        return []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        subprocess.run([sys.executable, *command, "--json", str(file)], check=True)
        found: list[dict[str, Any]] = json.loads(file.read_text())
    return found
