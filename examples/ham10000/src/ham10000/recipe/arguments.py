"""Recipe fields on the command line: `--data.root DIR`, `--data.root=DIR` or `data.root=DIR`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from ham10000.errors import RecipeError, closest
from ham10000.recipe.describe import describe_fields, describe_type

__all__ = ["add_recipe_fields", "recipe_changes", "spell_out"]

_CHANGE = re.compile(r"(--)?([A-Za-z_][\w-]*(\.[\w-]+)*)(=.*)?", re.DOTALL)


def add_recipe_fields(parser: ArgumentParser) -> None:
    """Add an option for each field of a recipe, `--part.field VALUE`, to a command's parser.

    They are read as text; `recipe_changes` collects what was given, and `load_recipe` checks it.
    """
    for name, described in describe_fields().items():
        text = f"{described.text} {describe_type(described.kind).capitalize()}."
        parser.add_argument(f"--{name}", metavar="VALUE", help=text.replace("%", "%%"))


def recipe_changes(options: dict[str, Any]) -> list[str]:
    """Take the recipe's fields out of a command's options, as changes for `load_recipe`.

    Example:
        >>> from ham10000.recipe import recipe_changes
        >>> options = {"out": "run", "seed": "3", "data": {"size": "64", "root": None}}
        >>> recipe_changes(options), options
        (['seed=3', 'data.size=64'], {'out': 'run'})
    """
    names = {name.partition(".")[0] for name in describe_fields()}
    given = {name: options.pop(name) for name in list(options) if name in names}
    return [f"{name}={value}" for name, value in _flat(given).items() if value is not None]


def spell_out(arguments: Sequence[str]) -> list[str]:
    """Turn each `part.field=value` of a command line into `--part.field=value`.

    Example:
        >>> from ham10000.recipe import spell_out
        >>> spell_out(["train", "mine.yaml", "data.size=64"])
        ['train', 'mine.yaml', '--data.size=64']

    Raises:
        RecipeError: there is no such field.
    """
    known = describe_fields()
    spelled = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        found = _CHANGE.fullmatch(argument)
        if found is not None:
            option, name, dotted, value = found.groups()
            # An option without a dot may be the command's, and a sign may be in an option's value.
            meant = (option or value) if dotted else value and not (option or before[:2] == "--")
            if meant and name not in known and not Path(argument).exists():
                raise RecipeError(
                    f"reading {argument}: a recipe has no field {name}. {closest(name, known)}"
                )
            if name in known and value:
                argument = f"--{name}{value}"
        spelled.append(argument)
    return spelled


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
