"""Recipes in YAML files: read with what they build on and with changes, checked, written."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import jsonargparse
import yaml
from jsonargparse import ArgumentParser

from ham10000.errors import MissingDataError, RecipeError, closest
from ham10000.recipe.checks import check_values
from ham10000.recipe.describe import describe_fields, describe_type
from ham10000.recipe.fields import Recipe
from ham10000.utils import write_text

__all__ = ["dump_recipe", "load_recipe", "make_recipe", "save_recipe"]

_BASE = "base"


def load_recipe(path: Path | str, changes: Iterable[str] = ()) -> Recipe:
    r"""Read a recipe from a YAML file.

    With `base: other.yaml` a file names another beside it, and says only what it has otherwise.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.recipe import load_recipe
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     base, path = Path(folder) / "base.yaml", Path(folder) / "recipe.yaml"
        ...     _ = base.write_text("name: mine\noptimizer: {name: adam, lr: 0.01}")
        ...     _ = path.write_text("base: base.yaml\noptimizer: {eps: 0.1}")
        ...     recipe = load_recipe(path, ["training.epochs=3"])
        >>> recipe.optimizer.lr, recipe.optimizer.eps, recipe.training.epochs
        (0.01, 0.1, 3)

    Args:
        path: the file.
        changes: fields that differ from it, each as `part.field=value`.

    Raises:
        MissingDataError: the file, or the one that it builds on, is not there.
        RecipeError: it isn't YAML, a field is unknown, or a value can't be.
    """
    path = Path(path)
    content = _read(path, ())
    doing = f"reading {path}"
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise RecipeError(
                f"{doing}: expected a change as part.field=value, found {change!r}, which has no =."
            )
        content = _merge(content, _nested(name.split("."), value))
    return make_recipe(content, doing)


def make_recipe(content: Mapping[str, Any], doing: str = "making a recipe") -> Recipe:
    """Turn nested mappings, as YAML has them, into a recipe.

    Example:
        >>> from ham10000.recipe import make_recipe
        >>> make_recipe({"name": "mine", "data": {"size": 64}}).data.size
        64

    Raises:
        RecipeError: a field is unknown, or a value can't be.
    """
    _check_names(content, doing)
    parser = _parser()
    try:
        recipe = Recipe(**vars(parser.instantiate(parser.parse_object(dict(content)))))
    except jsonargparse.ArgumentError as error:
        raise _ill_typed(content, doing, error) from error
    check_values(recipe, doing)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML, every field of it.

    Example:
        >>> from ham10000.recipe import Recipe, dump_recipe
        >>> print(dump_recipe(Recipe("mine")).splitlines()[0])
        name: mine
    """
    return yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True)


def save_recipe(recipe: Recipe, path: Path | str) -> None:
    """Write a recipe to a YAML file from which `load_recipe` reads an equal one.

    Raises:
        WriteError: the system refuses.
    """
    write_text(Path(path), dump_recipe(recipe))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe)
    return parser


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """Return what a file says, on top of what it builds on."""
    doing = f"reading {path}"
    if path.resolve() in above:
        raise RecipeError(f"{doing}: it builds on itself, through its field base.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _missing(path, above) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{doing}: it can't be read as YAML. {_one_line(str(error))}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{doing}: expected fields and values, found {type(content).__name__}.")
    base = content.pop(_BASE, None)
    if base is None:
        return content
    return _merge(_read(path.parent / str(base), (*above, path.resolve())), content)


def _missing(path: Path, above: tuple[Path, ...]) -> MissingDataError:
    named = f", which {above[-1]} builds on" if above else ""
    beside = sorted(other.name for other in path.parent.glob("*.yaml"))
    return MissingDataError(
        f"reading a recipe: there is no file {path}{named}. {closest(path.name, beside)}"
    )


def _ill_typed(content: Mapping[str, Any], doing: str, error: Exception) -> RecipeError:
    """Say in our words what jsonargparse refused."""
    message = _one_line(str(error))
    found = re.match(r'Parser key "([a-z_.]+?)":', message)
    described = describe_fields().get(found[1]) if found is not None else None
    if found is None or described is None:
        return RecipeError(f"{doing}: {message}")
    value: Any = content
    for part in found[1].split("."):
        value = value.get(part) if isinstance(value, Mapping) else value
    near = [str(option) for option in get_args(described.kind) if isinstance(option, str)]
    hint = f" {closest(str(value), near)}" if near else ""
    expected = describe_type(described.kind)
    return RecipeError(f"{doing}: {found[1]} must be {expected}, found {value!r}.{hint}")


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            value = _merge(old, value)
        merged[name] = value
    return merged


def _nested(path: list[str], value: str) -> dict[str, Any]:
    first, *rest = path
    return {first: _nested(rest, value) if rest else value}


def _check_names(content: Mapping[str, Any], doing: str) -> None:
    known = describe_fields()
    parts = {name.partition(".")[0] for name in known if "." in name}
    for name in _given(content, parts):
        if name in parts:
            raise RecipeError(
                f"{doing}: {name} is a part of a recipe, with fields of its own, and found was a "
                f"value. {closest(name, known)}"
            )
        if name not in known:
            raise RecipeError(f"{doing}: there is no field {name}. {closest(name, known)}")


def _given(content: Mapping[str, Any], parts: Iterable[str]) -> list[str]:
    names = []
    for name, value in content.items():
        if name in parts and isinstance(value, Mapping):
            names += [f"{name}.{inner}" for inner in value]
        else:
            names.append(str(name))
    return names


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _one_line(text: str) -> str:
    return " ".join(text.split())
