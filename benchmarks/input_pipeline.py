"""How fast batches come out of a cache, beside decoding JPEGs with PIL image by image.

    python benchmarks/input_pipeline.py --data DIR

Both sides make an epoch of augmented float32 batches of the same images, with the same number of
workers of a DataLoader, in turn, so that what else the machine does meets both. The left side is
what most projects do: `PIL.Image.open`, resize, one affine transform, flips, to a tensor, normalize,
image by image. The right side maps a cache that `ham10000 prepare` made, and augments a batch at a
time. Once on the images as they are, once on the same images enlarged to 600 x 450, the size that
HAM10000 is published in. The preset `strong` has, on the left, ColorJitter and RandAugment's four
odd jobs; hairs and rulers, which torchvision doesn't have, are drawn on the right side only.

Memory is what a worker has for itself beyond the pages of files, at most over an epoch, less what
it has before its first batch.
"""

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import torch
from ham10000.data.augment import PRESETS, Augment
from ham10000.data.batches import Batches
from ham10000.data.dataset import CachedHAM10000
from ham10000.data.files import write_text
from ham10000.data.layout import data_folder, open_folder
from ham10000.data.prepare import prepare
from ham10000.data.samplers import EpochSampler
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2


class JPEGs(Dataset[tuple[Tensor, int]]):
    """Images decoded with PIL and transformed one by one."""

    def __init__(self, paths: list[Path], targets: list[int], size: int, preset: str) -> None:
        self.paths, self.targets = paths, targets
        self.transform = per_image(size, preset)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), self.targets[index]


def per_image(size: int, name: str) -> Callable[[Image.Image], Tensor]:
    preset = PRESETS[name]
    steps: list[Callable[..., object]] = [
        v2.Resize((size, size)),
        v2.RandomAffine(
            preset.degrees,
            translate=(preset.shift, preset.shift),
            scale=(1 - preset.zoom, 1 + preset.zoom),
            interpolation=v2.InterpolationMode.BILINEAR,
        ),
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
    ]
    if preset.colours:
        steps.append(
            v2.ColorJitter(preset.brightness, preset.contrast, preset.saturation, preset.hue)
        )
    if preset.odd_jobs:
        jobs = [
            v2.GaussianBlur(5, (0.1, 1.1)),
            v2.RandomAdjustSharpness(2, p=1),
            v2.RandomPosterize(4, p=1),
            v2.Lambda(lambda image: v2.functional.adjust_gamma(image, random.uniform(0.7, 1.4))),
        ]
        steps.append(v2.RandomApply([v2.RandomChoice(jobs)], p=0.5))
    steps += [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * 3, [0.5] * 3),
    ]
    return v2.Compose(steps)


def left(data: JPEGs, batch: int, workers: int, epoch: int) -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(epoch)
    return DataLoader(
        data, batch, shuffle=True, generator=generator, num_workers=workers, persistent_workers=False
    )


def right(
    data: CachedHAM10000, augment: Augment, batch: int, workers: int, epoch: int
) -> DataLoader[tuple[Tensor, ...]]:
    sampler = EpochSampler(data.targets, seed=0)
    sampler.set_epoch(epoch)
    batches = Batches(data, sampler, batch, augment)
    return DataLoader(batches, batch_size=None, num_workers=workers)


