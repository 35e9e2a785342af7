"""What training costs: two processes beside one, and an epoch beside one done the usual way.

    python examples/ham10000/benchmarks/training.py scaling --cache CACHE
    python examples/ham10000/benchmarks/training.py epoch --cache CACHE

HAM10000_DIR names the data set; CACHE is one of it at 128 x 128, and is made if it isn't there.
Each side runs in processes of its own, in turn, a few times; the best time of each counts, since
whatever else a machine does only makes a time longer.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from ham10000.data.dataset import HAM10000, CachedHAM10000
from ham10000.data.layout import data_folder
from ham10000.data.prepare import prepare
from ham10000.data.split import paper_split
from ham10000.data.splitfile import write_split
from ham10000.recipe import Recipe, load_recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "lite0_sa.yaml"
SIZE, TRAIN, HELD = 128, 800, 200


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*SIDES, "scaling", "epoch"])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="where a single side works")
    options = parser.parse_args()
    if options.what in SIDES:
        SIDES[options.what](options.cache, options.out)
        return
    if not (options.cache / "cache.json").exists():
        prepare(data_folder(None), options.cache, SIZE)
    scaling(options) if options.what == "scaling" else epoch(options)


def scaling(options: argparse.Namespace) -> None:
    """Compare the images a second of two processes with twice those of one."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(options.rounds):
        for processes, found in rates.items():
            with tempfile.TemporaryDirectory() as folder:
                found.append(images_per_second(options.cache, Path(folder), processes))
    one, two = max(rates[1]), max(rates[2])
    print(f"one process:   {one:.1f} images/s")
    print(f"two processes: {two:.1f} images/s, {two / (2 * one):.0%} of twice one")


def images_per_second(cache: Path, folder: Path, processes: int) -> float:
    """Train two short epochs in processes of one thread, and return the rate of the second."""
    small_split(cache, folder / "split.csv")
    changes = {
        "data.cache": cache,
        "data.split": folder / "split.csv",
        "data.workers": 0,
        "data.epoch_samples": 384 * processes,
        "training.batch_size": 16 * processes,
        "training.epochs": 2,
        "training.max_minutes": 5,
    }
    command = [sys.executable, "-m", "ham10000", "train", str(RECIPE), "--out", str(folder / "run")]
    command += [f"--{name}={value}" for name, value in changes.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command += ["--processes", str(processes)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return float(records[-2]["images_per_second"])


def epoch(options: argparse.Namespace) -> None:
    """Compare the seconds of an epoch with its metrics, ours and the usual way."""
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    for _ in range(options.rounds):
        for name, found in seconds.items():
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, __file__, name, "--cache", str(options.cache)]
                done = subprocess.run(
                    [*command, "--out", folder], check=True, capture_output=True, text=True
                )
            found.append(float(done.stdout.split()[-1]))
    best = {name: min(found) for name, found in seconds.items()}
    print(f"{TRAIN} + {HELD} images of {SIZE} x {SIZE}, {os.cpu_count()} cores")
    for name, value in best.items():
        print(f"{name:6} {value:6.1f} s, {value / best['usual']:.2f} of the usual way")


def small_split(cache: Path, path: Path) -> None:
    """Write a split of a few images, each class in proportion."""
    split = paper_split(CachedHAM10000(cache).table, 42)
    parts = []
    for side, count in (("train", TRAIN), ("test", HELD)):
        rows = split[split["split"] == side]
        share = count / len(rows)
        drawn = rows.groupby("dx").sample(frac=share, random_state=0)
        lacking = rows.drop(drawn.index).sample(max(0, count - len(drawn)), random_state=0)
        parts.append(pd.concat([drawn, lacking])[:count])
    write_split(pd.concat(parts).sort_index(), path)


def recipe(cache: Path, split: Path) -> Recipe:
    """Return the recipe that both sides train."""
    changes = [f"data.cache={cache}", f"data.split={split}", "data.workers=0", "training.epochs=2"]
    return load_recipe(RECIPE, changes)


def ours(cache: Path, out: Path) -> None:
    """Print the seconds of our second epoch, with evaluation, metrics and checkpoint."""
    from ham10000.training import loop, train

    small_split(cache, out / "split.csv")
    marks: list[float] = []
    close = loop.save

    def mark(session: loop.Session) -> None:
        close(session)
        marks.append(time.perf_counter())

    loop.save = mark
    train.train(recipe(cache, out / "split.csv"), out / "run")
    print(marks[1] - marks[0])


def usual(cache: Path, out: Path) -> None:
    """Print the seconds of an epoch as it is often done, of the second one.

    Images are decoded and resized by the loader in each pass, and when an epoch is over the
    training set is passed through the model once more, for its metrics.
    """
    from torchvision.transforms import v2

    from ham10000.models import build_model

    small_split(cache, out / "split.csv")
    mine = recipe(cache, out / "split.csv")
    mean, std = mine.model.mean, mine.model.std
    tail = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    flips = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    loaders = [
        torch.utils.data.DataLoader(
            HAM10000(None, side, v2.Compose(steps), split_file=out / "split.csv", size=SIZE),
            batch_size=mine.training.batch_size,
            shuffle=side == "train",
        )
        for side, steps in (("train", [*flips, *tail]), ("test", tail))
    ]
    model = build_model(mine.model, size=SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), mine.optimizer.lr)
    start = 0.0
    for _ in range(2):
        start = time.perf_counter()
        model.train()
        for images, targets in loaders[0]:
            torch.nn.functional.cross_entropy(model(images), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            for loader in loaders:
                right = sum(int((model(x).argmax(1) == y).sum()) for x, y in loader)
                print(right)
    print(time.perf_counter() - start)


SIDES = {"ours": ours, "usual": usual}


if __name__ == "__main__":
    main()
