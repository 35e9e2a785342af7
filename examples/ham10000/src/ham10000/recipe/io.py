"""Recipes as YAML files: find by name, load with bases and overrides, check, and save."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import jsonargparse
import yaml
from jsonargparse import ArgumentParser

import ham10000
from ham10000.errors import MissingDataError, RecipeError, closest
from ham10000.recipe.fields import check_values, describe_type, recipe_fields
from ham10000.recipe.recipe import Recipe
from ham10000.utils import write_text

__all__ = [
    "dump_recipe",
    "find_recipe",
    "load_recipe",
    "make_recipe",
    "save_recipe",
    "shipped_recipes",
]

_BASE = "base"


def shipped_recipes() -> dict[str, Path]:
    """Return the files of the recipes that come with ham10000, by name, sorted.

    Example:
        >>> from ham10000.recipe import shipped_recipes
        >>> list(shipped_recipes())[:4]
        ['best', 'densenet201', 'densenet201_keras', 'densenet201_sa']
    """
    package = Path(ham10000.__file__).parent
    # In a wheel they are in the package; in a checkout they are at the root of the project.
    folders = [package / "recipes", package.parents[1] / "recipes"]
    found = {path.stem: path for folder in folders for path in folder.glob("[!_]*.yaml")}
    return dict(sorted(found.items()))


def find_recipe(recipe: Path | str) -> Path:
    """Return the file of a recipe that is given by path or by name.

    Example:
        >>> from ham10000.recipe import find_recipe
        >>> find_recipe("smoke_sa").name
        'smoke_sa.yaml'

    Args:
        recipe: A file, or the name of a recipe that comes with ham10000. A file takes precedence.

    Raises:
        MissingDataError: There is no such file and no recipe with this name.
    """
    path = Path(recipe)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(recipe) in shipped:
        return shipped[str(recipe)]
    doing = f"loading the recipe {recipe}"
    if path.suffix or len(path.parts) > 1:
        beside = sorted(other.name for other in path.parent.glob("*.yaml"))
        raise MissingDataError(f"{doing}: there is no such file. {closest(path.name, beside)}")
    raise MissingDataError(
        f"{doing}: there is no recipe or file of this name. {closest(str(recipe), shipped)} "
        "All of them: ham10000 recipes."
    )


def load_recipe(recipe: Path | str, overrides: Iterable[str] = ()) -> Recipe:
    r"""Load a recipe from a YAML file.

    A file with `base: other.yaml` contains only the fields that differ from `other.yaml` in the
    same folder.

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
        recipe: A file, or the name of a recipe that comes with ham10000.
        overrides: Fields that override those of the file, as `section.field=value`.

    Raises:
        MissingDataError: The file or its base does not exist.
        RecipeError: It is not YAML, has an unknown field or an invalid value.
    """
    path = find_recipe(recipe)
    content = _read(path, ())
    doing = f"reading {path}"
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise RecipeError(
                f"{doing}: an override has the form section.field=value, found {override!r}."
            )
        content = _merge(content, _nested(name.split("."), value))
    return make_recipe(content, doing)


def make_recipe(content: Mapping[str, Any], doing: str = "making a recipe") -> Recipe:
    """Make a recipe from nested mappings.

    Example:
        >>> from ham10000.recipe import make_recipe
        >>> make_recipe({"name": "mine", "data": {"size": 64}}).data.size
        64

    Args:
        content: Fields by section, as in a YAML file.
        doing: What is being done, as the start of error messages.

    Raises:
        RecipeError: There is an unknown field or an invalid value.
    """
    _check_names(content, doing)
    content = _with_texts(content)
    parser = _parser()
    try:
        recipe = Recipe(**vars(parser.instantiate(parser.parse_object(dict(content)))))
    except (jsonargparse.ArgumentError, OverflowError) as error:
        raise _wrong_type(content, doing, error) from error
    check_values(recipe, doing)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML with all fields.

    Example:
        >>> from ham10000.recipe import Recipe, dump_recipe
        >>> print(dump_recipe(Recipe("mine")).splitlines()[0])
        name: mine
    """
    return yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True)


def save_recipe(recipe: Recipe, path: Path | str) -> None:
    """Write a recipe with all fields to a YAML file.

    Raises:
        WriteError: The file cannot be written.
    """
    write_text(Path(path), dump_recipe(recipe))


@cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe)
    return parser


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """Return the content of a file merged over that of its base."""
    doing = f"reading {path}"
    if path.resolve() in above:
        raise RecipeError(f"{doing}: its field base refers back to the file itself.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        beside = sorted(other.name for other in path.parent.glob("*.yaml"))
        raise MissingDataError(
            f"{doing}: there is no such file, and it is the base of {above[-1]}. "
            f"{closest(path.name, beside)}"
        ) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise RecipeError(f"{doing}: it is not valid YAML. {_one_line(str(error))}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{doing}: expected fields and values, found {type(content).__name__}.")
    base = content.pop(_BASE, None)
    if base is None:
        return content
    return _merge(_read(path.parent / str(base), (*above, path.resolve())), content)


def _with_texts(content: Mapping[str, Any]) -> dict[str, Any]:
    """Turn whole numbers into text where a field is text, as in `precision: 32`."""
    texts = {
        name
        for name, info in recipe_fields().items()
        if str in (kinds := get_args(info.kind) or (info.kind,)) or "32" in kinds
    }

    def text(name: str, value: Any) -> Any:
        return str(value) if type(value) is int and name in texts else value

    return {
        section: {field: text(f"{section}.{field}", value) for field, value in part.items()}
        if isinstance(part, Mapping)
        else text(section, part)
        for section, part in content.items()
    }


def _too_large(value: Any, name: str) -> Iterator[str]:
    """Return the names of fields with a number that no float can hold."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _too_large(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _too_large(part, name)
    elif isinstance(value, int) and abs(value) > sys.float_info.max:
        yield name


def _wrong_type(content: Mapping[str, Any], doing: str, error: Exception) -> RecipeError:
    message = _one_line(str(error))
    if isinstance(error, OverflowError):
        name = next(_too_large(content, ""), "a number")
        return RecipeError(f"{doing}: {name} is too large ({message}).")
    found = re.match(r'Parser key "([a-z_.]+?)":', message)
    info = recipe_fields().get(found[1]) if found is not None else None
    if found is None or info is None:
        return RecipeError(f"{doing}: {message}")
    value: Any = content
    for part in found[1].split("."):
        value = value.get(part) if isinstance(value, Mapping) else value
    near = [str(option) for option in get_args(info.kind) if isinstance(option, str)]
    hint = f" {closest(str(value), near)}" if near else ""
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    return RecipeError(
        f"{doing}: {found[1]} must be {describe_type(info.kind)}, found {shown}.{hint}"
    )


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
    known = recipe_fields()
    parts = {name.partition(".")[0] for name in known if "." in name}
    for name in _given(content, parts):
        if name in parts:
            raise RecipeError(
                f"{doing}: {name} is a section with fields of its own, but a value was found. "
                f"{closest(name, known)}"
            )
        if name not in known:
            raise RecipeError(f"{doing}: there is no field {name}. {_suggest(name, known)}")


def _suggest(name: str, known: Iterable[str]) -> str:
    # A field of this name in another section is closer than any other spelling.
    own = name.rpartition(".")[2]
    moved = [other for other in known if own in other.split(".")]
    return f"Closest: {', '.join(moved[:3])}." if moved else closest(name, known)


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
