"""A run's folder: what is where in it, and that one recipe alone trains there."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from ham10000.errors import ArgumentError, MissingDataError, RecipeError, cannot_write
from ham10000.recipe import Recipe, load_recipe, save_recipe
from ham10000.training.checkpoints import BEST, steps_in
from ham10000.training.consistency import differing_fields

__all__ = ["RunFolder", "claim", "find_run"]


@dataclass(frozen=True)
class RunFolder:
    """Where the files of a run are."""

    path: Path

    @property
    def recipe(self) -> Path:
        """Every field of the recipe."""
        return self.path / "recipe.yaml"

    @property
    def split(self) -> Path:
        """Which image trains, validates and tests."""
        return self.path / "split.csv"

    @property
    def checkpoints(self) -> Path:
        """The folder of the last checkpoints and the best weights."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The weights of the best epoch."""
        return self.checkpoints / BEST

    @property
    def metrics(self) -> Path:
        """A line for each epoch and split."""
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """What was said meanwhile."""
        return self.path / "log.txt"

    def predictions(self, split: str = "test") -> Path:
        """Where the predictions of a split go; those of the test set have the plain name."""
        return self.path / ("predictions.csv" if split == "test" else f"predictions-{split}.csv")

    def lock(self) -> FileLock:
        """Return what the processes that set a run up wait for each other with."""
        return FileLock(self.path / ".lock")

    @property
    def done(self) -> bool:
        """Whether training has come to its end."""
        return self.predictions().exists()


def find_run(path: Path) -> RunFolder:
    """Return the folder of a run that there is.

    Raises:
        MissingDataError: there is none.
    """
    run = RunFolder(path)
    if not run.recipe.is_file():
        raise MissingDataError(
            f"opening the run {path}: there is no {run.recipe.name} in it. "
            f"Train one with: ham10000 train RECIPE --out {path}"
        )
    return run


def claim(out: Path, recipe: Recipe) -> tuple[RunFolder, Recipe]:
    """Make a run's folder, or find that it is this recipe's; several processes may ask at once.

    Returns:
        The folder, and the recipe with its paths spelled out.

    Raises:
        ArgumentError: there is something else.
        RecipeError: another recipe trains there; the message names what differs.
        WriteError: the system refuses.
    """
    run = RunFolder(out)
    recipe = _resolve(recipe, out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    with run.lock():
        if run.recipe.exists():
            _refuse_another(run, recipe)
        else:
            others = sorted(path.name for path in out.iterdir() if not path.name.endswith(".lock"))
            if others:
                raise ArgumentError(
                    f"training into {out}: it holds {others[0]!r} and is no run. "
                    "Choose another folder."
                )
        if not run.recipe.exists() or load_recipe(run.recipe) != recipe:
            save_recipe(recipe, run.recipe)
    return run, recipe


def _resolve(recipe: Recipe, out: Path) -> Recipe:
    data = recipe.data
    paths: dict[str, Any] = {
        name: value.absolute()
        for name in ("root", "cache", "split", "pairs")
        if (value := getattr(data, name)) is not None
    }
    return replace(recipe, data=replace(data, **paths))


def _refuse_another(run: RunFolder, recipe: Recipe) -> None:
    differing = differing_fields(load_recipe(run.recipe), recipe)
    if not differing:
        return
    if not steps_in(run.checkpoints):  # nothing was trained, so nothing is lost
        run.split.unlink(missing_ok=True)
        return
    (name, (before, now)), *others = differing.items()
    more = f", and {len(others)} more" if others else ""
    raise RecipeError(
        f"training into {run.path}: a run of another recipe is there, with {name} "
        f"{before!r} instead of {now!r}{more}. Choose another folder."
    )
