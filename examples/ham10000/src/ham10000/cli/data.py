"""Commands for the data set: download, check, split, prepare."""

import json as json_format
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ham10000.cli.options import Data, DataSet, Seed, Workers
from ham10000.data import (
    HAM10000_INFO,
    IMAGE_WIDTH,
    TEST_SHARE,
    LayoutName,
    Part,
    SplitProtocol,
    data_folder,
    download_dataset,
    find_dataset,
    load_table,
    offline_plan,
    open_folder,
    read_pairs,
    read_split,
    scan_pairs,
    split_by_protocol,
    split_counts,
    verify_dataset,
    write_pairs,
    write_split,
)
from ham10000.data import (
    augment_offline as write_augmented,
)
from ham10000.data import prepare as prepare_cache
from ham10000.data import synthesize as synthesize_folder
from ham10000.errors import ArgumentError
from ham10000.reporting import console, explore_dataset, print_counts, print_verification

_PROTOCOLS_WITH_SHARE = ("paper", "paper_val", "honest")
"""Protocols with a share of the test set."""


def download(
    *,
    out: Path,
    dataset: DataSet = HAM10000_INFO.name,
    source: Literal["dataverse", "kaggle", "isic"] | None = None,
    parts: Sequence[Part] = ("images", "metadata"),
    mirror: str | None = None,
) -> int:
    """Download HAM10000 or ISIC 2017.

    Args:
        out: Folder of the data set.
        source: Source of HAM10000: Harvard Dataverse (the default), Kaggle, or the archives of the
            ISIC challenge.
        parts: Parts to download; test is the official test set.
        mirror: URL that serves the files of the source under the same names.
    """
    screen, info = console(), find_dataset(dataset)
    screen.print(info.licence, style="italic")
    download_dataset(
        out,
        source,
        parts,
        info=info,
        mirror=mirror,
        say=lambda text: screen.print(text, markup=False),
    )
    other = "" if info is HAM10000_INFO else f" --set {dataset}"
    screen.print(f"Done. Check it with: ham10000 verify --data {out}{other}", markup=False)
    return 0


def verify(
    *,
    data: Data = None,
    dataset: DataSet = HAM10000_INFO.name,
    json: bool = False,
    pairs_out: Path | None = None,
    workers: Workers = None,
) -> int:
    """Check a data set: folder, table, images, masks, counts and duplicates.

    The exit status is 0 if the data set is usable and 1 otherwise. Warnings do not affect it.

    Args:
        json: Print JSON instead of a table.
        pairs_out: File to write detected duplicates of different lesions to, for `split --pairs`.
    """
    report = verify_dataset(data_folder(data), workers, find_dataset(dataset))
    if pairs_out is not None:
        write_pairs(report.pairs, pairs_out)
    if json:
        print(json_format.dumps(report.as_dict(), indent=2))
    else:
        print_verification(report)
    return 0 if report.usable else 1


def synthesize(
    *,
    out: Path,
    images: int = 1000,
    seed: Seed = 0,
    width: int = IMAGE_WIDTH,
    like: LayoutName = "ham10000",
    workers: Workers = None,
) -> int:
    """Generate a synthetic data set in the layout of HAM10000 or of another data set.

    Args:
        out: Folder of the data set.
        images: Number of images.
        width: Width of the images in pixels. The height is three quarters of it.
        like: Published data set whose layout, classes and proportions to use.
    """
    synthesize_folder(out, images, seed, width=width, workers=workers, like=like)
    console().print(f"{images:,} images, masks and a table in {out}", markup=False)
    return 0


def explore(
    *,
    out: Path,
    data: Data = None,
    dataset: DataSet = HAM10000_INFO.name,
    seed: Seed = 0,
    workers: Workers = None,
) -> int:
    """Write an HTML page about the contents of a data set.

    Args:
        out: Folder for explore.html.
    """
    page = explore_dataset(
        data_folder(data), out, seed=seed, workers=workers, info=find_dataset(dataset)
    )
    console().print(f"Written to {page}", markup=False, soft_wrap=True)
    return 0


