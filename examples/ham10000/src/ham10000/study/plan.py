"""What a study trains: two recipes, each with several seeds, and in folds if asked."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ham10000.data.files import write_text
from ham10000.errors import ArgumentError, closest
from ham10000.evaluation.metrics import summarize
from ham10000.recipe import Recipe

__all__ = ["RULE", "PlannedRun", "StudyPlan", "make_plan"]

RULE = (
    "The second recipe is better or worse than the first if the 95 % interval of the difference "
    "of the primary metric, over seeds and test lesions, leaves 0 out; otherwise there is no "
    "evidence of a difference. The other metrics are reported beside it, their p-values corrected "
    "for their number (Holm)."
)
"""Written to the study's folder before anything is trained."""


@dataclass(frozen=True)
class PlannedRun:
    """One training."""

    recipe: str
    seed: int
    fold: int | None = None

    @property
    def folder(self) -> str:
        """Where it goes in the study's folder."""
        part = "" if self.fold is None else f"-fold{self.fold}"
        return f"runs/{self.recipe}-seed{self.seed}{part}"

    def as_dict(self) -> dict[str, object]:
        """Return what JSON can hold."""
        return {**vars(self), "folder": self.folder}


@dataclass(frozen=True)
class StudyPlan:
    """What is asked, before it is answered."""

    recipes: tuple[str, str]
    """Their names; the second is compared with the first."""
    seeds: tuple[int, ...]
    folds: int | None
    primary: str
    """The metric that the verdict is about."""

    @property
    def runs(self) -> list[PlannedRun]:
        """All of them, seed by seed, so that a study cut short has whole seeds."""
        folds: Sequence[int | None] = [None] if self.folds is None else range(self.folds)
        return [
            PlannedRun(recipe, seed, fold)
            for seed in self.seeds
            for fold in folds
            for recipe in self.recipes
        ]

    def runs_of(self, recipe: str, seed: int) -> list[PlannedRun]:
        """Return those of a recipe and a seed: one, or one for each fold."""
        return [run for run in self.runs if (run.recipe, run.seed) == (recipe, seed)]

    def as_dict(self) -> dict[str, object]:
        """Return what JSON can hold."""
        return {
            "recipes": list(self.recipes),
            "seeds": list(self.seeds),
            "folds": self.folds,
            "primary": self.primary,
            "rule": RULE,
            "runs": [run.as_dict() for run in self.runs],
        }

    def write(self, folder: Path) -> None:
        """Write the plan, before the first training."""
        write_text(folder / "plan.json", json.dumps(self.as_dict(), indent=2) + "\n")


def make_plan(
    recipes: Sequence[Recipe], seeds: Sequence[int], folds: int | None, primary: str
) -> StudyPlan:
    """Make a plan out of what was asked for.

    Raises:
        ArgumentError: it can't be answered; the message says why.
    """
    doing = "planning a study"
    names = [recipe.name for recipe in recipes]
    if len(names) != 2:
        raise ArgumentError(
            f"{doing}: expected two recipes to compare, found {len(names)}. Compare several with "
            "one another in studies of two each."
        )
    if names[0] == names[1]:
        raise ArgumentError(
            f"{doing}: both recipes are named {names[0]!r}. Give each a name of its own."
        )
    if len(set(seeds)) != len(seeds) or len(seeds) < 2:
        raise ArgumentError(
            f"{doing}: expected two or more different seeds, found {list(seeds)}. What a seed "
            "changes shows between runs of different ones only."
        )
    if folds is not None and folds < 3:
        raise ArgumentError(
            f"{doing}: expected 3 folds or more, found {folds}. One tests, one validates, and the "
            "others train."
        )
    known = [name for name in summarize([0], [[1.0] + [0.0] * 6]) if "/" not in name]
    if primary not in known:
        raise ArgumentError(
            f"{doing}: there is no metric {primary!r} for the verdict. {closest(primary, known)}"
        )
    _same_images(recipes, doing)
    return StudyPlan((names[0], names[1]), tuple(seeds), folds, primary)


def _same_images(recipes: Sequence[Recipe], doing: str) -> None:
    for field in ("root", "protocol", "split", "split_seed", "fold", "pairs"):
        first, second = (getattr(recipe.data, field) for recipe in recipes)
        if first != second:
            raise ArgumentError(
                f"{doing}: data.{field} of {recipes[0].name} is {first}, and of {recipes[1].name} "
                f"{second}. A comparison is of models on the same images: make them equal."
            )
