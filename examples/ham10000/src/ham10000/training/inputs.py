"""The images of a run: its cache and its split, each made once and then found."""

from pathlib import Path

import pandas as pd

from ham10000.data import (
    CachedHAM10000,
    check_cache,
    check_split,
    data_folder,
    honest_split,
    kfold_split,
    open_cache,
    open_folder,
    paper_split,
    prepare,
    read_manifest,
    read_pairs,
    read_split,
    scan_pairs,
    write_split,
)
from ham10000.errors import CacheError, MissingDataError, SplitError
from ham10000.models import METADATA_COLUMNS
from ham10000.recipe import DataRecipe, Recipe
from ham10000.training.folder import RunFolder

__all__ = ["find_cache", "make_split", "open_split", "prepare_inputs", "splits_of"]


def prepare_inputs(run: RunFolder, recipe: Recipe) -> Path:
    """See that the run's cache and split are there; several processes may ask at once.

    Returns:
        The cache's folder.

    Raises:
        Ham10000Error: the data set can't be used, or not be split as asked.
    """
    cache = _prepare_cache(run, recipe.data)
    with run.lock():
        if not run.split.exists():
            data, table = recipe.data, open_cache(cache).table
            seed = recipe.seed if data.split_seed is None else data.split_seed
            write_split(_one_fold(make_split(data, seed, table), data.fold, table), run.split)
    return cache


def find_cache(run: RunFolder, data: DataRecipe) -> Path:
    """Return where the cache of a run is: where the recipe says, or beside the run.

    Runs beside each other share it.
    """
    if data.cache is not None:
        return data.cache
    return (
        run.path.absolute().parent / f"{data_folder(data.root).absolute().name}-cache-{data.size}"
    )


def open_split(
    cache: Path, run: RunFolder, split: str, *, metadata: bool, masks: bool = False
) -> CachedHAM10000:
    """Open the images of a split: train, val or test."""
    return CachedHAM10000(
        cache,
        split,
        split_file=run.split,
        metadata=METADATA_COLUMNS if metadata else (),
        masks=masks,
    )


def splits_of(run: RunFolder) -> list[str]:
    """Return which of train, val and test the run's split has, in this order."""
    present = set(pd.read_csv(run.split, dtype=str)["split"])
    return [split for split in ("train", "val", "test") if split in present]


def _prepare_cache(run: RunFolder, data: DataRecipe) -> Path:
    cache = find_cache(run, data)
    try:
        root = data_folder(data.root)
    except MissingDataError:
        # A cache of the right size is enough to train.
        manifest = read_manifest(cache)
        if manifest is None or manifest["size"] != data.size:
            raise
        if data.check_cache:
            check_cache(cache)
        return cache
    try:
        manifest = read_manifest(cache)
    except CacheError:
        manifest = None  # `prepare` rebuilds it
    # An existing cache with masks keeps them.
    masks = bool(manifest and manifest["masks"])
    prepare(root, cache, data.size, masks=masks, check=data.check_cache)
    return cache


def make_split(data: DataRecipe, seed: int, table: pd.DataFrame, folds: int = 5) -> pd.DataFrame:
    """Split as a recipe asks: as its file has it, or by its protocol.

    Args:
        data: the part of the recipe.
        seed: of the draw.
        table: the data set's.
        folds: how many, with kfold.

    Raises:
        Ham10000Error: there is no such split, or no such data set.
    """
    if data.split is not None:
        return read_split(data.split, table)
    if data.protocol == "paper":
        return paper_split(table, seed)
    root = data_folder(data.root)
    pairs = read_pairs(data.pairs) if data.pairs else scan_pairs(open_folder(root))
    if data.protocol == "honest":
        return honest_split(table, seed, pairs=pairs)
    return kfold_split(table, seed, folds, pairs=pairs)


def _one_fold(split: pd.DataFrame, fold: int | None, table: pd.DataFrame) -> pd.DataFrame:
    doing = "choosing the fold of a run"
    if "fold" not in split.columns:
        if fold is not None:
            raise SplitError(f"{doing}: data.fold is {fold}, and the split has no folds.")
        return split
    folds = sorted(int(number) for number in split["fold"].unique())
    if fold not in folds:
        raise SplitError(
            f"{doing}: the split has the folds {', '.join(map(str, folds))}, and data.fold is "
            f"{fold}. Say which one tests."
        )
    rows = split[split["fold"] == fold].drop(columns="fold").reset_index(drop=True)
    check_split(rows, table, doing)
    return rows
