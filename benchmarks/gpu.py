"""Check and measure softattn and the example on a GPU, within a time limit for each part.

    python benchmarks/gpu.py [PART ...] [--minutes 14] [--out out/gpu]

The parts, in this order:

- choice: settings of the study, chosen with its control alone on another split.
- tests: the tests marked gpu.
- trainer: a run of the example with NCCL and fp16, stopped early and resumed.
- layer: the layer and its alternatives, bfloat16, eager and compiled.
- models: wrapped models and bare ones, bfloat16, eager and compiled.
- study: EfficientNet-Lite0 fine-tuned with and without attention.
- paper: the same on the paper's own split, with five seeds of the split.

A part that exceeds its limit is stopped and the next one starts. A part that is repeated continues
where it stopped. Each part writes its output to OUT/PART.txt, and OUT/summary.json holds the card,
and the duration and the exit status of each part. The example needs HAM10000_DIR.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "ham10000"
LIMITS = {
    "choice": 150,
    "tests": 60,
    "trainer": 70,
    "layer": 70,
    "models": 80,
    "study": 3600,
    "paper": 3600,
}
"""Seconds that each part may take."""

CONTROL = "finetuned_placebo"
ARMS = ("finetuned", "finetuned_sa", "finetuned_keras")
SPLIT_SEEDS = range(100, 105)


def commands(part: str, out: Path, options: argparse.Namespace) -> list[list[str]]:
    """Return the commands of a part."""
    python = sys.executable
    ham10000 = [python, "-m", "ham10000"]
    parallel = ["--parallel", str(options.parallel)]
    if part == "tests":
        return [[python, "-m", "pytest", "-q", "-rs", str(ROOT / "tests" / "test_gpu.py")]]
    if part in ("layer", "models"):
        script = ROOT / "benchmarks" / "run.py"
        return [[python, str(script), f"gpu-{part}", "--rounds", "5"]]
    if part == "trainer":
        run = ["ham10000", "train", "finetuned_sa", "--out", str(out / "trainer" / "run")]
        # The paper's protocol needs no search for duplicates, which takes a minute.
        fields = ["data.protocol=paper", "training.precision=fp16", "training.batch_size=128"]
        fields += ["training.epochs=2"]
        train = [
            python,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "1",
            "-m",
            *run,
            *fields,
        ]
        return [[*train, "training.max_minutes=0.1"], train]
    if part == "choice":
        script = EXAMPLE / "benchmarks" / "choose_settings.py"
        fields = ["data.size=128,192", "training.epochs=6,12"]
        choose = [python, str(script), CONTROL, "--set", *fields, "--seeds", "0", "1", *parallel]
        return [[*choose, "--out", str(out / "choice")]]
    if part == "study":
        recipes = ["study", CONTROL, *ARMS, "--seeds", *map(str, range(options.seeds))]
        more = ["--folds", "5", "--looks", "2", *["--extend"] * options.extend, *parallel]
        return [[*ham10000, *recipes, *more, "--out", str(out / "study"), *options.set]]
    train, fixed = [*ham10000, "train"], ["data.protocol=paper", *options.set]
    return [
        [*train, arm, "--out", str(out / "paper" / f"{arm}-seed{seed}"), f"seed={seed}", *fixed]
        for seed in SPLIT_SEEDS
        for arm in ARMS
    ]


def run_part(part: str, out: Path, options: argparse.Namespace, limit: float) -> int | str:
    """Run a part; return 0, or the exit status of a command that failed, or that it was stopped."""
    end = time.perf_counter() + limit
    at_once = options.parallel if part == "paper" else 1

    def run(command: list[str]) -> int | str:
        left = end - time.perf_counter()
        return run_command(command, log, left) if left > 0 else "not started"

    with (out / f"{part}.txt").open("a") as log, ThreadPoolExecutor(at_once) as pool:
        outcomes = list(pool.map(run, commands(part, out, options)))
    if part == "trainer":  # torchrun counts the first run, which stops early, as failed
        return outcomes[-1]
    return next((outcome for outcome in outcomes if outcome), 0)


def run_command(command: list[str], log: Any, seconds: float) -> int | str:
    """Run a command, stop it after some seconds, and return its exit status or that it stopped."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    process = subprocess.Popen(
        command, stdout=log, stderr=log, env=environment, start_new_session=True
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        # All of its processes; a training run saves a checkpoint on SIGTERM.
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
        return f"stopped after {seconds:.0f} s"


def main() -> int:
    """Run the parts, and print and write their outcome."""
    options = arguments()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA GPU, and torch finds none", file=sys.stderr)
        return 1
    end = time.perf_counter() + 60 * options.minutes
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Any] = {}
    summary = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "parts": parts}
    for part in options.parts or LIMITS:
        began = time.perf_counter()
        outcome = run_part(part, out, options, min(LIMITS[part], end - began))
        seconds = round(time.perf_counter() - began, 1)
        parts[part] = {"outcome": outcome, "seconds": seconds}
        (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        print(f"{part}: {outcome or 'ok'}, {seconds} s, {out / part}.txt", flush=True)
    return int(any(each["outcome"] for each in parts.values()))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(LIMITS))
    parser.add_argument("--minutes", type=float, default=14, help="for all parts together")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu")
    parser.add_argument("--parallel", type=int, default=8, help="number of runs at a time")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds of the study")
    parser.add_argument("--extend", action="store_true", help="add seeds to the study")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="FIELD=VALUE", help="settings of study and paper"
    )
    options = parser.parse_args()
    if unknown := set(options.parts) - set(LIMITS):
        parser.error(f"there is no part {min(unknown)!r}. Parts: {', '.join(LIMITS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
