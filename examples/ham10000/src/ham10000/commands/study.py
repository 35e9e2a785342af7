"""The commands that compare two recipes: a study, and a small one to look at.

The arguments of each function are its command's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from ham10000.recipe import add_recipe_fields, recipe_overrides
from ham10000.utils import console

__all__ = ["ARGUMENTS", "COMMANDS"]


def study(
    recipes: Sequence[Path],
    seeds: Sequence[int],
    out: Path,
    folds: int | None = None,
    primary: str = "balanced_accuracy",
    parallel: int | None = None,
    processes: int = 1,
    **fields: Any,
) -> int:
    """Train two recipes with several seeds, and say whether the second is better.

    A study that was interrupted goes on where it stopped; further seeds make it larger.

    Args:
        recipes: two files; the second is compared with the first.
        seeds: two or more.
        out: the study's folder.
        folds: split into so many folds, each of which tests once.
        primary: the metric that the verdict is about.
        parallel: how many runs train side by side.
        processes: how many share the work of one run.
        fields: of both recipes, that differ from their files.
    """
    # Loading what trains takes seconds, and the other commands don't need it.
    from ham10000.reporting import print_study
    from ham10000.study import run_study

    screen = console()
    result = run_study(
        recipes,
        seeds,
        out,
        folds=folds,
        primary=primary,
        parallel=parallel,
        processes=processes,
        overrides=recipe_overrides(fields),
        log=lambda text: screen.print(text, markup=False),
    )
    print_study(result)
    screen.print(f"Written to {out}. A page of it: ham10000 report {out}", markup=False)
    return 0


def demo(out: Path, data: Path | None = None) -> int:
    """Train with and without attention for a minute each, compare, and make a report.

    The data set is the one that --data or HAM10000_DIR names, or else one that is made up. The
    scores of so short a training mean nothing.

    Args:
        out: the folder for everything.
        data: the data set's folder.
    """
    from ham10000.reporting import run_demo

    screen = console()
    page = run_demo(out, data, log=lambda text: screen.print(text, markup=False))
    screen.print(f"The report: {page}", markup=False, soft_wrap=True)
    return 0


def _study_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("recipes", type=Path, nargs="+", help="two files; the second is judged")
    parser.add_argument("--seeds", type=int, nargs="+", required=True, help="two or more")
    parser.add_argument("--out", type=Path, required=True, help="the study's folder")
    parser.add_argument("--folds", type=int, help="split into folds, each of which tests once")
    parser.add_argument(
        "--primary", default="balanced_accuracy", help="the metric that the verdict is about"
    )
    parser.add_argument(
        "--parallel", type=int, help="runs side by side; one for each GPU or core unless given"
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="how many share the work of one run"
    )
    add_recipe_fields(parser)


def _demo_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("demo"), help="the folder to make")
    parser.add_argument(
        "--data", type=Path, help="a data set; HAM10000_DIR's, or a made-up one, unless given"
    )


COMMANDS: dict[str, Callable[..., int]] = {"study": study, "demo": demo}

ARGUMENTS: dict[str, Callable[[ArgumentParser], None]] = {
    "study": _study_arguments,
    "demo": _demo_arguments,
}
