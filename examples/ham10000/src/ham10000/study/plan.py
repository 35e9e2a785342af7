"""Plan of a study: two recipes, their seeds and folds, and the rule of the verdict."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ham10000.errors import ArgumentError, closest
from ham10000.evaluation import summarize
from ham10000.recipe import Recipe
from ham10000.utils import write_text

__all__ = ["RULE", "PlannedRun", "StudyPlan", "make_plan"]

RULE = (
    "The second recipe is better or worse than the first if the 95 % confidence interval of the "
    "difference in the primary metric, over seeds and test lesions, excludes 0. Otherwise there "
    "is no evidence of a difference. p-values of the other metrics are corrected for the number "
    "of metrics (Holm)."
)
"""Rule of the verdict, written to the study's folder before the first training."""


@dataclass(frozen=True)
class PlannedRun:
    """One training run of a study."""

    recipe: str
    seed: int
    fold: int | None = None

    @property
    def folder(self) -> str:
        """Folder of the run, relative to the study's."""
        part = "" if self.fold is None else f"-fold{self.fold}"
        return f"runs/{self.recipe}-seed{self.seed}{part}"

    def as_dict(self) -> dict[str, object]:
        """Return the run as a JSON object."""
        return {**vars(self), "folder": self.folder}


@dataclass(frozen=True)
class StudyPlan:
    """Plan of a study, fixed before the first training."""

    recipes: tuple[str, str]
    """Names of the two recipes; the second is compared with the first."""
    seeds: tuple[int, ...]
    folds: int | None
    primary: str
    """Name of the metric that decides the verdict."""

    @property
    def runs(self) -> list[PlannedRun]:
        """All runs, seed by seed, so that an interrupted study has complete seeds."""
        folds: Sequence[int | None] = [None] if self.folds is None else range(self.folds)
        return [
            PlannedRun(recipe, seed, fold)
            for seed in self.seeds
            for fold in folds
            for recipe in self.recipes
        ]

    def runs_of(self, recipe: str, seed: int) -> list[PlannedRun]:
        """Return the runs of a recipe and a seed: one, or one per fold."""
        return [run for run in self.runs if (run.recipe, run.seed) == (recipe, seed)]

    def as_dict(self) -> dict[str, object]:
        """Return the plan as a JSON object."""
        return {
            "recipes": list(self.recipes),
            "seeds": list(self.seeds),
            "folds": self.folds,
            "primary": self.primary,
            "rule": RULE,
            "runs": [run.as_dict() for run in self.runs],
        }

    def write(self, folder: Path) -> None:
        """Write the plan to plan.json in the study's folder."""
        write_text(folder / "plan.json", json.dumps(self.as_dict(), indent=2) + "\n")


def make_plan(
    recipes: Sequence[Recipe], seeds: Sequence[int], folds: int | None, primary: str
) -> StudyPlan:
    """Check the arguments of a study and return its plan.

    Example:
        >>> from ham10000.recipe import Recipe
        >>> from ham10000.study import make_plan
        >>> plan = make_plan([Recipe("bare"), Recipe("attended")], [0, 1], None, "accuracy")
        >>> plan.runs[0].folder, len(plan.runs)
        ('runs/bare-seed0', 4)

    Args:
        recipes: Two recipes; the second is compared with the first.
        seeds: At least two different seeds.
        folds: Number of folds; `None` for one split.
        primary: Name of the metric that decides the verdict.

    Raises:
        ArgumentError: The study cannot be run as asked.
    """
    doing = "planning a study"
    names = [recipe.name for recipe in recipes]
    if len(names) != 2:
        raise ArgumentError(
            f"{doing}: expected two recipes to compare, found {len(names)}. To compare more, "
            "run one study for each pair."
        )
    if names[0] == names[1]:
        raise ArgumentError(f"{doing}: both recipes are named {names[0]!r}. Rename one of them.")
    if len(set(seeds)) != len(seeds) or len(seeds) < 2:
        raise ArgumentError(
            f"{doing}: expected at least two different seeds, found {list(seeds)}. The variance "
            "over seeds cannot be estimated from fewer."
        )
    if folds is not None and folds < 3:
        raise ArgumentError(
            f"{doing}: expected at least 3 folds, found {folds}: one for testing, one for "
            "validation, the others for training."
        )
    known = [name for name in summarize([0], [[1.0] + [0.0] * 6]) if "/" not in name]
    if primary not in known:
        raise ArgumentError(
            f"{doing}: unknown primary metric {primary!r}. {closest(primary, known)}"
        )
    _check_same_images(recipes, doing)
    return StudyPlan((names[0], names[1]), tuple(seeds), folds, primary)


def _check_same_images(recipes: Sequence[Recipe], doing: str) -> None:
    for field in ("root", "protocol", "split", "split_seed", "fold", "pairs"):
        first, second = (getattr(recipe.data, field) for recipe in recipes)
        if first != second:
            raise ArgumentError(
                f"{doing}: data.{field} is {first} in {recipes[0].name} and {second} in "
                f"{recipes[1].name}. Models are compared on the same images, so both recipes need "
                "the same value."
            )
