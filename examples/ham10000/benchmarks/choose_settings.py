"""Train one recipe with every combination of settings, and compare them on the validation set.

    python examples/ham10000/benchmarks/choose_settings.py RECIPE --set FIELD=VALUE,VALUE ...
        [--seeds 0 1] [--split-seed 1000] [--parallel N] --out FOLDER [OVERRIDE ...]

Chooses the settings of a study before its plan is written: with the control alone, and on a split
that the study does not use. The split is `lesion` with the given seed, and only its validation
images are scored. Prints a table and writes FOLDER/choice.json.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from ham10000.evaluation import read_predictions, summarize
from ham10000.training import RunDir

METRICS = ("auc_macro", "balanced_accuracy", "log_loss")


def main() -> None:
    """Train all combinations, print a table and write it."""
    options = arguments()
    fields = dict(text.split("=", 1) for text in options.set)
    values = [fields[field].split(",") for field in fields]
    combinations = [dict(zip(fields, chosen, strict=True)) for chosen in itertools.product(*values)]
    jobs = [(settings, seed) for settings in combinations for seed in options.seeds]
    options.out.mkdir(parents=True, exist_ok=True)
    split = options.out / "split.csv"
    if not split.exists():
        ham10000("split", "--protocol", "lesion", "--seed", options.split_seed, "--out", split)
    options.overrides.append(f"data.split={split.absolute()}")

    def train(job: tuple[dict[str, str], int]) -> tuple[dict[str, float], float]:
        settings, seed = job
        chosen = [f"{field}={value}" for field, value in settings.items()]
        name = "-".join([*(text.rpartition(".")[2] for text in chosen), f"seed={seed}"])
        return run(options, [*chosen, f"seed={seed}"], options.out / name)

    with ThreadPoolExecutor(options.parallel) as pool:
        found = list(pool.map(train, jobs))
    rows = []
    for settings in combinations:
        own = [score for (each, _), score in zip(jobs, found, strict=True) if each is settings]
        means = {name: statistics.mean(score[name] for score, _ in own) for name in METRICS}
        seconds = statistics.mean(seconds for _, seconds in own)
        rows.append({**settings, **means, "seconds": round(seconds, 1)})
    content = {
        "recipe": options.recipe,
        "overrides": options.overrides[:-1],  # the last is the path of the split
        "split_seed": options.split_seed,
        "seeds": options.seeds,
        "rows": rows,
    }
    (options.out / "choice.json").write_text(json.dumps(content, indent=1) + "\n")
    for row in rows:
        values = [f"{v:.4f}" if isinstance(v, float) else v for v in row.values()]
        print("  ".join(f"{name} {value}" for name, value in zip(row, values, strict=True)))


def run(
    options: argparse.Namespace, chosen: Sequence[str], folder: Path
) -> tuple[dict[str, float], float]:
    """Train a run, and return its validation metrics and the seconds that it took."""
    began = time.perf_counter()
    with (options.out / f"{folder.name}.txt").open("w") as log:
        ham10000("train", options.recipe, "--out", folder, *options.overrides, *chosen, log=log)
    seconds = time.perf_counter() - began
    predicted = read_predictions(RunDir(folder).predictions("val"))
    return summarize(predicted.targets, predicted.probabilities), seconds


def ham10000(*arguments: object, log: IO[str] | None = None) -> None:
    """Run a command of the example on one thread."""
    subprocess.run(
        [sys.executable, "-m", "ham10000", *map(str, arguments)],
        check=True,
        stdout=log,
        stderr=subprocess.STDOUT if log else None,
        env={"OMP_NUM_THREADS": "1", **os.environ},
    )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe")
    parser.add_argument("--set", nargs="+", required=True, metavar="FIELD=VALUE,VALUE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--split-seed", type=int, default=1000)
    parser.add_argument("--parallel", type=int, default=1, help="number of runs at a time")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="for every run")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    main()
