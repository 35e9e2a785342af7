"""Check that a run folder still has the recipe and the split that its weights were trained with."""

import io
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ham10000.errors import RecipeError, SplitError
from ham10000.recipe import Recipe, field_values, make_recipe

__all__ = ["differing_fields", "load_recipe_text", "refuse_other_recipe", "refuse_other_split"]

FREE = (
    "data.root",
    "data.cache",
    "data.check_cache",
    "data.workers",
    "training.keep",
    "training.checkpoint_steps",
    "training.checkpoint_minutes",
    "training.max_minutes",
    "training.tta",
    "logging.",
)
"""Prefixes of the fields that do not affect the weights and may change when a run is resumed."""


def differing_fields(before: Recipe, now: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the fields that affect the weights and differ, with both values.

    Example:
        >>> from ham10000.recipe import Recipe
        >>> from ham10000.training.consistency import differing_fields
        >>> differing_fields(Recipe("mine", seed=1), Recipe("mine", seed=2))
        {'seed': (1, 2)}
    """
    first, second = _flat(before), _flat(now)
    return {
        name: (first[name], second[name])
        for name in second
        if first[name] != second[name] and not name.startswith(FREE)
    }


def load_recipe_text(text: str) -> Recipe:
    """Return the recipe that `dump_recipe` wrote as YAML, as a checkpoint holds it.

    Raises:
        RecipeError: it has an unknown field or an invalid value.
    """
    return make_recipe(yaml.safe_load(text), "reading the recipe in a checkpoint")


def refuse_other_recipe(trained: Recipe, now: Recipe, doing: str) -> None:
    """Check that a recipe is the one that weights were trained with.

    Args:
        trained: the recipe in the checkpoint.
        now: the recipe of the run folder.
        doing: what is being done, as the start of the message.

    Raises:
        RecipeError: a field that affects the weights differs.
    """
    differing = differing_fields(trained, now)
    if not differing:
        return
    (name, (before, after)), *others = differing.items()
    more = f" and {len(others)} more field{'s' * (len(others) > 1)}" if others else ""
    raise RecipeError(
        f"{doing}: the recipe was changed after training began: {name} was {before!r} and is now "
        f"{after!r}{more}. Change it back in recipe.yaml, or train in another folder."
    )


def refuse_other_split(trained: str, now: str, doing: str) -> None:
    """Check that a split is the one that weights were trained with; the order of rows is free.

    Args:
        trained: the content of split.csv in the checkpoint.
        now: the content of the run's split.csv.
        doing: what is being done, as the start of the message.

    Raises:
        SplitError: an image has moved to another part of the split, was added or was removed.
    """
    if trained == now:
        return
    before, after = _parts(trained, doing), _parts(now, doing)
    moved = [name for name in before | after if before.get(name) != after.get(name)]
    if not moved:
        return
    name = moved[0]
    raise SplitError(
        f"{doing}: split.csv was changed after training began: {name} was in "
        f"{before.get(name, 'no part')} and is now in {after.get(name, 'no part')} "
        f"({len(moved)} such image{'s' * (len(moved) > 1)}). "
        "Change it back, or train in another folder."
    )


def _parts(text: str, doing: str) -> dict[str, str]:
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        return dict(zip(table["image_id"], table["split"], strict=True))
    except (ValueError, KeyError) as error:
        raise SplitError(f"{doing}: split.csv is damaged ({error}). Restore it.") from error


def _flat(recipe: Recipe) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in field_values(recipe).items()
    }
