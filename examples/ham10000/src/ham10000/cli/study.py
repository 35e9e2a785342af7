"""Commands that compare recipes: `study`, `reproduce` for the paper, `demo` on a small scale."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from ham10000.cli.options import Data, Option, recipe_overrides
from ham10000.data import DATA_VARIABLE, data_folder, link_sample, open_folder, synthesize
from ham10000.errors import ArgumentError
from ham10000.recipe import find_recipe
from ham10000.reporting import (
    Scale,
    console,
    list_items,
    print_study,
    reproduce_item,
    write_report,
)
from ham10000.study import PRIMARY, JobOptions, quote_results, run_study, verify_study
from ham10000.utils import read_text

_DEMO_IMAGES = 1200
"""Number of synthetic images, if there is no data set."""

_DEMO_SAMPLE, _DEMO_FAITHFUL = 2400, 20
"""Number of images of a data set, and of those with deletion and insertion curves, so that the demo
takes a few minutes."""

_DEMO_RECIPES = ("frozen", "frozen_placebo", "frozen_sa")
"""The control, attention with uniform maps, and soft attention."""

_DEMO_FOLDS, _DEMO_SEEDS = 5, (0, 1)
"""Smallest design that tests every image and allows a verdict."""

_PLAN = Option(group="plan")
_TRAINING = Option(group="training")
_SLURM = Option(group="Slurm jobs, with --launcher submitit")
_PUBLISHED = Option(group="published results")


def study(
    recipes: Sequence[str] = (),
    /,
    *,
    seeds: Sequence[int] = (),
    out: Path | None = None,
    folds: Annotated[int | None, _PLAN] = None,
    primary: Annotated[str, _PLAN] = PRIMARY,
    control: Annotated[str | None, _PLAN] = None,
    smallest_difference: Annotated[float | None, _PLAN] = None,
    looks: Annotated[int, _PLAN] = 1,
    extend: Annotated[bool, _PLAN] = False,
    parallel: Annotated[int | None, _TRAINING] = None,
    processes: Annotated[int, _TRAINING] = 1,
    launcher: Annotated[Literal["local", "submitit"], _TRAINING] = "local",
    partition: Annotated[str | None, _SLURM] = None,
    timeout_min: Annotated[int | None, _SLURM] = None,
    gpus_per_node: Annotated[int | None, _SLURM] = None,
    cpus_per_task: Annotated[int | None, _SLURM] = None,
    mem_gb: Annotated[float | None, _SLURM] = None,
    sbatch: Annotated[str | None, _SLURM] = None,
    publish: Annotated[Path | None, _PUBLISHED] = None,
    publish_seeds: Annotated[int | None, _PUBLISHED] = None,
    restore: Annotated[Path | None, replace(_PUBLISHED, name="from")] = None,
    verify: Annotated[Path | None, _PUBLISHED] = None,
    pages: Annotated[Sequence[Path], _PUBLISHED] = (),
    **overrides: Any,
) -> int:
    """Train recipes with several seeds, and compare each with the control.

    The same command resumes an interrupted study. More seeds need --extend. Every field of the
    recipes can be overridden: section.field=value, or --section.field VALUE.

    Args:
        recipes: Names of two or more recipes, or YAML files.
        seeds: At least two seeds.
        out: Folder of the study.
        folds: Number of folds. Each fold is the test set once. Defaults to one split.
        primary: Metric that decides the verdict.
        control: Name of the recipe with which the others are compared. Defaults to the first.
        smallest_difference: Smallest difference of interest in the primary metric, such as 0.01
            for one percentage point; smaller differences count as equivalent.
        looks: Number of planned looks at the result, which share the significance level.
        extend: Add seeds to a study, which is recorded in its plan.
        parallel: Number of runs at the same time. Defaults to one per GPU, or one per core, and
            with submitit to the limits of the cluster.
        processes: Number of training processes of one run.
        launcher: Where runs are trained: on this machine, or each in a Slurm job of its own. If
            this command is interrupted, jobs continue; repeat it to wait for them again.
        partition: Partition of the jobs, with --launcher submitit.
        timeout_min: Time limit of a job in minutes, 60 by default. A run that takes longer saves a
            checkpoint and is requeued.
        gpus_per_node: Number of GPUs of a job.
        cpus_per_task: Number of cores of a job.
        mem_gb: Memory of a job in GB.
        sbatch: Other options of sbatch, as in "--account=vision --qos=high".
        publish: Folder of the published results of this study, which is replaced at the end, after
            each seed and, unless the backbone is frozen, after each run.
        publish_seeds: Number of seeds whose predictions are published. Defaults to all.
        restore: Folder of published results to start from; its runs are not trained again.
        verify: Folder with published results of studies. Recompute all of their numbers, without
            training; the exit status is 1 if any differs. The only option that applies is --pages.
        pages: Markdown files that quote published results. With --publish, quotations are
            updated; with --verify, they are compared.
    """
    if verify is not None:
        return _verify(verify, pages)
    for page in pages:
        read_text(page, f"quoting results in {page}")  # before the study, not after it
    if not recipes or not seeds or out is None:
        lacking = "recipes" if not recipes else "--seeds" if not seeds else "--out"
        raise ArgumentError(f"running a study: {lacking} missing. See: ham10000 study --help")
    resources = {
        "partition": partition,
        "timeout_min": timeout_min,
        "gpus_per_node": gpus_per_node,
        "cpus_per_task": cpus_per_task,
        "mem_gb": mem_gb,
        "sbatch": sbatch,
    }
    given: dict[str, Any] = {name: value for name, value in resources.items() if value is not None}
    if launcher == "local" and given:
        option = next(iter(given)).replace("_", "-")
        raise ArgumentError(f"running a study: --{option} needs --launcher submitit.")
    screen = console()
    result = run_study(
        [find_recipe(recipe) for recipe in recipes],
        seeds,
        out,
        folds=folds,
        primary=primary,
        control=control,
        smallest_difference=smallest_difference,
        looks=looks,
        extend=extend,
        parallel=parallel,
        processes=processes,
        jobs=JobOptions(**given) if launcher == "submitit" else None,
        restore=restore,
        publish=publish,
        publish_seeds=publish_seeds,
        overrides=recipe_overrides(overrides),
        log=lambda text: screen.print(text, markup=False),
    )
    print_study(result)
    if publish is not None:
        for page in pages:
            for problem in quote_results(page, publish.parent, write=True):
                screen.print(problem, markup=False, soft_wrap=True)
    screen.print(f"Written to {out}. Page: ham10000 report {out}", markup=False, soft_wrap=True)
    return 0


def _verify(results: Path, pages: Sequence[Path]) -> int:
    screen = console()
    folders = sorted(path for path in results.glob("*/") if path.is_dir())
    problems = []
    for folder in folders:
        found = verify_study(folder)
        screen.print(found.describe(), markup=False, soft_wrap=True)
        problems += [f"{found.name}: {problem}" for problem in found.problems]
    for page in pages:
        problems += quote_results(page, results)
    for problem in problems:
        screen.print(problem, markup=False, soft_wrap=True)
    count = f"{len(folders)} stud{'y' if len(folders) == 1 else 'ies'} in {results}"
    outcome = f"{len(problems)} differences" if problems else "no differences"
    screen.print(f"{count}: {outcome}", markup=False, soft_wrap=True)
    return 1 if problems else 0


def reproduce(
    item: str | None = None,
    /,
    *,
    out: Path = Path("reproduced"),
    data: Data = None,
    seeds: Sequence[int] = (0,),
    scale: Scale = "full",
    dry_run: bool = False,
    parallel: int | None = None,
    show_list: Annotated[bool, Option("Only list the items.", name="list")] = False,
) -> int:
    """Train the models of a table or figure of the paper, and compare with its values.

    Prints the runs and an estimate of the time first. Finished runs are used, also those of other
    items, and interrupted ones are resumed. Tables are written as CSV, LaTeX and Markdown, figures
    as SVG.

    Args:
        item: Name of the table or figure; --list shows them.
        out: Folder with the runs of all items, and a folder for each item.
        seeds: Seeds of each model. The test set does not depend on them.
        scale: tiny trains two steps with random weights on a part of the images, to try the
            command.
        dry_run: Only print the runs and the estimate.
        parallel: Number of runs at the same time. Defaults to one per GPU, or one per core.
    """
    screen = console()

    def log(text: str) -> None:
        screen.print(text, markup=False, soft_wrap=True)

    if show_list:
        for name, each in list_items().items():
            log(f"{name:19}{each.title}")
        return 0
    if item is None:
        raise ArgumentError(
            f"reproducing: no item was given. Pass one of {', '.join(list_items())}, or --list."
        )
    folder = reproduce_item(
        item,
        out,
        data=data,
        seeds=seeds,
        scale=scale,
        dry_run=dry_run,
        parallel=parallel,
        log=log,
    )
    if not dry_run:
        log((folder / f"{item}.md").read_text(encoding="utf-8"))
        log(f"Written to {folder}")
    return 0


def demo(*, out: Path = Path("demo"), data: Path | None = None) -> int:
    """Run a small study from the data to the report, in a few minutes.

    Does soft attention get more out of the features of a pretrained EfficientNet-Lite0 than their
    mean, or than attention with uniform maps? The features of 2,400 images are computed once, and
    30 heads are trained on them: three recipes, five folds, two seeds. Finished steps are not
    repeated.

    Args:
        out: Folder of all outputs.
        data: Folder of a data set, of which random lesions are used. Defaults to HAM10000_DIR or,
            without it, to synthetic images.
    """
    screen = console()

    def log(text: str) -> None:
        screen.print(text, markup=False, soft_wrap=True)

    root = _demo_data(out / "data", data, log)
    result = run_study(
        [find_recipe(name) for name in _DEMO_RECIPES],
        seeds=_DEMO_SEEDS,
        out=out / "study",
        folds=_DEMO_FOLDS,
        overrides=[f"data.root={root.absolute()}"],
        log=log,
    )
    print_study(result)
    page = write_report([out / "study"], out / "report.html", faithful=_DEMO_FAITHFUL)
    screen.print(f"The report: {page}", markup=False, soft_wrap=True)
    return 0


def _demo_data(folder: Path, data: Path | None, log: Callable[[str], None]) -> Path:
    """Return a folder with a sample of a data set, or with synthetic images."""
    if data is None and not os.environ.get(DATA_VARIABLE):
        if not folder.exists():
            log(f"Generating {_DEMO_IMAGES:,} synthetic images in {folder}")
            synthesize(folder, _DEMO_IMAGES, seed=0, width=100)
        return folder
    source = data_folder(data)
    if not folder.exists():
        number = link_sample(source, folder, _DEMO_SAMPLE, seed=0)
        log(f"Using random lesions of {source}, {number:,} images")
    first = open_folder(folder).paths()[0]
    if first.resolve() not in {path.resolve() for path in open_folder(source).images.values()}:
        raise ArgumentError(
            f"running the demo: {folder} is not a sample of {source}. Pass another folder as --out."
        )
    return folder