class Watch:
    """Watches how much memory the children of this process have for themselves, at most."""

    def __enter__(self) -> "Watch":
        self.first: dict[int, int] = {}
        self.most: dict[int, int] = {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _look(self) -> None:
        while not self.over.wait(0.01):
            for child in psutil.Process().children():
                try:
                    memory = child.memory_info()
                except psutil.NoSuchProcess:
                    continue
                own = memory.rss - memory.shared
                self.first.setdefault(child.pid, own)
                self.most[child.pid] = max(self.most.get(child.pid, 0), own)

    def growth(self) -> int:
        """Return by how many bytes the worker that grew most has grown."""
        return max((self.most[pid] - first for pid, first in self.first.items()), default=0)


def run(loader: DataLoader[tuple[Tensor, ...]]) -> tuple[float, int, int]:
    """Go through an epoch; return images a second, images, and the growth of a worker in bytes."""
    images = 0
    with Watch() as watch:
        began = time.perf_counter()
        for batch in loader:
            images += len(batch[0])
        seconds = time.perf_counter() - began
    return images / seconds, images, watch.growth()


def enlarge(paths: list[Path], out: Path) -> list[Path]:
    """Write the images at 600 x 450, as JPEGs of the published files' quality."""

    def job(path: Path) -> Path:
        with Image.open(path) as image:
            image.resize((600, 450), Image.Resampling.BICUBIC).save(out / path.name, quality=95)
        return out / path.name

    with ThreadPoolExecutor() as pool:
        return list(pool.map(job, paths))


def subset(root: Path, number: int, out: Path, large: bool) -> tuple[Path, list[Path]]:
    """Make a data set of some of the images, so that the cache holds these and no others."""
    folder = open_folder(root)
    rows = sorted(random.Random(0).sample(range(len(folder.table)), number))
    paths = [folder.paths()[row] for row in rows]
    images = out / "HAM10000_images_part_1"
    images.mkdir(parents=True)
    if large:
        enlarge(paths, images)
    else:
        for path in paths:
            (images / path.name).symlink_to(path.resolve())
    table = folder.table.iloc[rows]
    write_text(out / "HAM10000_metadata.csv", table.to_csv(index=False))
    return out, [images / path.name for path in paths]


def compare(
    paths: list[Path], cached: CachedHAM10000, size: int, preset: str, options: argparse.Namespace
) -> Iterator[tuple[float, float, int, int]]:
    jpegs = JPEGs(paths, cached.targets, size, preset)
    augment = Augment(preset)
    for epoch in range(options.rounds):
        slow, _, slow_growth = run(left(jpegs, options.batch, options.workers, epoch))
        fast, _, fast_growth = run(right(cached, augment, options.batch, options.workers, epoch))
        yield slow, fast, slow_growth, fast_growth


def report(
    table: Table, name: str, rounds: list[tuple[float, float, int, int]], batch_bytes: int
) -> None:
    """Add a row: each side's best round, and the ratios of the pairs of rounds."""
    ratios = sorted(fast / slow for slow, fast, _, _ in rounds)
    table.add_row(
        name,
        f"{max(each[0] for each in rounds):,.0f}",
        f"{max(each[1] for each in rounds):,.0f}",
        f"{ratios[len(ratios) // 2]:.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})",
        f"{max(each[2] for each in rounds) / batch_bytes:.2f}",
        f"{max(each[3] for each in rounds) / batch_bytes:.2f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="HAM10000; what HAM10000_DIR names unless given")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 224])
    parser.add_argument("--presets", nargs="+", default=["authors", "strong"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=100, highlight=False)
    table = Table(
        title=f"{options.images:,} images, {options.workers} workers, batches of {options.batch}: "
        "images a second (best of the rounds)"
    )
    table.add_column("images, size, augmentation")
    for name in ("PIL", "cache", "ratio, median (range)", "grows, PIL", "grows, cache"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as place:
        for large in (False, True):
            kind = "600 x 450" if large else "as they are"
            root = Path(place) / kind.replace(" ", "")
            root, paths = subset(data_folder(options.data), options.images, root, large)
            for size in options.sizes:
                cache = prepare(root, Path(place) / f"cache{size}{large}", size).cache
                cached = CachedHAM10000(cache.path)
                for preset in options.presets:
                    rounds = list(compare(paths, cached, size, preset, options))
                    batch_bytes = options.batch * 3 * size * size * 4
                    report(table, f"{kind}, {size}, {preset}", rounds, batch_bytes)
    console.print(table)
    console.print("Growth is in batches: 1.00 is the bytes of one float32 batch.")


if __name__ == "__main__":
    main()
