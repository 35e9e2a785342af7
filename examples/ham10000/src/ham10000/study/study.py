"""Run a study from its plan to its verdict; finished runs are not repeated."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ham10000.data import data_folder, open_cache, prepare, write_split
from ham10000.errors import ArgumentError
from ham10000.recipe import Recipe, load_recipe
from ham10000.study.plan import StudyPlan, make_plan
from ham10000.study.runner import RunTrainer, train_missing, worker_environments
from ham10000.study.summary import read_study, summarize_study
from ham10000.training import RunDir, claim_run, lock_run, make_split
from ham10000.utils import write_text

__all__ = ["PLAN", "RESULT", "run_study"]

PLAN, RESULT = "plan.json", "study.json"


def run_study(
    recipe_files: Sequence[Path],
    seeds: Sequence[int],
    out: Path,
    *,
    folds: int | None = None,
    primary: str = "balanced_accuracy",
    parallel: int | None = None,
    processes: int = 1,
    overrides: Sequence[str] = (),
    log: Callable[[str], None] = lambda text: None,
) -> dict[str, object]:
    """Train the missing runs of a study and summarize all of them.

    All runs share one split. It is drawn once, with `data.split_seed` of the recipes or, without
    one, with the first seed. The seed of a run controls its initial weights, the order of images
    and the augmentation.

    Args:
        recipe_files: Two recipes; the second is compared with the first.
        seeds: At least two seeds. Seeds can be added to a study later.
        out: Folder of the study, with plan.json, split.csv, runs/ and study.json.
        folds: Number of folds, each of which is the test set once. Defaults to one split.
        primary: Name of the metric that decides the verdict.
        parallel: Number of runs that train at the same time.
        processes: Number of training processes of one run.
        overrides: Recipe fields that every run overrides, as `part.field=value`.
        log: Called with one line for each step.

    Returns:
        The content of study.json.

    Raises:
        Ham10000Error: The study cannot be planned, trained or summarized.
    """
    recipes = [load_recipe(path, overrides) for path in recipe_files]
    plan = make_plan(recipes, seeds, folds, primary)
    _claim_run(plan, out)
    shared = [*_share_images(recipes, plan, out), *overrides]
    files = dict(zip(plan.recipes, recipe_files, strict=True))
    trainer = RunTrainer(out, files, shared, processes)
    for run in plan.runs:  # refuses a changed recipe before any training
        with lock_run(out / run.folder):
            claim_run(out / run.folder, load_recipe(files[run.recipe], trainer.fields(run)))
    missing = [run for run in plan.runs if not RunDir(out / run.folder).done]
    environments = worker_environments(parallel, len(missing), processes)
    log(f"{len(plan.runs)} runs, {len(missing)} to train, {len(environments)} at a time")
    train_missing(trainer, missing, environments, log)
    result = summarize_study(plan, read_study(plan, out))
    write_text(out / RESULT, json.dumps(result, indent=2) + "\n")
    return result


def _claim_run(plan: StudyPlan, out: Path) -> None:
    # Adding seeds extends the study in the folder. Everything else must be as planned.
    if (out / PLAN).exists():
        before = json.loads((out / PLAN).read_text())
        for name, now in plan.as_dict().items():
            if name in ("recipes", "folds", "primary", "rule") and before[name] != now:
                raise ArgumentError(
                    f"running a study in {out}: the folder has a study with {name} "
                    f"{before[name]}, not {now}. Choose another folder."
                )
    plan.write(out)


def _share_images(recipes: Sequence[Recipe], plan: StudyPlan, out: Path) -> list[str]:
    """Prepare the cache and the split; return the recipe fields that refer to them."""
    data = recipes[0].data
    if any(recipe.data.size != data.size for recipe in recipes):
        # Each run prepares the cache of its own size, or finds it beside its folder.
        cache = out / f"cache-{data.size}"
        shared = []
    else:
        cache = data.cache or out / f"cache-{data.size}"
        shared = [f"data.cache={cache.absolute()}"]
    prepare(data_folder(data.root), cache, data.size)
    split = out / "split.csv"
    if not split.exists():
        seed = plan.seeds[0] if data.split_seed is None else data.split_seed
        kind = replace(data, protocol="kfold") if plan.folds is not None else data
        write_split(make_split(kind, seed, open_cache(cache).table, plan.folds or 5), split)
    return [*shared, f"data.split={split.absolute()}"]
