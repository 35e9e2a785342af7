"""The command that trains.

The arguments of each function are its command's.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from ham10000.errors import ArgumentError
from ham10000.recipe import add_recipe_fields, dump_recipe, load_recipe, recipe_overrides

__all__ = ["ARGUMENTS", "COMMANDS"]

_RESTARTS = 3


def train(
    recipe: Path | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    processes: int = 1,
    elastic: bool = False,
    print_config: str | None = None,
    **fields: Any,
) -> int:
    """Train a recipe into a run's folder, or go on with a run.

    Args:
        recipe: the recipe's file.
        out: the run's folder; if it has checkpoints of this recipe, training goes on from them.
        resume: a run's folder, to go on with; instead of a recipe and --out.
        processes: how many share the work on this machine.
        elastic: when a process dies, start all again from the last checkpoint.
        print_config: only print the recipe, with all of its fields.
        fields: of the recipe, that differ from its file.
    """
    if print_config is not None:
        if recipe is None:
            raise ArgumentError("printing a recipe: name its file. ham10000 train FILE ...")
        print(dump_recipe(load_recipe(recipe, recipe_overrides(fields))), end="")
        return 0
    # Loading what trains takes seconds, and the other commands don't need it.
    from ham10000.reporting import print_run
    from ham10000.training import (
        INTERRUPTED,
        LAUNCHED,
        LAUNCHER_LOCK,
        TRAINER_LOCK,
        claim_run,
        find_run,
        launch,
        lock_run,
    )
    from ham10000.training import train as train_run

    if (resume is None) == (recipe is None) or (recipe is not None and out is None):
        raise ArgumentError(
            "training: expected a recipe and --out, or --resume with a run's folder. "
            "For example: ham10000 train recipes/lite0_sa.yaml --out runs/lite0_sa"
        )
    if processes < 1:
        raise ArgumentError(f"training: processes must be at least 1, found {processes}.")
    place = resume if resume is not None else out
    assert place is not None
    source = find_run(place).recipe if resume is not None else recipe
    assert source is not None
    loaded = load_recipe(source, recipe_overrides(fields))
    if "RANK" not in os.environ and (processes > 1 or elastic):
        with lock_run(place, LAUNCHER_LOCK):
            with lock_run(place, TRAINER_LOCK):  # free, unless a killed launcher left processes
                run, _ = claim_run(place, loaded)
            status = launch(run, processes, _RESTARTS if elastic else 0)
    else:
        status = train_run(loaded, place)
    if os.environ.get("RANK", "0") == "0" and LAUNCHED not in os.environ:
        print_run(find_run(place))
    return 0 if status == INTERRUPTED and LAUNCHED in os.environ else status


def _train_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, nargs="?", help="the recipe's file")
    parser.add_argument(
        "--out", type=Path, help="the run's folder; with checkpoints in it, training goes on"
    )
    parser.add_argument("--resume", type=Path, help="a run's folder, to go on with it")
    parser.add_argument(
        "--processes", type=int, default=1, help="how many share the work on this machine"
    )
    parser.add_argument(
        "--elastic", action="store_true", help="start again from a checkpoint when one dies"
    )
    # jsonargparse knows an option of this name, and puts an empty value behind it.
    parser.add_argument(
        "--print_config", nargs="?", const="", help="only print the recipe, with all of its fields"
    )
    parser.add_argument(
        "--max-minutes", dest="training.max_minutes", help="save and stop after so long"
    )
    parser.add_argument("--profile", dest="logging.profile", help="trace so many steps")
    add_recipe_fields(parser)


COMMANDS: dict[str, Callable[..., int]] = {"train": train}

ARGUMENTS: dict[str, Callable[[ArgumentParser], None]] = {"train": _train_arguments}
