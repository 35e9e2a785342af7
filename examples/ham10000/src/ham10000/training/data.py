"""The images of a run: its cache, its split, its augmented set, and the steps of an epoch."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from filelock import FileLock

from ham10000.data import (
    HAM10000,
    HAM10000_INFO,
    CachedHAM10000,
    OfflineHAM10000,
    augment_offline,
    check_cache,
    check_split,
    data_folder,
    find_dataset,
    open_cache,
    open_folder,
    prepare,
    read_manifest,
    read_pairs,
    read_split,
    read_split_table,
    scan_pairs,
    split_by_protocol,
    write_split,
)
from ham10000.errors import ArgumentError, CacheError, MissingDataError, SplitError
from ham10000.models import METADATA_COLUMNS, FeatureMaps, extract_features, features_name
from ham10000.recipe import DataRecipe, Recipe, load_recipe
from ham10000.training.run_dir import (
    RunDir,
    clear_run,
    differing_fields,
    lock_run,
    with_absolute_paths,
)
from ham10000.utils import write_text

__all__ = [
    "EpochPlan",
    "claim_images",
    "find_cache",
    "find_features",
    "make_split",
    "open_split",
    "open_train",
    "prepare_data",
    "prepare_features",
    "prepare_split",
    "replace_run",
    "splits_of",
    "wants_validation",
]

_MIN_IMAGES = 2  # per rank and batch: batch norm has no variance of a single image


@dataclass(frozen=True)
class EpochPlan:
    """The steps of an epoch, counted over all ranks.

    A step is an update of the weights, from `accumulate` batches. The last batch can be short. It
    is left out if a rank would get fewer than two of its images; the next epoch has another order.

    Example:
        >>> from ham10000.training.data import EpochPlan
        >>> plan = EpochPlan(samples=100, batch_size=32, replicas=2)
        >>> plan.steps, [plan.images(step) for step in range(plan.steps)]
        (4, [32, 32, 32, 4])
        >>> EpochPlan(samples=97, batch_size=32, replicas=2).steps
        3

    Args:
        samples: Number of images that the sampler draws.
        batch_size: Number of images in a batch, over all ranks.
        replicas: Number of ranks.
        accumulate: Number of batches in a step.

    Raises:
        ArgumentError: The ranks cannot share a batch evenly, or there is not a single batch.
    """

    samples: int
    batch_size: int
    replicas: int = 1
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.replicas:
            raise ArgumentError(
                f"planning an epoch: training.batch_size {self.batch_size} is the number of images "
                f"over all processes, and is not divisible by {self.replicas} processes. "
                f"Use {self.batch_size // self.replicas * self.replicas or self.replicas}."
            )
        if not self.batches:
            raise ArgumentError(
                f"planning an epoch: {self.samples} images are too few for {self.replicas} "
                f"processes, each of which needs {_MIN_IMAGES} in a batch."
            )

    @property
    def batches(self) -> int:
        """Number of batches."""
        whole, rest = divmod(self.samples, self.batch_size)
        return whole + (rest >= _MIN_IMAGES * self.replicas)

    @property
    def steps(self) -> int:
        """Number of updates of the weights."""
        return -(-self.batches // self.accumulate)

    def batches_of(self, step: int) -> range:
        """Return the numbers of the batches of a step."""
        first = step * self.accumulate
        return range(first, min(first + self.accumulate, self.batches))

    def images_before(self, step: int) -> int:
        """Return the number of images before a step, which is where the sampler resumes."""
        return min(step * self.accumulate * self.batch_size, self.samples)

    def images(self, step: int) -> int:
        """Return the number of images of a step over all ranks; its loss is divided by it."""
        last = self.batches_of(step)[-1]
        end = min((last + 1) * self.batch_size, self.samples)
        return end - self.images_before(step)


def prepare_data(run: RunDir, recipe: Recipe) -> Path:
    """Create the cache, the split and the augmented set of a run where they do not exist.

    Several processes may call this at once.

    Returns:
        The folder of the cache.

    Raises:
        CacheError: The images are not those that the run was trained on.
        Ham10000Error: The data set is unusable, or cannot be split as the recipe says.
    """
    cache = _prepare_cache(run, recipe.data)
    opened = open_cache(cache)
    claim_images(run, opened.inputs)
    prepare_split(run, recipe, opened.table)
    if recipe.data.offline is not None:
        _prepare_offline(run, recipe.data, read_split(run.split, opened.table), opened.inputs)
    return cache


def claim_images(run: RunDir, inputs: str) -> None:
    """Record which images (`Cache.inputs`) a run is trained on, or check that they are the same.

    If nothing is trained yet, a split of other images is removed, so that it is made again.

    Raises:
        CacheError: The run was trained on other images.
    """
    with run.lock():
        changed = run.images.exists() and run.images.read_text().strip() != inputs
        if changed and run.begun:
            raise CacheError(
                f"opening the images of {run.path}: the table, the images or the classes of the "
                "data set have changed since the run was trained on them. Restore them, or train "
                "in another folder (ham10000 train --replace removes this run)."
            )
        if changed:
            run.split.unlink(missing_ok=True)
        if not run.begun:
            write_text(run.images, f"{inputs}\n")


def replace_run(out: Path, recipe: Recipe) -> bool:
    """Remove the run in a folder if it is of another recipe or of other images.

    Files that are not of a run are kept. The cache of the recipe is made first if it is missing.

    Returns:
        Whether there was such a run.

    Raises:
        LockedError: The run is active.
        Ham10000Error: The data set is unusable. Nothing is removed.
    """
    run, recipe = RunDir(out), with_absolute_paths(recipe)
    if not run.recipe.is_file():
        return False
    with lock_run(out):
        images = open_cache(_prepare_cache(run, recipe.data)).inputs
        same_images = run.images.is_file() and run.images.read_text().strip() == images
        if same_images and not differing_fields(load_recipe(run.recipe), recipe):
            return False
        clear_run(run)
    return True


def prepare_split(run: RunDir, recipe: Recipe, table: pd.DataFrame) -> None:
    """Create the split of a run where it does not exist; several processes may call this at once.

    Args:
        run: The folder of the run.
        recipe: Its recipe.
        table: The metadata table of the data set.

    Raises:
        Ham10000Error: The data set cannot be split as the recipe says.
    """
    with run.lock():
        if not run.split.exists():
            data = recipe.data
            seed = recipe.seed if data.split_seed is None else data.split_seed
            made = make_split(data, seed, table, validation=wants_validation(recipe))
            write_split(_one_fold(made, data.fold, table), run.split)


def find_cache(run: RunDir, data: DataRecipe) -> Path:
    """Return the folder of a run's cache: the recipe's, or one beside the run.

    Runs in the same parent folder share it.
    """
    if data.cache is not None:
        return data.cache
    # The data set may be gone: its cache is enough.
    return run.path.absolute().parent / f"{_data_name(data)}-cache-{data.size}"


def find_features(run: RunDir, recipe: Recipe) -> Path:
    """Return the folder of a run's features: the recipe's, or one beside the run."""
    return recipe.data.features or run.path.absolute().parent / features_name(recipe)


def prepare_features(run: RunDir, recipe: Recipe) -> FeatureMaps:
    """Compute the features of a run, and the cache that they are computed from, if missing.

    Several processes may call this at once.

    Raises:
        Ham10000Error: The data set is unusable, or the features cannot be computed; see
            `extract_features`.
    """
    cache = _prepare_cache(run, recipe.data)
    return extract_features(
        recipe, cache, find_features(run, recipe), check=recipe.data.check_cache
    )


def open_split(
    cache: Path, run: RunDir, split: str, *, metadata: bool, masks: bool = False
) -> CachedHAM10000:
    """Open the cached images of a split: train, val or test."""
    return CachedHAM10000(
        cache,
        split,
        split_file=run.split,
        metadata=METADATA_COLUMNS if metadata else (),
        masks=masks,
    )


def open_train(cache: Path, run: RunDir, data: DataRecipe) -> HAM10000:
    """Open the images that a run is trained on: the cached ones, or the augmented set.

    Raises:
        Ham10000Error: The augmented set is not of the run's training set; see `OfflineHAM10000`.
    """
    if data.offline is None:
        return open_split(cache, run, "train", metadata=data.metadata)
    opened = open_cache(cache)
    table = opened.table
    split = read_split(run.split, table)
    columns = METADATA_COLUMNS if data.metadata else ()
    folder = _find_offline(run, data, split, opened.inputs)
    info = find_dataset(data.set)
    return OfflineHAM10000(folder, split, table, size=data.size, metadata=columns, info=info)


def _find_offline(run: RunDir, data: DataRecipe, split: pd.DataFrame, inputs: str) -> Path:
    if isinstance(data.offline, Path):
        return data.offline
    # The name tells sets of other images apart, and those of the same images with other pixels.
    images = sorted(split["image_id"][split["split"] == "train"])
    digest = hashlib.sha256("\n".join([inputs, *images]).encode()).hexdigest()[:8]
    return run.path.absolute().parent / f"{_data_name(data)}-offline-{data.size}-{digest}"


def _data_name(data: DataRecipe) -> str:
    """Return a name for what is made from a data set: that of its folder, and of the data set."""
    folder = data_folder(data.root, exists=False).absolute().name
    info = find_dataset(data.set)
    return folder if info == HAM10000_INFO else f"{folder}-{info.name}"


def _prepare_offline(run: RunDir, data: DataRecipe, split: pd.DataFrame, inputs: str) -> None:
    # The seed does not depend on the run's, so that runs share one set, as the authors' do.
    out = _find_offline(run, data, split, inputs)
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(f".{out.name}.lock")):
        if not out.exists():
            folder = open_folder(data_folder(data.root), find_dataset(data.set))
            augment_offline(folder, split, out, size=data.size, seed=0)


def splits_of(run: RunDir) -> list[str]:
    """Return which of train, val and test the run's split has, in this order."""
    present = set(read_split_table(run.split)["split"])
    return [split for split in ("train", "val", "test") if split in present]


