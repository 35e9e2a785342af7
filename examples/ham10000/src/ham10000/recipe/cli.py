"""Recipe fields on the command line: `--data.root DIR`, `--data.root=DIR` or `data.root=DIR`."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from ham10000.errors import RecipeError, closest
from ham10000.recipe.fields import describe_type, recipe_fields

__all__ = ["add_recipe_fields", "recipe_overrides", "spell_out"]

_CHANGE = re.compile(r"(--)?([A-Za-z_][\w-]*(\.[\w-]+)*)(=.*)?", re.DOTALL)


def add_recipe_fields(parser: ArgumentParser, *, show: bool = True) -> None:
    """Add an option `--section.field VALUE` for each field of a recipe to a parser.

    The values are not parsed here: `recipe_overrides` collects them, and `load_recipe` checks them.

    Args:
        parser: Parser of a command.
        show: Whether the help contains the fields.
    """
    groups: dict[str, Any] = {}
    for name, info in recipe_fields().items():
        title = f"recipe: {name.partition('.')[0]}" if "." in name else "recipe"
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        text = f"{info.text} {describe_type(info.kind).capitalize()}."
        groups[title].add_argument(
            f"--{name}",
            metavar="VALUE",
            help=text.replace("%", "%%") if show else argparse.SUPPRESS,
        )


def recipe_overrides(options: dict[str, Any]) -> list[str]:
    """Remove recipe fields from the options of a command and return them for `load_recipe`.

    Example:
        >>> from ham10000.recipe import recipe_overrides
        >>> options = {"out": "run", "seed": "3", "data": {"size": "64", "root": None}}
        >>> recipe_overrides(options), options
        (['seed=3', 'data.size=64'], {'out': 'run'})
    """
    names = {name.partition(".")[0] for name in recipe_fields()}
    given = {name: options.pop(name) for name in list(options) if name in names}
    return [f"{name}={value}" for name, value in _flat(given).items() if value is not None]


def spell_out(arguments: Sequence[str]) -> list[str]:
    """Replace each `section.field=value` of a command line by `--section.field=value`.

    Example:
        >>> from ham10000.recipe import spell_out
        >>> spell_out(["train", "mine.yaml", "data.size=64"])
        ['train', 'mine.yaml', '--data.size=64']

    Raises:
        RecipeError: An argument has the form of a field, but there is no such field.
    """
    known = recipe_fields()
    spelled = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        found = _CHANGE.fullmatch(argument)
        if found is not None:
            option, name, dotted, value = found.groups()
            # An option without a dot may belong to the command, and a value may contain "=".
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
