"""Plan of a study: two recipes, their seeds and folds, and the rule of the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

from ham10000.errors import ArgumentError, closest
from ham10000.evaluation import summarize
from ham10000.recipe import Recipe

__all__ = ["RULE", "PlannedRun", "StudyPlan", "make_plan"]

RULE = (
    "The verdict follows from the confidence interval of the difference in the primary metric, "
    "over seeds and test lesions. The recipes are equivalent if it lies within plus or minus the "
    "smallest difference of interest; otherwise the second recipe is better or worse than the "
    "first if it excludes 0; otherwise the result is undecided. The planned looks at the result "
    "share a significance level of 0.05; later looks are exploratory. p-values of the other "
    "metrics are corrected for the number of metrics (Holm)."
)
"""Rule of the verdict, recorded in the study's folder before the first training."""

SMALLEST_DIFFERENCES = {"auc_macro": 0.005, "auc_weighted": 0.005}
"""Smallest differences of interest by metric, where it is not `SMALLEST_DIFFERENCE`."""

SMALLEST_DIFFERENCE = 0.01


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
    smallest_difference: float = SMALLEST_DIFFERENCE
    """Smallest difference of interest in the primary metric; the margin of equivalence."""
    looks: int = 1
    """Number of planned looks at the result, which share the significance level."""

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

    def terms(self) -> dict[str, object]:
        """Return what cannot change when seeds are added, as a JSON object."""
        return {
            "recipes": list(self.recipes),
            "folds": self.folds,
            "primary": self.primary,
            "smallest_difference": self.smallest_difference,
            "looks": self.looks,
            "rule": RULE,
        }

    def as_dict(self) -> dict[str, object]:
        """Return the plan as a JSON object."""
        runs = [run.as_dict() for run in self.runs]
        return {**self.terms(), "seeds": list(self.seeds), "runs": runs}


def make_plan(
    recipes: Sequence[Recipe],
    seeds: Sequence[int],
    folds: int | None,
    primary: str,
    *,
    smallest_difference: float | None = None,
    looks: int = 1,
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
        smallest_difference: Smallest difference of interest in the primary metric, in units of
            the metric. Defaults to 0.005 for areas under the ROC curve and 0.01 otherwise.
        looks: Number of planned looks at the result. Each uses an equal share of the significance
            level.

    Raises:
        ArgumentError: An argument is invalid, or the recipes cannot be compared.
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
    if smallest_difference is None:
        smallest_difference = SMALLEST_DIFFERENCES.get(primary, SMALLEST_DIFFERENCE)
    if not 0 <= smallest_difference < 1:
        raise ArgumentError(
            f"{doing}: expected a smallest difference of at least 0 and below 1, in units of "
            f"{primary}, found {smallest_difference}."
        )
    if looks < 1:
        raise ArgumentError(f"{doing}: expected at least one look at the result, found {looks}.")
    return StudyPlan((names[0], names[1]), tuple(seeds), folds, primary, smallest_difference, looks)


def _check_same_images(recipes: Sequence[Recipe], doing: str) -> None:
    for field in ("root", "protocol", "split", "split_seed", "fold", "pairs"):
        first, second = (getattr(recipe.data, field) for recipe in recipes)
        if first != second:
            raise ArgumentError(
                f"{doing}: data.{field} is {first} in {recipes[0].name} and {second} in "
                f"{recipes[1].name}. Models are compared on the same images, so both recipes need "
                "the same value."
            )
