"""The commands, one function each; their arguments are the command line's."""

import json as json_format
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from ham10000.data.augment.offline import augment_offline, offline_plan
from ham10000.data.download import download as download_parts
from ham10000.data.duplicates import read_pairs, scan_pairs, write_pairs
from ham10000.data.explore import explore as explore_folder
from ham10000.data.facts import LICENCE, WIDTH
from ham10000.data.layout import data_folder, open_folder
from ham10000.data.prepare import prepare as prepare_cache
from ham10000.data.sources import Part
from ham10000.data.split import honest_split, kfold_split, paper_split, summary
from ham10000.data.splitfile import read_split, write_split
from ham10000.data.synthetic import synthesize as synthesize_folder
from ham10000.data.table import find_table, read_table
from ham10000.data.verify import verify as verify_folder
from ham10000.errors import ArgumentError
from ham10000.printing import console, print_counts, print_report

__all__ = ["COMMANDS"]


def download(
    out: Path,
    source: Literal["dataverse", "kaggle", "isic"] = "dataverse",
    parts: Sequence[Part] = ("images", "metadata"),
    mirror: str | None = None,
) -> int:
    """Download HAM10000 into a folder.

    Args:
        out: the folder.
        source: where from: the Dataverse, the mirror on Kaggle, or the challenge's archives.
        parts: which of images, metadata, masks and test.
        mirror: an address that serves the source's files under their names.
    """
    out_console = console()
    out_console.print(LICENCE, style="italic")
    download_parts(
        out, source, parts, mirror=mirror, say=lambda text: out_console.print(text, markup=False)
    )
    out_console.print(f"Done. Check it with: ham10000 verify --data {out}", markup=False)
    return 0


def verify(
    data: Path | None = None,
    json: bool = False,
    pairs_out: Path | None = None,
    workers: int | None = None,
) -> int:
    """Check a data set: layout, table, images, masks, counts, duplicates.

    Exits with 0 if the data set is usable, with 1 if not; warnings don't count.

    Args:
        data: its folder; what HAM10000_DIR names unless given.
        json: print JSON instead of a table.
        pairs_out: write the near-duplicates across lesion ids here, for split --pairs.
        workers: how many threads; as many as there are cores unless given.
    """
    report = verify_folder(data_folder(data), workers)
    if pairs_out is not None:
        write_pairs(report.pairs, pairs_out)
    if json:
        print(json_format.dumps(report.as_dict(), indent=2))
    else:
        print_report(report)
    return 0 if report.usable else 1


def split(
    out: Path,
    data: Path | None = None,
    protocol: Literal["paper", "honest", "kfold"] = "honest",
    seed: int = 0,
    folds: int = 5,
    pairs: Path | None = None,
) -> int:
    """Say which image trains and which tests, always by lesion.

    Args:
        out: the file to write: image_id, lesion_id, dx, split, and fold with kfold.
        data: the data set's folder; what HAM10000_DIR names unless given.
        protocol: paper (the authors' rule), honest (a validation set of its own, near-duplicates
            kept together), or kfold (the same, in folds).
        seed: of the draw.
        folds: how many, with kfold.
        pairs: the near-duplicates as verify --pairs-out wrote them; looked for unless given.
    """
    root = data_folder(data)
    if protocol == "paper":
        if pairs is not None:
            raise ArgumentError("splitting: the protocol paper doesn't look at near-duplicates.")
        made = paper_split(read_table(find_table(root)), seed)
    else:
        folder = open_folder(root)
        found = read_pairs(pairs) if pairs is not None else scan_pairs(folder)
        if protocol == "honest":
            made = honest_split(folder.table, seed, found)
        else:
            made = kfold_split(folder.table, seed, folds, found)
    write_split(made, out)
    counts = summary(made)
    title = f"{protocol}, seed {seed}" + (", fold 0" if protocol == "kfold" else "")
    print_counts(counts.assign(all=counts.sum(axis=1)), title)
    console().print(f"Written to {out}", markup=False)
    return 0


def prepare(
    out: Path,
    size: int,
    data: Path | None = None,
    masks: bool = False,
    workers: int | None = None,
) -> int:
    """Decode and resize every image once, into a cache that training maps.

    Args:
        out: the cache's folder.
        size: images become size x size pixels.
        data: the data set's folder; what HAM10000_DIR names unless given.
        masks: put the lesion masks in too.
        workers: how many threads; as many as there are cores unless given.
    """
    done = prepare_cache(data_folder(data), out, size, masks=masks, workers=workers)
    what = "Prepared" if done.built else "Nothing to do:"
    shape = " x ".join(map(str, done.cache.images.shape))
    console().print(f"{what} {out}, {shape} uint8", markup=False)
    return 0


def offline(
    split: Path,
    out: Path | None = None,
    data: Path | None = None,
    size: int = 299,
    seed: int = 0,
    dry_run: bool = False,
    workers: int | None = None,
) -> int:
    """Write the authors' augmented training set, about 8,000 files a class.

    Args:
        split: who trains; from the command split.
        out: the folder to make.
        data: the data set's folder; what HAM10000_DIR names unless given.
        size: images become size x size pixels first.
        seed: of the augmentation.
        dry_run: only say how many files there would be.
        workers: how many threads; as many as there are cores unless given.
    """
    root = data_folder(data)
    table = read_table(find_table(root))
    chosen = read_split(split, table)
    if dry_run:
        print_counts(offline_plan(chosen), "What would be written")
        return 0
    if out is None:
        raise ArgumentError("augmenting offline: no --out says where to. Or pass --dry-run.")
    folder = open_folder(root)
    plan = augment_offline(folder, chosen, out, size=size, seed=seed, workers=workers)
    print_counts(plan, f"Written to {out}")
    return 0


def synthesize(
    out: Path, images: int = 1000, seed: int = 0, width: int = WIDTH, workers: int | None = None
) -> int:
    """Make up a data set in HAM10000's layout, where the real one can't be had.

    Args:
        out: the folder to make.
        images: how many.
        seed: of everything.
        width: of an image, in pixels; its height is three quarters of that.
        workers: how many threads; as many as there are cores unless given.
    """
    synthesize_folder(out, images, seed, width=width, workers=workers)
    console().print(f"{images:,} images, masks and a table in {out}", markup=False)
    return 0


def explore(out: Path, data: Path | None = None, seed: int = 0, workers: int | None = None) -> int:
    """Show what is in a data set, as one HTML page.

    Args:
        out: where explore.html goes.
        data: the data set's folder; what HAM10000_DIR names unless given.
        seed: of the choice of images that are shown.
        workers: how many threads; as many as there are cores unless given.
    """
    page = explore_folder(data_folder(data), out, seed=seed, workers=workers)
    console().print(f"Written to {page}", markup=False)
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "download": download,
    "verify": verify,
    "split": split,
    "prepare": prepare,
    "augment-offline": offline,
    "synthesize": synthesize,
    "explore": explore,
}
