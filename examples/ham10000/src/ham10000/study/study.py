"""A study from its plan to its verdict; what is there already is not done again."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ham10000.data.cache import open_cache
from ham10000.data.files import write_text
from ham10000.data.layout import data_folder
from ham10000.data.prepare import prepare
from ham10000.data.splitfile import write_split
from ham10000.errors import ArgumentError
from ham10000.recipe import Recipe, load_recipe
from ham10000.study.plan import StudyPlan, make_plan
from ham10000.study.runner import Trainer, train_missing, workplaces
from ham10000.study.summary import read_study, summarize_study
from ham10000.training.folder import RunFolder, claim
from ham10000.training.inputs import make_split

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
    changes: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, object]:
    """Train what a study lacks, and summarize it.

    All runs share one split, made once with the recipes' `data.split_seed`, or else the first seed:
    a seed is of the weights, the order of images and the augmentation.

    Args:
        recipe_files: two recipes; the second is compared with the first.
        seeds: two or more; a study may get further ones later.
        out: its folder: plan.json, split.csv, runs/, study.json.
        folds: split into so many folds, each of which tests once.
        primary: the metric that the verdict is about.
        parallel: how many runs train side by side.
        processes: how many share the work of one run.
        changes: fields that all runs have instead of their recipes', `part.field=value`.
        say: is told what happens.

    Returns:
        What study.json holds.

    Raises:
        Ham10000Error: it can't be planned, trained or summarized.
    """
    recipes = [load_recipe(path, changes) for path in recipe_files]
    plan = make_plan(recipes, seeds, folds, primary)
    _claim(plan, out)
    shared = [*_share_images(recipes, plan, out), *changes]
    files = dict(zip(plan.recipes, recipe_files, strict=True))
    trainer = Trainer(out, files, shared, processes)
    for run in plan.runs:  # a recipe that was changed meanwhile is refused before anything trains
        claim(out / run.folder, load_recipe(files[run.recipe], trainer.fields(run)))
    missing = [run for run in plan.runs if not RunFolder(out / run.folder).done]
    places = workplaces(parallel, len(missing), processes)
    say(f"{len(plan.runs)} runs, {len(missing)} to train, {len(places)} side by side")
    train_missing(trainer, missing, places, say)
    result = summarize_study(plan, read_study(plan, out))
    write_text(out / RESULT, json.dumps(result, indent=2) + "\n")
    return result


def _claim(plan: StudyPlan, out: Path) -> None:
    """Write the plan, unless another study is there; further seeds make the same one larger."""
    if (out / PLAN).exists():
        before = json.loads((out / PLAN).read_text())
        for name, now in plan.as_dict().items():
            if name in ("recipes", "folds", "primary", "rule") and before[name] != now:
                raise ArgumentError(
                    f"studying in {out}: it holds a study with {name} {before[name]}, and this one "
                    f"has {now}. Choose another folder."
                )
    plan.write(out)


def _share_images(recipes: Sequence[Recipe], plan: StudyPlan, out: Path) -> list[str]:
    """Make the cache of each size and the split; return the fields that say where they are."""
    data = recipes[0].data
    if any(recipe.data.size != data.size for recipe in recipes):
        # Each run makes or finds its own, beside it.
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
