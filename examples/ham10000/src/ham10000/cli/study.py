"""Commands that compare two recipes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ham10000.recipe import find_recipe, recipe_overrides
from ham10000.reporting import print_study, run_demo
from ham10000.study import run_study
from ham10000.utils import console


def study(
    recipes: Sequence[str],
    /,
    *,
    seeds: Sequence[int],
    out: Path,
    folds: int | None = None,
    primary: str = "balanced_accuracy",
    smallest_difference: float | None = None,
    looks: int = 1,
    extend: bool = False,
    parallel: int | None = None,
    processes: int = 1,
    **overrides: Any,
) -> int:
    """Train two recipes with several seeds, and compare the second with the first.

    The same command resumes an interrupted study. More seeds need --extend. Every field of the
    recipes can be overridden: section.field=value, or --section.field VALUE.

    Args:
        recipes: Names of two recipes, or YAML files.
        seeds: At least two seeds.
        out: Folder of the study.
        folds: Number of folds, each of which is the test set once. Defaults to one split.
        primary: Metric that decides the verdict.
        smallest_difference: Smallest difference of interest in this metric, such as 0.01 for one
            percentage point; smaller differences count as equivalent.
        looks: Number of planned looks at the result, which share the significance level.
        extend: Add seeds to a study, which is recorded in its plan.
        parallel: Number of runs at the same time. Defaults to one per GPU, or one per core.
        processes: Number of training processes of one run.
    """
    screen = console()
    result = run_study(
        [find_recipe(recipe) for recipe in recipes],
        seeds,
        out,
        folds=folds,
        primary=primary,
        smallest_difference=smallest_difference,
        looks=looks,
        extend=extend,
        parallel=parallel,
        processes=processes,
        overrides=recipe_overrides(overrides),
        log=lambda text: screen.print(text, markup=False),
    )
    print_study(result)
    screen.print(f"Written to {out}. Page: ham10000 report {out}", markup=False)
    return 0


def demo(*, out: Path = Path("demo"), data: Path | None = None) -> int:
    """Run all steps on a small scale: two recipes, two seeds, and a report.

    The training is too short for its scores to mean anything.

    Args:
        out: Folder of all outputs.
        data: Folder of a data set. Defaults to HAM10000_DIR or, without it, to synthetic images.
    """
    screen = console()
    page = run_demo(out, data, log=lambda text: screen.print(text, markup=False))
    screen.print(f"The report: {page}", markup=False, soft_wrap=True)
    return 0
