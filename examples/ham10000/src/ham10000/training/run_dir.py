"""The folder of a run: where its files are, and which recipe and split it belongs to."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from ham10000.data import DATASETS, DatasetInfo, dataset_of_classes, find_dataset
from ham10000.errors import (
    ArgumentError,
    CheckpointError,
    MissingDataError,
    RecipeError,
    cannot_write,
)
from ham10000.models import PACKAGED
from ham10000.recipe import Recipe, field_values, load_recipe, make_recipe, save_recipe
from ham10000.utils import PARTIAL, lock_folder

__all__ = [
    "LAUNCHER_LOCK",
    "TRAINER_LOCK",
    "RunDir",
    "check_same_classes",
    "check_same_recipe",
    "claim_run",
    "clear_run",
    "dataset_of",
    "differing_fields",
    "find_run",
    "lock_run",
    "with_absolute_paths",
]

LAUNCHER_LOCK = ".launcher.lock"
TRAINER_LOCK = ".trainer.lock"
"""Locks of a run. There are two, because a launcher and rank 0 are two processes and either can
outlive the other. Without our launcher, rank 0 holds both."""

PREDICTION_FIELDS = ("training.tta", "training.crops", "training.crop_scale")
"""Fields that affect the predictions of a finished run, but not its weights."""

FREE_FIELDS = (
    "data.root",
    "data.cache",
    "data.check_cache",
    "data.features",
    "data.workers",
    "training.keep",
    "training.checkpoint_steps",
    "training.checkpoint_minutes",
    "training.max_minutes",
    *PREDICTION_FIELDS,
    "logging.",
)
"""Prefixes of the fields that do not affect the weights and may change when a run is resumed."""

_STEP = re.compile(r"step-(\d{8,})\.pt")
_RESULTS = (
    "split.csv",
    "images.sha256",
    "environment.json",
    "metrics.jsonl",
    "log.txt",
    "predictions*.csv",
    "checkpoints",
    "tensorboard",
    "wandb",
    "profile",
    "evaluation",
)
"""Patterns of the files that commands write into a run, besides recipe.yaml and locks."""


@dataclass(frozen=True)
class RunDir:
    """Paths of the files of a run.

    Example:
        >>> from pathlib import Path
        >>> from ham10000.training import RunDir
        >>> RunDir(Path("runs/first")).predictions("val").as_posix()
        'runs/first/predictions-val.csv'
    """

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe, with every field."""
        return self.path / "recipe.yaml"

    @property
    def split(self) -> Path:
        """The split: train, val or test for each image."""
        return self.path / "split.csv"

    @property
    def images(self) -> Path:
        """The hash of the images that the run is trained on, `Cache.inputs`."""
        return self.path / "images.sha256"

    @property
    def environment(self) -> Path:
        """Versions, machine and settings of the training, JSON."""
        return self.path / "environment.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of the latest checkpoints and the best weights."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The weights of the best epoch."""
        return self.checkpoints / "best.pt"

    @property
    def metrics(self) -> Path:
        """Metrics as JSON lines, one for each epoch and split."""
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """The text log."""
        return self.path / "log.txt"

    def predictions(self, split: str = "test") -> Path:
        """Return the path of the predictions of a split; those of the test set have no suffix."""
        return self.path / ("predictions.csv" if split == "test" else f"predictions-{split}.csv")

    def step_checkpoint(self, step: int) -> Path:
        """Return the path of the checkpoint of a step."""
        return self.checkpoints / f"step-{step:08d}.pt"

    def step_checkpoints(self) -> list[Path]:
        """Return the existing checkpoints of steps, the newest first."""
        if not self.checkpoints.is_dir():
            return []
        found = [
            (int(match[1]), path)
            for path in self.checkpoints.iterdir()
            if (match := _STEP.fullmatch(path.name))
        ]
        return [path for _, path in sorted(found, reverse=True)]

    def lock(self) -> FileLock:
        """Return the lock under which the processes of a run create its files."""
        return FileLock(self.path / ".lock")

    @property
    def begun(self) -> bool:
        """Whether there are weights or predictions, which belong to one recipe and its images."""
        return bool(self.step_checkpoints()) or self.best.exists() or self.done

    @property
    def done(self) -> bool:
        """Whether training has ended: the predictions of the test set are written last."""
        return self.predictions().exists()


def find_run(path: Path) -> RunDir:
    """Return the folder of an existing run.

    Raises:
        MissingDataError: There is no run in the folder.
    """
    run = RunDir(path)
    if not run.recipe.is_file():
        raise MissingDataError(
            f"opening the run {path}: there is no {run.recipe.name} in it. "
            f"Train one with: ham10000 train RECIPE --out {path}"
        )
    return run


def dataset_of(source: Path, classes: Sequence[str] = ()) -> DatasetInfo:
    """Return the data set of a run or, for a file of predictions, the known one with its classes.

    Args:
        source: The folder of a run, or a file.
        classes: Classes of the predictions in the file.

    Raises:
        ArgumentError: There is no run, and no known data set has these classes.
    """
    recipe = RunDir(source).recipe
    if recipe.is_file():
        return find_dataset(load_recipe(recipe).data.set)
    info = dataset_of_classes(classes)
    if info is None:
        raise ArgumentError(
            f"opening the data set of {source}: no known data set has the classes "
            f"{', '.join(classes)}. Pass the folder of a run, whose recipe names its data set."
        )
    return info


@contextmanager
def lock_run(folder: Path, *names: str) -> Iterator[None]:
    """Hold locks of the folder of a run, so that one set of processes trains in it at a time.

    Args:
        folder: The folder of the run, which is created if it does not exist.
        names: Names of the locks; both by default.

    Raises:
        LockedError: Another process holds one of them.
        WriteError: The folder cannot be locked; see `lock_folder`.
    """
    with ExitStack() as held:
        for name in names or (LAUNCHER_LOCK, TRAINER_LOCK):
            held.enter_context(
                lock_folder(
                    folder,
                    name,
                    doing=f"training into {folder}",
                    advice="Wait until it has ended, stop it (SIGTERM saves a checkpoint), or "
                    "choose another folder.",
                )
            )
        yield


def claim_run(out: Path, recipe: Recipe) -> tuple[RunDir, Recipe]:
    """Create the folder of a run, or check that it belongs to the recipe.

    Several processes may call this at once. If one of `PREDICTION_FIELDS` has changed, the
    predictions of a finished run are removed, and training makes them again from the best weights.

    Returns:
        The folder, and the recipe with absolute paths.

    Raises:
        ArgumentError: The folder holds other files.
        RecipeError: It belongs to another recipe; the message names the first difference.
        WriteError: The folder or a file cannot be written.
    """
    run = RunDir(out)
    recipe = with_absolute_paths(recipe)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    with run.lock():
        if run.recipe.exists():
            _check_claimed(run, recipe)
        else:
            for path in out.glob(f"{PARTIAL}*"):  # of a process that was killed while claiming
                path.unlink()
            others = sorted(path.name for path in out.iterdir() if not path.name.endswith(".lock"))
            if others:
                raise ArgumentError(
                    f"training into {out}: the folder holds {others[0]!r} and is not a run. "
                    "Choose another folder."
                )
        if not run.recipe.exists() or load_recipe(run.recipe) != recipe:
            save_recipe(recipe, run.recipe)
    return run, recipe


def clear_run(run: RunDir) -> None:
    """Remove what training and evaluation have written into the folder of a run, and nothing else.

    recipe.yaml is kept, so that the folder can be claimed for another recipe.

    Raises:
        WriteError: A file cannot be removed.
    """
    for pattern in _RESULTS:
        for path in run.path.glob(pattern):
            try:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            except OSError as error:
                raise cannot_write(path, error) from error


def differing_fields(before: Recipe, now: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the fields that affect the weights and differ, with both values.

    Example:
        >>> from ham10000.recipe import Recipe
        >>> from ham10000.training.run_dir import differing_fields
        >>> differing_fields(Recipe("mine", seed=1), Recipe("mine", seed=2))
        {'seed': (1, 2)}
    """
    first, second = _flat(before), _flat(now)
    return {
        name: (first[name], second[name])
        for name in second
        if first[name] != second[name] and not name.startswith(FREE_FIELDS)
    }