def _prepare_cache(run: RunDir, data: DataRecipe) -> Path:
    cache = find_cache(run, data)
    try:
        root = data_folder(data.root)
    except MissingDataError:
        # A cache of the right size is enough to train.
        manifest = read_manifest(cache)
        if manifest is None or manifest["size"] != data.size:
            raise
        found, info = open_cache(cache).info, find_dataset(data.set)
        if (found.name, found.classes) != (info.name, info.classes):
            raise CacheError(
                f"opening the cache {cache}: it is of {found.title}, and data.set is {data.set}. "
                "Set data.cache to the cache of this data set, or data.root to its folder."
            ) from None
        if data.check_cache:
            check_cache(cache)
        return cache
    info = find_dataset(data.set)
    prepare(root, cache, data.size, masks=None, check=data.check_cache, info=info)
    return cache


def wants_validation(recipe: Recipe) -> bool:
    """Return whether kfold has a validation fold in a run of this recipe."""
    if recipe.data.validation is not None:
        return recipe.data.validation
    training = recipe.training
    stops = training.patience is not None
    return training.monitor != "epoch" or stops or recipe.schedule.name == "plateau"


def make_split(
    data: DataRecipe,
    seed: int,
    table: pd.DataFrame,
    folds: int = 5,
    *,
    validation: bool = False,
) -> pd.DataFrame:
    """Return the split of a recipe: from its split file, or by its protocol.

    Args:
        data: The part `data` of the recipe.
        seed: Seed of the split.
        table: The metadata table of the data set.
        folds: Number of folds, with kfold.
        validation: Whether kfold has a validation fold.

    Raises:
        Ham10000Error: The split file or the data set is missing or invalid.
    """
    if data.split is not None:
        return read_split(data.split, table)
    pairs = None
    if data.protocol not in ("paper", "published"):
        folder = open_folder(data_folder(data.root), find_dataset(data.set))
        pairs = read_pairs(data.pairs) if data.pairs else scan_pairs(folder)
    return split_by_protocol(
        table,
        data.protocol,
        seed,
        pairs,
        folds=folds,
        validation=validation,
        test_share=data.test_share,
    )


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
            f"{fold}. Set data.fold to the fold to test on."
        )
    rows = split[split["fold"] == fold].drop(columns="fold").reset_index(drop=True)
    check_split(rows, table, doing)
    return rows
