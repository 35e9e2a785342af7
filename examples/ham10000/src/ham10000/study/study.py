"""Run a study from its plan to its verdict; finished runs are not repeated."""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ham10000.data import (
    HAM10000_INFO,
    data_folder,
    find_dataset,
    open_cache,
    prepare,
    read_csv,
    read_split,
    write_split,
)
from ham10000.errors import ArgumentError, CacheError, Ham10000Error, SplitError
from ham10000.models import summarize_recipes, summary_table
from ham10000.recipe import Recipe, load_recipe
from ham10000.statistics import MIN_TRAINING_DF, seeds_needed
from ham10000.study.cluster import JobOptions, SubmititLauncher
from ham10000.study.launcher import FrozenLauncher, Launcher, LocalLauncher
from ham10000.study.plan import PRIMARY, PlannedRun, StudyPlan, make_plan
from ham10000.study.preregistration import StudyRecord, table_hash
from ham10000.study.results import publish_study, restore_study
from ham10000.study.summary import (
    RESULT,
    SPLIT,
    check_test_images,
    read_study,
    summarize_study,
)
from ham10000.training import RunDir, make_split, wants_validation
from ham10000.utils import lock_folder, write_text

__all__ = ["run_study"]

LOCK = ".study.lock"


def run_study(
    recipe_files: Sequence[Path],
    seeds: Sequence[int],
    out: Path,
    *,
    folds: int | None = None,
    primary: str = PRIMARY,
    control: str | None = None,
    smallest_difference: float | None = None,
    looks: int = 1,
    extend: bool = False,
    parallel: int | None = None,
    processes: int = 1,
    jobs: JobOptions | None = None,
    restore: Path | None = None,
    publish: Path | None = None,
    publish_seeds: int | None = None,
    overrides: Sequence[str] = (),
    log: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train the missing runs of a study and summarize all of them.

    All runs share one split. It is drawn once, with `data.split_seed` of the recipes or, without
    one, with the first seed. The seed of a run controls its initial weights, the order of images
    and the augmentation.

    The plan is recorded in plan.json before the first training, and every look at the result is
    added to it. A run with predictions.csv is finished, also without its checkpoints, so runs can
    be copied from another machine; keep recipe.yaml and split.csv beside it for the report.

    Args:
        recipe_files: Two or more recipes.
        seeds: At least two seeds, and all recorded seeds if the study exists.
        out: Folder of the study, with plan.json, split.csv, runs/ and study.json.
        folds: Number of folds, each of which is the test set once. Defaults to one split.
        primary: Name of the metric that decides the verdict.
        control: Name of the recipe with which the others are compared. Defaults to the first.
        smallest_difference: Smallest difference of interest in the primary metric; see
            `make_plan`.
        looks: Number of planned looks at the result.
        extend: Add seeds to a study. This is recorded; a look that was not planned is exploratory.
        parallel: Number of runs that train at the same time.
        processes: Number of training processes of one run.
        jobs: Resources of a Slurm job. With them, each missing run is trained in a job of its own
            instead of on this machine; see `SubmititLauncher`. Runs with a frozen backbone take
            seconds, and are always trained on this machine.
        restore: Published results to start from, if the folder has no study yet.
        publish: Folder to which results are published at the end, after each seed and, unless the
            backbone is frozen, after each run; see `publish_study`.
        publish_seeds: Number of seeds whose predictions are published. Defaults to all.
        overrides: Recipe fields that every run overrides, as `part.field=value`.
        log: Called with one line for each step.

    Returns:
        The content of study.json.

    Raises:
        LockedError: Another process is running a study in the folder.
        Ham10000Error: The study cannot be planned, trained or summarized.
    """
    launcher: Launcher = LocalLauncher(out, parallel, processes)
    if jobs is not None:
        launcher = SubmititLauncher(out, jobs, parallel, processes)
    _check_overrides(overrides, folds)
    recipes = [load_recipe(path, overrides) for path in recipe_files]
    _check_sets(recipes)
    plan = make_plan(
        recipes,
        seeds,
        folds,
        primary,
        control=control,
        smallest_difference=smallest_difference,
        looks=looks,
    )
    advice = "Wait until it has ended, stop it, or choose another folder."
    with lock_folder(out, LOCK, doing=f"running a study in {out}", advice=advice):
        if restore is not None:
            restore_study(restore, out)
        record = StudyRecord(out)
        record.check_looks(_looks_taken(out / RESULT))
        cache, split = _share_images(recipes, plan, out)
        own = [] if cache is None else [f"data.cache={cache.absolute()}"]
        shared = [*own, f"data.split={split.absolute()}", *overrides]
        record.register(
            plan,
            recipes,
            table_hash(read_csv(out / SPLIT, ())),
            split_seed=recipes[0].data.split_seed,
            extend=extend,
        )
        finished, missing = _by_state(plan, out)
        record.check_predictions(_hashes(finished, out))
        _check_recipes(finished, record, out)
        if cache is not None:
            _check_images(finished, out, open_cache(cache).inputs)
        check_test_images(finished, out, recipes[0].data.fold)
        files = {each.name: path for each, path in zip(recipes, recipe_files, strict=True)}
        resolved = {run: _recipe_of(run, files[run.recipe], shared) for run in missing}
        if not plan.enough_runs:
            log(
                f"Too few runs for a verdict: folds x (seeds - 1) is below {MIN_TRAINING_DF}. "
                f"{seeds_needed(plan.folds or 1)} seeds are needed."
            )
        models = _compare_models(recipes, plan, log)
        log(f"{len(plan.runs)} runs, {len(missing)} to train")
        unfinished = Counter(run.seed for run in missing)
        rows: dict[PlannedRun, dict[str, Any]] = {}
        trained = _train(resolved, FrozenLauncher(out, parallel), launcher, log)
        for number, run in enumerate(trained, start=1):
            log(f"{run.folder}: trained, {number} of {len(missing)}")
            unfinished[run.seed] -= 1
            # Publishing takes longer than training a head, and less than training a network.
            if publish is not None and not (resolved[run].model.frozen and unfinished[run.seed]):
                publish_study(out, publish, publish_seeds, known=rows)
        _check_recipes(missing, record, out)
        check_test_images(missing, out, recipes[0].data.fold)
        result = summarize_study(plan, read_study(plan, out), record.look_number(plan.seeds))
        record.add_look(result, _hashes(plan.runs, out))
        result["looks_taken"] = record.looks_taken
        result["models"] = models
        write_text(out / RESULT, json.dumps(result, indent=2) + "\n")
        if publish is not None:
            publish_study(out, publish, publish_seeds, known=rows)
    return result


def _check_overrides(overrides: Sequence[str], folds: int | None) -> None:
    """Check that no override is of a field that distinguishes the runs of a study."""
    options = {"seed": "--seeds", "name": "recipes with other names"}
    if folds is not None:
        options["data.fold"] = "--folds without it"
    for override in overrides:
        name = override.partition("=")[0]
        if name in options:
            raise ArgumentError(
                f"planning a study: {override} would be the same in all runs, which must differ "
                f"in it. Use {options[name]}."
            )


def _check_sets(recipes: Sequence[Recipe]) -> None:
    for recipe in recipes:
        if find_dataset(recipe.data.set) != HAM10000_INFO:
            raise ArgumentError(
                f"planning a study: data.set is {recipe.data.set} in {recipe.name}, and the "
                "metrics of a study are those of HAM10000. Train the recipes with ham10000 train, "
                "and compare their runs with ham10000 compare."
            )


def _looks_taken(result: Path) -> list[dict[str, Any]]:
    # A damaged result is written again, so it is not an error.
    try:
        return list(json.loads(result.read_text(encoding="utf-8"))["looks_taken"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _train(
    recipes: Mapping[PlannedRun, Recipe],
    frozen: Launcher,
    others: Launcher,
    log: Callable[[str], None],
) -> Iterator[PlannedRun]:
    """Train the runs with a frozen backbone first, and then the others."""
    for launcher, is_frozen in ((frozen, True), (others, False)):
        own = {run: recipe for run, recipe in recipes.items() if recipe.model.frozen == is_frozen}
        if own:
            yield from launcher(own, log)


def _compare_models(
    recipes: Sequence[Recipe], plan: StudyPlan, log: Callable[[str], None]
) -> dict[str, Any]:
    """Log what distinguishes the models before training; return it by name of the recipe."""
    try:
        found = summarize_recipes(recipes)
    except Ham10000Error as error:  # runs may have been trained elsewhere
        log(f"The models cannot be compared: {error}")
        return {}
    screen = Console(file=io.StringIO(), width=80)
    screen.print(summary_table(found, plan.control))
    log(screen.file.getvalue().rstrip())  # type: ignore[attr-defined]
    return {name: asdict(summary) for name, summary in found.items()}


def _by_state(plan: StudyPlan, out: Path) -> tuple[list[PlannedRun], list[PlannedRun]]:
    """Return the finished runs and the others."""
    finished = [run for run in plan.runs if RunDir(out / run.folder).done]
    return finished, [run for run in plan.runs if run not in finished]


def _check_recipes(finished: Sequence[PlannedRun], record: StudyRecord, out: Path) -> None:
    # A finished run may come from another machine, or from another study by mistake.
    for run in finished:
        path = RunDir(out / run.folder).recipe
        if path.exists():
            record.check_run(run, load_recipe(path))


def _check_images(finished: Sequence[PlannedRun], out: Path, inputs: str) -> None:
    """Check that finished runs are of the images with the hash `inputs`, where theirs is known."""
    for run in finished:
        path = RunDir(out / run.folder).images
        if path.exists() and path.read_text().strip() != inputs:
            raise CacheError(
                f"running a study in {out}: the images or the table of the data set have changed "
                f"since {run.folder} was trained. Restore them, or choose another folder."
            )


def _recipe_of(run: PlannedRun, recipe_file: Path, overrides: Sequence[str]) -> Recipe:
    fold = [] if run.fold is None else [f"data.fold={run.fold}"]
    return load_recipe(recipe_file, [f"seed={run.seed}", *fold, *overrides])


def _hashes(runs: Iterable[PlannedRun], out: Path) -> dict[str, str]:
    """Return the SHA-256 of the predictions by folder of the run."""
    paths = {run.folder: RunDir(out / run.folder).predictions() for run in runs}
    return {name: table_hash(read_csv(path, ())) for name, path in paths.items()}


def _share_images(
    recipes: Sequence[Recipe], plan: StudyPlan, out: Path
) -> tuple[Path | None, Path]:
    """Prepare the cache and the split, and return them; no cache if the sizes differ."""
    data, split = recipes[0].data, out / SPLIT
    # With several sizes, each run prepares the cache of its own, or finds it beside its folder.
    is_shared = all(recipe.data.size == data.size for recipe in recipes)
    cache = (is_shared and data.cache) or out / f"cache-{data.size}"
    prepare(data_folder(data.root), cache, data.size, masks=None)
    if split.exists() and data.split is not None and data.split.exists():
        wanted = read_split(data.split, open_cache(cache).table).astype(str)
        if table_hash(wanted) != table_hash(read_csv(split, ())):
            raise SplitError(
                f"running a study in {out}: its split.csv is not the split {data.split} of the "
                "recipes. Choose another folder."
            )
    if not split.exists():
        seed = plan.seeds[0] if data.split_seed is None else data.split_seed
        kind = replace(data, protocol="kfold") if plan.folds is not None else data
        table, validation = open_cache(cache).table, any(map(wants_validation, recipes))
        write_split(make_split(kind, seed, table, plan.folds or 5, validation=validation), split)
    return cache if is_shared else None, split
