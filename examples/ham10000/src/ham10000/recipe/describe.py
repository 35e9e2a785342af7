"""What a recipe's fields are called, mean and can be, in words."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse_from_object

from ham10000.recipe.fields import Recipe

__all__ = ["Described", "describe_fields", "describe_type"]

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    NoneType: "null",
}


@dataclass(frozen=True)
class Described:
    """A field of a recipe.

    Attributes:
        kind: its type, as annotated.
        default: its default, or the dataclass's mark that it has none.
        text: what is said about it.
    """

    kind: Any
    default: Any
    text: str


def describe_fields(kind: type = Recipe, prefix: str = "") -> dict[str, Described]:
    """Describe each field of a recipe, by its name as `part.field`.

    Example:
        >>> from ham10000.recipe.describe import describe_fields
        >>> described = describe_fields()["training.epochs"]
        >>> described.default, described.text
        (10, "How often the sampler's epoch is drawn, at most.")
    """
    return dict(_described(kind, prefix))


def describe_type(kind: Any) -> str:
    """Say what a type takes.

    Example:
        >>> from typing import Literal
        >>> from ham10000.recipe.describe import describe_type
        >>> describe_type(float | None), describe_type(Literal["min", "max"])
        ('a number or null', 'one of min, max')
    """
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, arguments))}" if arguments[1:] else str(arguments[0])
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(describe_type, arguments))
    if get_origin(kind) is tuple:
        return f"a list of {len(arguments)} numbers"
    if get_origin(kind) is dict:
        return "numbers by name, as {mel: 5}"
    return _WORDS[kind]


def _described(kind: type, prefix: str) -> Iterator[tuple[str, Described]]:
    hints = get_type_hints(kind)
    texts = {p.arg_name: p.description or "" for p in parse_from_object(kind).params}
    for field in fields(kind):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        if is_dataclass(hint):
            yield from _described(hint, f"{name}.")  # type: ignore[arg-type]
        else:
            text = " ".join(texts.get(field.name, "").split())
            yield name, Described(hint, field.default, text)