def check_same_recipe(trained: str, now: Recipe, doing: str) -> None:
    """Check that a recipe is the one that weights were trained with.

    Args:
        trained: The recipe in the checkpoint, as YAML.
        now: The recipe of the run.
        doing: The operation, as the start of the error message.

    Raises:
        RecipeError: A field that affects the weights differs; the message names it.
    """
    recipe = make_recipe(yaml.safe_load(trained), f"{doing}: reading the recipe in the checkpoint")
    differing = differing_fields(recipe, now)
    if not differing:
        return
    (name, (before, after)), *others = differing.items()
    more = f" and {len(others)} more field{'s' * (len(others) > 1)}" if others else ""
    raise RecipeError(
        f"{doing}: the recipe was changed after training began: {name} was {before!r} and is now "
        f"{after!r}{more}. Change it back in recipe.yaml, or train in another folder."
    )


def check_same_classes(content: Mapping[str, Any], info: DatasetInfo, doing: str) -> None:
    """Check that a data set still has the classes that weights were trained on, in their order.

    Raises:
        RecipeError: It has others.
    """
    trained = tuple(content.get("classes") or info.classes)  # files of older versions lack them
    if trained != info.classes:
        raise RecipeError(
            f"{doing}: it was trained on the classes {', '.join(trained)}, and data.set now has "
            f"{', '.join(info.classes)}. Restore the description of the data set."
        )


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Return a recipe whose paths do not depend on the working directory."""
    data, model = recipe.data, recipe.model
    paths: dict[str, Any] = {
        name: value.absolute()
        for name in ("root", "cache", "features", "split", "pairs", "offline")
        if isinstance(value := getattr(data, name), Path)
    }
    if data.set not in DATASETS:
        paths["set"] = str(Path(data.set).absolute())
    if model.weights is not None and model.weights not in PACKAGED:
        model = replace(model, weights=str(Path(model.weights).absolute()))
    return replace(recipe, data=replace(data, **paths), model=model)


def _check_claimed(run: RunDir, recipe: Recipe) -> None:
    before = load_recipe(run.recipe)
    differing = differing_fields(before, recipe)
    if not differing:
        _remove_predictions(run, field_values(before), field_values(recipe))
        return
    if not run.begun:  # nothing is lost
        run.split.unlink(missing_ok=True)
        run.images.unlink(missing_ok=True)
        return
    (name, (old, new)), *others = differing.items()
    more = f", and {len(others)} more" if others else ""
    raise RecipeError(
        f"training into {run.path}: the folder holds a run of another recipe, with {name} "
        f"{old!r} instead of {new!r}{more}. Choose another folder."
    )


def _remove_predictions(run: RunDir, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Remove predictions that are made in another way than the recipe now says."""
    differing = [name for name in PREDICTION_FIELDS if before[name] != now[name]]
    if differing and run.done and not run.best.exists():
        name = differing[0]
        raise CheckpointError(
            f"training into {run.path}: its predictions were made with {name} {before[name]!r}, "
            f"and {run.best}, to predict again with {now[name]!r}, is gone. Leave {name} as it "
            "was, or choose another folder."
        )
    if differing:
        for path in run.path.glob("predictions*.csv"):
            path.unlink()


def _flat(recipe: Recipe) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in field_values(recipe).items()
    }
