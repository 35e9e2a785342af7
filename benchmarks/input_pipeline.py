"""Throughput of batches from a cache, compared with decoding each JPEG with PIL.

    python benchmarks/input_pipeline.py --data DIR

Both pipelines make epochs of augmented float32 batches of the same images, with the same number of
persistent worker processes. They run in turn, so that other load affects both. A first epoch, which
is not timed, starts the workers and measures their memory. The ratio of processor time, "busy", is
printed next to that of images per second, since other load affects it less.

The baseline is a common pipeline: `PIL.Image.open`, resize, one affine transform, flips,
conversion to a tensor and normalization, image by image, in a `DataLoader`. The other pipeline maps
a cache made by `ham10000 prepare`, and augments batch by batch in a `BatchLoader`. Both run on the
images as they are, and on the same images enlarged to 600 x 450, the published size. For the preset
`strong`, the baseline has ColorJitter and four operations of RandAugment's kind; hairs and rulers,
which torchvision doesn't have, are drawn by the other pipeline only.

Memory is the largest private memory of a worker process in an epoch, without mapped files and
shared memory, minus that after its first batches.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from ham10000.data import (
    PRESETS,
    Augment,
    BatchLoader,
    CachedHAM10000,
    EpochSampler,
    data_folder,
    open_folder,
    prepare,
)
from ham10000.utils import write_text
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
    if preset.random_operation:
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


def baseline(data: JPEGs, batch: int, workers: int) -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    return DataLoader(
        data,
        batch,
        shuffle=True,
        generator=generator,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def from_cache(data: CachedHAM10000, augment: Augment, batch: int, workers: int) -> BatchLoader:
    sampler = EpochSampler(data.targets, seed=0)
    return BatchLoader(data, sampler, batch, augment, workers=workers, reuse_memory=True)


@dataclass(frozen=True)
class Epoch:
    """Cost of an epoch."""

    rate: float
    """Images per second."""
    busy: float
    """Seconds of processor time, of this process and its workers."""


def own_memory() -> dict[int, int]:
    """Return the private memory of each worker, or of this process without workers, in bytes."""
    process = psutil.Process()
    own = {}
    for worker in process.children() or [process]:
        memory = worker.memory_info()
        own[worker.pid] = memory.rss - memory.shared
    return own


def busy() -> float:
    """Return the processor time of this process and of its workers."""
    process = psutil.Process()
    times = [each.cpu_times() for each in (process, *process.children())]
    return sum(each.user + each.system for each in times)


def run(loader: Iterable[Sequence[Tensor | None]]) -> Epoch:
    """Time an epoch."""
    images = 0
    began, busy_before = time.perf_counter(), busy()
    for batch in loader:
        assert batch[0] is not None
        images += len(batch[0])
    seconds = time.perf_counter() - began
    return Epoch(images / seconds, busy() - busy_before)


def growth(loader: Iterable[Sequence[Tensor | None]], workers: int) -> int:
    """Return the largest growth of a worker's private memory in an epoch, in bytes.

    Separate from `run`, since reading the memory of processes takes as long as making a batch.
    """
    most = 0
    first: dict[int, int] = {}
    for number, _ in enumerate(loader):
        if number == 2 * workers:  # each worker has allocated what a batch needs
            first = own_memory()
        elif number > 2 * workers:
            own = own_memory()
            most = max([most, *(own[pid] - first.get(pid, own[pid]) for pid in own)])
    return most


def enlarge(paths: list[Path], out: Path) -> list[Path]:
    """Write the images at 600 x 450, as JPEGs with the quality of the published files."""

    def job(path: Path) -> Path:
        with Image.open(path) as image:
            image.resize((600, 450), Image.Resampling.BICUBIC).save(out / path.name, quality=95)
        return out / path.name

    with ThreadPoolExecutor() as pool:
        return list(pool.map(job, paths))


def subset(root: Path, number: int, out: Path, large: bool) -> tuple[Path, list[Path]]:
    """Make a data set of some of the images, so that the cache has only these."""
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
) -> tuple[list[tuple[Epoch, Epoch]], list[int]]:
    """Return the epochs of both pipelines, round by round, and the growth of a worker of each."""
    pipelines = (
        baseline(JPEGs(paths, cached.targets, size, preset), options.batch, options.workers),
        from_cache(cached, Augment(preset), options.batch, options.workers),
    )
    grown = [growth(pipeline, options.workers) for pipeline in pipelines]
    return [(run(pipelines[0]), run(pipelines[1])) for _ in range(options.rounds)], grown


def report(
    table: Table, name: str, rounds: list[tuple[Epoch, Epoch]], grown: Iterable[float]
) -> None:
    """Add a row: the best round of each pipeline, the ratios of the rounds, and the growth."""
    ratios = sorted(new.rate / old.rate for old, new in rounds)
    of_busy = sorted(old.busy / new.busy for old, new in rounds)
    table.add_row(
        name,
        f"{max(old.rate for old, _ in rounds):,.0f}",
        f"{max(new.rate for _, new in rounds):,.0f}",
        f"{ratios[len(ratios) // 2]:.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})",
        f"{of_busy[len(of_busy) // 2]:.1f}",
        *(f"{batches:.2f}" for batches in grown),
    )


def taken(case: str, rounds: list[tuple[Epoch, Epoch]], images: int) -> dict[str, object]:
    """Return the seconds per image of each round, of wall time and of processor time."""
    pipelines = zip(("PIL", "cache"), zip(*rounds, strict=True), strict=True)
    return {"case": case} | {
        name: [{"seconds": 1 / epoch.rate, "busy": epoch.busy / images} for epoch in epochs]
        for name, epochs in pipelines
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of HAM10000; HAM10000_DIR by default")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 224])
    parser.add_argument("--presets", nargs="+", default=["authors", "strong"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the cost of each round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=110, highlight=False)
    found: list[dict[str, object]] = []
    table = Table(
        title=f"{options.images:,} images, {options.workers} workers, batches of {options.batch}: "
        "images per second (best round)"
    )
    table.add_column("images, size, augmentation", no_wrap=True)
    for name in ("PIL", "cache", "ratio (range)", "busy", "grows, PIL", "cache"):
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
                    rounds, grown = compare(paths, cached, size, preset, options)
                    batch_bytes = options.batch * 3 * size * size * 4
                    name = f"{kind}, {size}, {preset}"
                    report(table, name, rounds, [each / batch_bytes for each in grown])
                    case = f"{kind}, {size} x {size}, {preset}"
                    found.append(taken(case, rounds, options.images))
    console.print(table)
    console.print("Growth is in batches: 1.00 is the bytes of one float32 batch.")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
