"""Commands for recipes, features and training."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from ham10000.cli.options import recipe_overrides
from ham10000.errors import ArgumentError
from ham10000.models import summarize_recipes, summary_table
from ham10000.recipe import dump_recipe, load_recipe, shipped_recipes
from ham10000.reporting import console, print_run
from ham10000.training import (
    INTERRUPTED,
    LAUNCHED,
    LAUNCHER_LOCK,
    TRAINER_LOCK,
    RunDir,
    claim_run,
    find_run,
    launch,
    lock_run,
    prepare_features,
)
from ham10000.training import train as train_run

_RESTARTS = 3


def recipes(recipes: Sequence[str] = (), /, **overrides: Any) -> int:
    """List the recipes that come with ham10000, or compare the models of some recipes.

    Wherever a recipe is expected, its name or the path of a YAML file is accepted.

    The comparison shows the parameters of each model, what the head receives from backbone and
    attention, and the scale of these features before training, relative to the first recipe. It is
    measured on images of data.root or, without it, on random ones. Every field of the recipes can
    be overridden: section.field=value, or --section.field VALUE.

    Args:
        recipes: Names of recipes, or YAML files. Without any, the recipes are listed.
    """
    screen = console()
    if recipes:
        changes = recipe_overrides(overrides)
        loaded = [load_recipe(recipe, changes) for recipe in recipes]
        screen.print(summary_table(summarize_recipes(loaded), loaded[0].name))
        return 0
    table = Table("recipe", "description", "size", box=None, pad_edge=False)
    for name, path in shipped_recipes().items():
        about = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        table.add_row(name, escape(about), str(load_recipe(path).data.size))
    screen.print(table)
    screen.print("\nAll fields of a recipe: ham10000 train RECIPE --print-config")
    return 0


def features(recipe: str, /, *, out: Path, **overrides: Any) -> int:
    """Compute the feature maps of all images with the backbone of a recipe.

    Recipes with a frozen backbone are trained on these maps and compute them if they are missing.
    Use this command to compute them in advance. Every field of the recipe can be overridden:
    section.field=value, or --section.field VALUE.

    Args:
        recipe: Name of a recipe (see `ham10000 recipes`), or a YAML file.
        out: Folder of the features, for data.features.
    """
    loaded = load_recipe(recipe, recipe_overrides(overrides))
    loaded = replace(loaded, data=replace(loaded.data, features=out))
    found = prepare_features(RunDir(out), loaded)
    shape = " x ".join(map(str, found.maps.shape))
    console().print(f"Features of {loaded.model.backbone}: {out}, {shape} float16", markup=False)
    return 0


def train(
    recipe: str | None = None,
    /,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    processes: int = 1,
    elastic: bool = False,
    max_minutes: float | None = None,
    profile: int | None = None,
    print_config: bool = False,
    **overrides: Any,
) -> int:
    """Train a recipe, or resume a run.

    Every field of the recipe can be overridden: section.field=value, or --section.field VALUE.

    Args:
        recipe: Name of a recipe (see `ham10000 recipes`), or a YAML file.
        out: Folder of the run. If it contains checkpoints of this recipe, training resumes.
        resume: Folder of a run to resume, instead of RECIPE and --out.
        processes: Number of training processes on this machine.
        elastic: If a process dies, restart all of them from the last checkpoint.
        max_minutes: Same as --training.max_minutes: save a checkpoint and stop after this time.
        profile: Same as --logging.profile: number of steps to trace.
        print_config: Print the recipe with all fields and exit.
    """
    changes = recipe_overrides(overrides)
    if max_minutes is not None:
        changes.append(f"training.max_minutes={max_minutes}")
    if profile is not None:
        changes.append(f"logging.profile={profile}")
    if print_config:
        if recipe is None:
            raise ArgumentError("printing a recipe: its name or file is missing.")
        print(dump_recipe(load_recipe(recipe, changes)), end="")
        return 0
    if processes < 1:
        raise ArgumentError(f"training: --processes must be at least 1, found {processes}.")
    if resume is not None and recipe is None and out is None:
        folder, loaded = resume, load_recipe(find_run(resume).recipe, changes)
    elif resume is None and recipe is not None and out is not None:
        folder, loaded = out, load_recipe(recipe, changes)
    else:
        raise ArgumentError(
            "training: expected a recipe and --out, or --resume alone. "
            "Example: ham10000 train lite0_sa --out runs/lite0_sa"
        )
    if loaded.model.frozen and (processes > 1 or elastic):
        raise ArgumentError(
            f"training {loaded.name}: the head on a frozen backbone is trained in this process. "
            "Leave out --processes and --elastic."
        )
    if "RANK" not in os.environ and (processes > 1 or elastic):
        with lock_run(folder, LAUNCHER_LOCK):
            with lock_run(folder, TRAINER_LOCK):  # fails if a killed launcher left processes
                run, _ = claim_run(folder, loaded)
            status = launch(run, processes, _RESTARTS if elastic else 0)
    else:
        status = train_run(loaded, folder)
    if os.environ.get("RANK", "0") == "0" and LAUNCHED not in os.environ:
        print_run(find_run(folder))
    # torchrun would count any other status as a failure.
    return 0 if status == INTERRUPTED and LAUNCHED in os.environ else status
