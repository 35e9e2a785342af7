"""The commands between a data set and training: who trains, and a cache of it.

The arguments of each function are its command's.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from ham10000.commands.arguments import add_data, add_seed, add_size, add_workers
from ham10000.data import (
    augment_offline,
    data_folder,
    honest_split,
    kfold_split,
    load_table,
    offline_plan,
    open_folder,
    paper_split,
    read_pairs,
    read_split,
    scan_pairs,
    split_counts,
    write_split,
)
from ham10000.data import prepare as prepare_cache
from ham10000.errors import ArgumentError
from ham10000.utils import console

__all__ = ["ARGUMENTS", "COMMANDS"]


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
        made = paper_split(load_table(root), seed)
    else:
        folder = open_folder(root)
        found = read_pairs(pairs) if pairs is not None else scan_pairs(folder)
        if protocol == "honest":
            made = honest_split(folder.table, seed, found)
        else:
            made = kfold_split(folder.table, seed, folds, found)
    write_split(made, out)
    counts = split_counts(made)
    title = f"{protocol}, seed {seed}" + (", fold 0" if protocol == "kfold" else "")
    from ham10000.reporting import print_counts  # loads what trains

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
    from ham10000.reporting import print_counts  # loads what trains

    root = data_folder(data)
    table = load_table(root)
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


def _split_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    add_data(parser)
    parser.add_argument(
        "--protocol",
        choices=["paper", "honest", "kfold"],
        default="honest",
        help="the authors' rule; with a validation set of its own; or in folds",
    )
    add_seed(parser)
    parser.add_argument("--folds", type=int, default=5, help="how many, with kfold")
    parser.add_argument(
        "--pairs",
        type=Path,
        help="near-duplicates as verify --pairs-out wrote them; looked for unless given",
    )


def _prepare_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="the cache's folder")
    add_size(parser, required=True)
    add_data(parser)
    parser.add_argument("--masks", action="store_true", help="put the lesion masks in too")
    add_workers(parser)


def _offline_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--split", type=Path, required=True, help="who trains; from split")
    parser.add_argument("--out", type=Path, help="the folder to make")
    add_data(parser)
    add_size(parser, default=299)
    add_seed(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="only say how many files there would be"
    )
    add_workers(parser)


COMMANDS: dict[str, Callable[..., int]] = {
    "split": split,
    "prepare": prepare,
    "augment-offline": offline,
}

ARGUMENTS: dict[str, Callable[[ArgumentParser], None]] = {
    "split": _split_arguments,
    "prepare": _prepare_arguments,
    "augment-offline": _offline_arguments,
}
