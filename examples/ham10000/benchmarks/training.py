"""Cost of training: scaling to two processes, and an epoch compared with a conventional loop.

    python examples/ham10000/benchmarks/training.py scaling --cache CACHE
    python examples/ham10000/benchmarks/training.py epoch --cache CACHE [--large]

HAM10000_DIR names the data set; CACHE is its cache at 128 x 128, which is created if missing. Both
alternatives run in separate processes, alternately, a few times. The best time of each is used,
since other load only makes a run slower.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.io import read_image
from torchvision.transforms import v2

from ham10000.data import CLASSES, CachedHAM10000, data_folder, paper_split, prepare, write_split
from ham10000.models import build_model
from ham10000.recipe import Recipe, load_recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "lite0_sa.yaml"
SIZE, TRAIN, HELD = 128, 800, 200


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*SIDES, "scaling", "epoch"])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for a single alternative")
    parser.add_argument(
        "--large", action="store_true", help="epoch: the conventional loop decodes 600 x 450"
    )
    parser.add_argument("--json", type=Path, help="also write the seconds of each round")
    options = parser.parse_args()
    if options.what in SIDES:
        SIDES[options.what](options.cache, options.out, options.large)
        return
    if not (options.cache / "cache.json").exists():
        prepare(data_folder(None), options.cache, SIZE)
    found = scaling(options) if options.what == "scaling" else epoch(options)
    if options.json:
        options.json.write_text(json.dumps([found], indent=1) + "\n")


def scaling(options: argparse.Namespace) -> dict[str, object]:
    """Compare the throughput of two processes with twice that of one."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(options.rounds):
        for processes, found in rates.items():
            with tempfile.TemporaryDirectory() as folder:
                found.append(images_per_second(options.cache, Path(folder), processes))
    one, two = max(rates[1]), max(rates[2])
    print(f"one process:   {one:.1f} images/s")
    print(f"two processes: {two:.1f} images/s, {two / (2 * one):.0%} of twice one")
    sides = {"one process": rates[1], "two processes": rates[2]}
    seconds = {side: [1 / rate for rate in found] for side, found in sides.items()}
    return {"case": "an image, of processes of one thread", "seconds": seconds}


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


def epoch(options: argparse.Namespace) -> dict[str, object]:
    """Compare the seconds of an epoch, with metrics, of the trainer and of a conventional loop."""
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    for _ in range(options.rounds):
        for name, found in seconds.items():
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, __file__, name, "--cache", str(options.cache)]
                command += ["--large"] * options.large
                done = subprocess.run(
                    [*command, "--out", folder], check=True, capture_output=True, text=True
                )
            found.append(float(done.stdout.split()[-1]))
    best = {name: min(found) for name, found in seconds.items()}
    case = f"{TRAIN} + {HELD} images of {SIZE} x {SIZE}"
    print(f"{case}, {os.cpu_count()} cores")
    for name, value in best.items():
        print(f"{name:6} {value:6.1f} s, {value / best['usual']:.2f} of the conventional loop")
    return {"case": case, "seconds": {name: seconds[name] for name in ("usual", "ours")}}


def small_split(cache: Path, path: Path) -> None:
    """Write a split of a few images, each class in proportion."""
    split = paper_split(CachedHAM10000(cache).table, 42)
    parts = []
    for name, count in (("train", TRAIN), ("test", HELD)):
        rows = split[split["split"] == name]
        share = count / len(rows)
        drawn = rows.groupby("dx").sample(frac=share, random_state=0)
        lacking = rows.drop(drawn.index).sample(max(0, count - len(drawn)), random_state=0)
        parts.append(pd.concat([drawn, lacking])[:count])
    write_split(pd.concat(parts).sort_index(), path)


def recipe(cache: Path, split: Path) -> Recipe:
    """Return the recipe that both sides train."""
    changes = [f"data.cache={cache}", f"data.split={split}", "data.workers=0", "training.epochs=2"]
    return load_recipe(RECIPE, changes)


def ours(cache: Path, out: Path, large: bool) -> None:
    """Print the seconds of our second epoch, with evaluation, metrics and checkpoint."""
    from ham10000.training import train

    small_split(cache, out / "split.csv")
    marks: list[float] = []
    module = sys.modules[train.__module__]
    save = module.save

    def mark(*session: object) -> None:
        save(*session)
        marks.append(time.perf_counter())

    module.save = mark
    train(recipe(cache, out / "split.csv"), out / "run")
    print(marks[1] - marks[0])


class Images(Dataset[tuple[torch.Tensor, int]]):
    """A conventional data set: a row of the table, a file, a chain of transforms."""

    def __init__(
        self, folders: list[Path], split: pd.DataFrame, name: str, transform: v2.Transform
    ) -> None:
        self.table = split[split["split"] == name].reset_index(drop=True)
        self.folders, self.transform = folders, transform

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        name, label = self.table.loc[index, ["image_id", "dx"]]
        paths = [folder / f"{name}.jpg" for folder in self.folders]
        path = next(path for path in paths if path.exists())
        return self.transform(read_image(str(path))), CLASSES.index(label)


def enlarge(folders: list[Path], names: Iterable[str], out: Path) -> Path:
    """Write the images at 600 x 450, the size that HAM10000 is published in."""
    place = out / "large"
    place.mkdir()
    for name in names:
        path = next(path for folder in folders if (path := folder / f"{name}.jpg").exists())
        with Image.open(path) as image:
            image.resize((600, 450), Image.Resampling.BICUBIC).save(place / path.name, quality=95)
    return place


def usual(cache: Path, out: Path, large: bool) -> None:
    """Print the seconds of the second epoch of a conventional loop.

    Like PyTorch code published for HAM10000, the loader decodes, augments and resizes each image at
    full size in each pass. After the training pass, a second augmented pass over the training set
    computes its metrics; two passes over the test images compute loss and metrics. The model stays
    in training mode.
    """
    small_split(cache, out / "split.csv")
    mine = recipe(cache, out / "split.csv")
    split = pd.read_csv(out / "split.csv")
    folders = sorted(data_folder(None).glob("HAM10000_images*"))
    if large:
        folders = [enlarge(folders, split["image_id"], out)]
    changes = [v2.RandomHorizontalFlip(), v2.ColorJitter((0.5, 1.5), contrast=0.2)]
    tail = [
        v2.Resize((SIZE, SIZE)),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mine.model.mean, mine.model.std),
    ]
    batch = mine.training.batch_size
    training = Images(folders, split, "train", v2.Compose([*changes, *tail]))
    loader = DataLoader(training, batch, shuffle=True)
    test = DataLoader(Images(folders, split, "test", v2.Compose(tail)), batch)
    model = build_model(mine)
    optimizer = torch.optim.Adam(model.parameters(), mine.optimizer.lr)
    start = 0.0
    for _ in range(2):
        start = time.perf_counter()
        for images, targets in loader:
            optimizer.zero_grad()
            loss = cross_entropy(model(images), targets)
            loss.backward()
            optimizer.step()
            loss.item()
        with torch.no_grad():
            for images, targets in test:
                cross_entropy(model(images), targets).item()
            for part in (loader, test):
                passed = [(model(images).argmax(1), targets) for images, targets in part]
                predicted, truth = (torch.cat(each) for each in zip(*passed, strict=True))
                print(float((predicted == truth).float().mean()))
    print(time.perf_counter() - start)


SIDES = {"ours": ours, "usual": usual}


if __name__ == "__main__":
    main()