def split(
    *,
    out: Path,
    data: Data = None,
    dataset: DataSet = HAM10000_INFO.name,
    protocol: SplitProtocol = "lesion",
    seed: Seed = 0,
    folds: int = 5,
    validation: bool = False,
    test_share: float = TEST_SHARE,
    pairs: Path | None = None,
) -> int:
    """Split a data set by lesion into training, validation and test set.

    Args:
        out: Split file to write, a CSV file.
        protocol: lesion: all lesions, stratified, duplicates kept together; kfold: the same in
            folds; paper: the authors' split, without a validation set; paper_val: with one;
            published: that of the data set itself.
        folds: Number of folds, with kfold.
        validation: Use the fold after the test fold as validation set, with kfold.
        test_share: Share of the lesions with one image in the test set, with paper and paper_val.
        pairs: File of duplicates from `verify --pairs-out`. Defaults to a new search.
    """
    root, info = data_folder(data), find_dataset(dataset)
    if validation and protocol != "kfold":
        raise ArgumentError(
            f"splitting: --validation is for kfold, found --protocol {protocol}. Omit it; lesion "
            "and paper_val always have a validation set."
        )
    if test_share != TEST_SHARE and protocol not in _PROTOCOLS_WITH_SHARE:
        raise ArgumentError(
            f"splitting: --test-share is for paper and paper_val, found --protocol {protocol}. "
            "Omit it."
        )
    found = None
    if protocol in ("paper", "published"):
        if pairs is not None:
            raise ArgumentError(
                f"splitting: the protocol {protocol} ignores duplicates. Omit --pairs, or use "
                "--protocol lesion."
            )
        table = load_table(root, info)
    else:
        folder = open_folder(root, info)
        table = folder.table
        found = read_pairs(pairs) if pairs is not None else scan_pairs(folder)
    made = split_by_protocol(
        table, protocol, seed, found, folds=folds, validation=validation, test_share=test_share
    )
    write_split(made, out)
    counts = split_counts(made, info.classes)
    title = protocol if protocol == "published" else f"{protocol}, seed {seed}"
    title += ", fold 0" if protocol == "kfold" else ""
    print_counts(counts.assign(all=counts.sum(axis=1)), title)
    console().print(f"Written to {out}", markup=False, soft_wrap=True)
    return 0


def prepare(
    *,
    out: Path,
    size: int,
    data: Data = None,
    dataset: DataSet = HAM10000_INFO.name,
    masks: bool = False,
    workers: Workers = None,
) -> int:
    """Decode and resize all images into a cache for training.

    Args:
        out: Folder of the cache.
        size: Width and height of the resized images in pixels.
        masks: Include the lesion masks.
    """
    info = find_dataset(dataset)
    done = prepare_cache(data_folder(data), out, size, masks=masks, workers=workers, info=info)
    what = "Prepared" if done.built else "Nothing to do:"
    shape = " x ".join(map(str, done.cache.images.shape))
    console().print(f"{what} {out}, {shape} uint8", markup=False)
    return 0


def augment_offline(
    *,
    split: Path,
    out: Path | None = None,
    data: Data = None,
    dataset: DataSet = HAM10000_INFO.name,
    size: int = 299,
    seed: Seed = 0,
    dry_run: bool = False,
    workers: Workers = None,
) -> int:
    """Write the authors' augmented training set, about 8,000 files per class.

    Args:
        split: Split file.
        out: Folder of the augmented set.
        size: Width and height of the images in pixels.
        dry_run: Only print the number of files.
    """
    root, info = data_folder(data), find_dataset(dataset)
    table = load_table(root, info)
    chosen = read_split(split, table)
    if dry_run:
        print_counts(offline_plan(chosen, info.classes), "Files to write")
        return 0
    if out is None:
        raise ArgumentError("augmenting offline: --out is missing. Pass a folder, or --dry-run.")
    folder = open_folder(root, info)
    plan = write_augmented(folder, chosen, out, size=size, seed=seed, workers=workers)
    print_counts(plan, f"Written to {out}")
    return 0
