"""Plan of a study: a control and its arms, their seeds and folds, and the rule of the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ham10000.errors import ArgumentError, closest
from ham10000.evaluation import EQUAL_METRICS, METRICS
from ham10000.recipe import Recipe
from ham10000.statistics import seeds_needed

__all__ = ["PRIMARY", "RULE", "PlannedRun", "StudyPlan", "make_plan"]

PRIMARY = "auc_macro"
"""Default of the metric that decides the verdict: one-vs-rest AUC, averaged over classes."""

SECONDARIES = (
    "precision_weighted",
    "balanced_accuracy",
    "sensitivity_at_95_specificity/mel",
    "brier",
)
"""Secondary metrics in order of interest. The paper reports weighted precision."""

RULE = (
    "Each arm is compared with the control, paired by fold, seed and test lesion. The verdict "
    "follows from the confidence interval of the difference in the primary metric, which is "
    "computed in each fold and averaged over folds and seeds. With fewer than five degrees of "
    "freedom, folds x (seeds - 1), there are too few runs for a verdict. An arm is equivalent to "
    "the control if the interval lies within plus or minus the smallest difference of interest; "
    "it is better or worse if the interval excludes 0 and the p-value, adjusted for the number of "
    "arms (Holm), is below the significance level; otherwise the result is undecided. A metric "
    "that varies neither between seeds nor between lesions decides only if the predictions of arm "
    "and control are identical, which are then equivalent. The same "
    "rule applies to the secondary metrics, with p-values adjusted for the number of arms and "
    "metrics. All other metrics are exploratory. The planned looks at the result share a "
    "significance level of 0.05; later looks are exploratory."
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

    control: str
    """Name of the recipe with which the others are compared."""
    arms: tuple[str, ...]
    """Names of the other recipes."""
    seeds: tuple[int, ...]
    folds: int | None
    primary: str
    """Name of the metric that decides the verdict."""
    secondaries: tuple[str, ...]
    """Names of the other metrics that have an outcome."""
    margins: Mapping[str, float]
    """Smallest difference of interest by metric, primary and secondary; the equivalence margin."""
    looks: int = 1
    """Number of planned looks at the result, which share the significance level."""

    @property
    def recipes(self) -> tuple[str, ...]:
        """Names of the control and the arms."""
        return (self.control, *self.arms)

    @property
    def enough_runs(self) -> bool:
        """Whether there are enough degrees of freedom for a verdict."""
        return len(self.seeds) >= seeds_needed(self.folds or 1)

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

    def terms(self) -> dict[str, object]:
        """Return what cannot change when seeds are added, as a JSON object."""
        return {
            "control": self.control,
            "arms": list(self.arms),
            "folds": self.folds,
            "primary": self.primary,
            "secondaries": list(self.secondaries),
            "margins": dict(self.margins),
            "looks": self.looks,
            "rule": RULE,
        }

    def as_dict(self) -> dict[str, object]:
        """Return the plan as a JSON object."""
        runs = [run.as_dict() for run in self.runs]
        return {
            **self.terms(),
            "recipes": list(self.recipes),
            "seeds": list(self.seeds),
            "runs": runs,
        }


def make_plan(
    recipes: Sequence[Recipe],
    seeds: Sequence[int],
    folds: int | None,
    primary: str = PRIMARY,
    *,
    control: str | None = None,
    smallest_difference: float | None = None,
    looks: int = 1,
) -> StudyPlan:
    """Check the arguments of a study and return its plan.

    Example:
        >>> from ham10000.recipe import Recipe
        >>> from ham10000.study import make_plan
        >>> plan = make_plan([Recipe("bare"), Recipe("se"), Recipe("sa")], [0, 1], folds=5)
        >>> plan.control, plan.arms, plan.primary, plan.margins["auc_macro"]
        ('bare', ('se', 'sa'), 'auc_macro', 0.005)
        >>> plan.runs[0].folder, len(plan.runs)
        ('runs/bare-seed0-fold0', 30)

    Args:
        recipes: Two or more recipes.
        seeds: At least two different seeds.
        folds: Number of folds; `None` for one split.
        primary: Name of the metric that decides the verdict.
        control: Name of the recipe with which the others are compared. Defaults to the first.
        smallest_difference: Smallest difference of interest in the primary metric, in units of
            the metric. Defaults to 0.005 for areas under the ROC curve and 0.01 otherwise.
        looks: Number of planned looks at the result. Each uses an equal share of the significance
            level.

    Raises:
        ArgumentError: An argument is invalid, or the recipes cannot be compared.
    """
    doing = "planning a study"
    names = [recipe.name for recipe in recipes]
    _check_names(names, control, doing)
    _check_same_images(recipes, doing)
    _check_counts(seeds, folds, looks, doing)
    known = [name for name in METRICS if "/" not in name]
    if primary not in known:
        raise ArgumentError(
            f"{doing}: unknown primary metric {primary!r}. {closest(primary, known)}"
        )
    same = EQUAL_METRICS.get(primary, primary)
    secondaries = tuple(name for name in (PRIMARY, *SECONDARIES) if name != same)
    margins = {
        name: SMALLEST_DIFFERENCES.get(name, SMALLEST_DIFFERENCE)
        for name in (primary, *secondaries)
    }
    if smallest_difference is not None:
        margins[primary] = smallest_difference
    if not 0 < margins[primary] < 1:
        raise ArgumentError(
            f"{doing}: expected a smallest difference above 0 and below 1, in units of {primary}, "
            f"found {margins[primary]}."
        )
    first = names[0] if control is None else control
    arms = tuple(name for name in names if name != first)
    return StudyPlan(first, arms, tuple(seeds), folds, primary, secondaries, margins, looks)


def _check_names(names: Sequence[str], control: str | None, doing: str) -> None:
    if len(names) < 2:
        raise ArgumentError(
            f"{doing}: expected a control and at least one other recipe, found {len(names)}."
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ArgumentError(
            f"{doing}: several recipes are named {repeated[0]!r}. Give each its own name."
        )
    if control is not None and control not in names:
        raise ArgumentError(f"{doing}: unknown control {control!r}. {closest(control, names)}")


def _check_counts(seeds: Sequence[int], folds: int | None, looks: int, doing: str) -> None:
    if len(set(seeds)) != len(seeds) or len(seeds) < 2:
        raise ArgumentError(
            f"{doing}: expected at least two different seeds, found {list(seeds)}. The variance "
            "over seeds cannot be estimated from fewer."
        )
    if folds is not None and folds < 2:
        raise ArgumentError(
            f"{doing}: expected at least 2 folds, found {folds}: one for testing, the others for "
            "training."
        )
    if looks < 1:
        raise ArgumentError(f"{doing}: expected at least one look at the result, found {looks}.")


def _check_same_images(recipes: Sequence[Recipe], doing: str) -> None:
    protocol = ("protocol", "test_share", "validation", "pairs")
    for field in ("root", *protocol, "split", "split_seed", "fold"):
        first = getattr(recipes[0].data, field)
        for recipe in recipes[1:]:
            second = getattr(recipe.data, field)
            if first != second:
                raise ArgumentError(
                    f"{doing}: data.{field} is {first} in {recipes[0].name} and {second} in "
                    f"{recipe.name}. Models are compared on the same images, so all recipes need "
                    "the same value."
                )
