"""Recipe fields by name, with types, ranges and descriptions, and the check of their values."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse_from_object

from ham10000.data import find_dataset
from ham10000.errors import Ham10000Error, RecipeError, closest
from ham10000.recipe.recipe import MAP_LAYERS, LossRecipe, OneOf, Range, Recipe

__all__ = ["FieldInfo", "check_values", "describe_type", "field_values", "recipe_fields"]

_TYPES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    NoneType: "null",
}
_LARGEST = 2**63
"""Limit of whole numbers; larger ones overflow in torch or when converted to float."""


@dataclass(frozen=True)
class FieldInfo:
    """Description of a recipe field.

    Attributes:
        kind: Type, as annotated, without ranges.
        default: Default value, or `dataclasses.MISSING`.
        text: Description, without the type.
        range: Allowed range of the numbers.
        options: Allowed values or keys.
    """

    kind: Any
    default: Any
    text: str
    range: Range | None = None
    options: OneOf | None = None


@cache
def recipe_fields() -> Mapping[str, FieldInfo]:
    """Return all fields of a recipe by name, `section.field`.

    Example:
        >>> from ham10000.recipe import recipe_fields
        >>> info = recipe_fields()["training.epochs"]
        >>> info.default, info.text, str(info.range)
        (10, 'Largest number of epochs.', 'more than 0')
    """
    return dict(_recipe_fields(Recipe, ""))


def field_values(recipe: Recipe) -> dict[str, Any]:
    """Return the values of all fields by name, `section.field`.

    Example:
        >>> from ham10000.recipe import Recipe, field_values
        >>> field_values(Recipe("mine"))["training.epochs"]
        10
    """
    return {name: attrgetter(name)(recipe) for name in recipe_fields()}


def describe_type(kind: Any) -> str:
    """Return a type in words.

    Example:
        >>> from typing import Literal
        >>> from ham10000.recipe.fields import describe_type
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
    return _TYPES[kind]


def check_values(recipe: Recipe, doing: str) -> None:
    """Check the values of a recipe that its types leave open.

    Args:
        recipe: The recipe.
        doing: What is being done, as the start of the message.

    Raises:
        RecipeError: A value is out of range, or two values contradict each other.
    """
    for name, info in recipe_fields().items():
        _check_value(name, attrgetter(name)(recipe), info, doing)
    _check_attention(recipe, doing)
    _check_dataset(recipe, doing)
    model, loss, schedule = recipe.model, recipe.loss, recipe.schedule
    if model.frozen and recipe.data.offline is not None:
        raise RecipeError(
            f"{doing}: model.frozen trains on the features of each image, which are computed once, "
            f"and data.offline is {recipe.data.offline}. Remove one of them."
        )
    if model.pretrained and model.weights is not None:
        raise RecipeError(
            f"{doing}: model.pretrained and model.weights both set the initial weights of the "
            "backbone. Set only one of them."
        )
    if model.fusion != "late" and not recipe.data.metadata:
        raise RecipeError(
            f"{doing}: model.fusion {model.fusion} combines the image with metadata, and "
            "data.metadata is false. Set data.metadata to true, or remove model.fusion."
        )
    if schedule.name == "plateau" and schedule.warmup_epochs:
        raise RecipeError(
            f"{doing}: the schedule plateau has no schedule.warmup_epochs. Remove it."
        )
    if schedule.warmup_epochs >= recipe.training.epochs:
        raise RecipeError(
            f"{doing}: schedule.warmup_epochs must be less than training.epochs "
            f"({recipe.training.epochs}), found {schedule.warmup_epochs}."
        )
    if recipe.data.metadata and recipe.data.mix != "none":
        raise RecipeError(
            f"{doing}: data.mix {recipe.data.mix} mixes two images, and data.metadata is of single "
            "ones. Remove one of them."
        )
    if model.head == "rest" and model.drop_rate:
        raise RecipeError(
            f"{doing}: model.head rest is the backbone's own, which model.drop_rate "
            f"{model.drop_rate} does not change. Remove one of them."
        )
    if loss.dx_type_weights is not None and recipe.data.mix != "none":
        raise RecipeError(
            f"{doing}: loss.dx_type_weights are of single images, and data.mix {recipe.data.mix} "
            "mixes two. Remove one of them."
        )
    if loss.name == "multi_weighted":
        _check_multi_weighted(loss, doing)
    if loss.class_weights is not None and loss.name == "class_balanced":
        raise RecipeError(
            f"{doing}: loss.class_weights and loss.name class_balanced both weight the classes. "
            "Remove one of them."
        )


def _check_dataset(recipe: Recipe, doing: str) -> None:
    try:
        info = find_dataset(recipe.data.set)
    except Ham10000Error as error:
        raise RecipeError(f"{doing}: data.set {recipe.data.set!r}: {error}") from error
    weights = recipe.loss.class_weights
    for name in weights if isinstance(weights, dict) else ():
        if name not in info.classes:
            raise RecipeError(
                f"{doing}: loss.class_weights has {name!r}, which is not a class of {info.title}. "
                f"{closest(name, info.classes)}"
            )
    if recipe.data.protocol == "published" and not info.has_published_split:
        raise RecipeError(
            f"{doing}: data.protocol is published, and {info.title} has no published split. Set "
            "data.protocol to lesion."
        )


def _check_multi_weighted(loss: LossRecipe, doing: str) -> None:
    for name in ("class_weights", "label_smoothing", "logit_adjustment"):
        if getattr(loss, name):
            raise RecipeError(
                f"{doing}: loss.{name} has no effect with loss.name multi_weighted, which has "
                "weights of its own. Remove it."
            )
    if loss.cumulative is not None and loss.cumulative[0] >= loss.cumulative[1]:
        raise RecipeError(
            f"{doing}: loss.cumulative must be two increasing epochs, found "
            f"{list(loss.cumulative)}."
        )


def _check_attention(recipe: Recipe, doing: str) -> None:
    attention = recipe.attention
    if attention.kernel_size % 2 == 0:
        raise RecipeError(
            f"{doing}: attention.kernel_size must be odd, found {attention.kernel_size}."
        )
    if attention.layer == "none":
        return
    if recipe.model.activation != "none":
        raise RecipeError(
            f"{doing}: model.activation {recipe.model.activation} is for models without attention, "
            f"and attention.layer is {attention.layer}. Set model.activation to none."
        )
    used, setting = {"layer"}, f"attention.layer {attention.layer}"
    if attention.layer in MAP_LAYERS:
        used |= {"block", "num_maps", "aggregate"}
        used |= {"pool", "drop_rate"} if attention.block == "paper" else {"concat"}
        setting += f" and attention.block {attention.block}"
    if attention.layer in ("soft", "placebo"):
        used |= {"kernel_size", "gamma"}
    for field in fields(attention):
        value = getattr(attention, field.name)
        if field.name not in used and value != field.default:
            raise RecipeError(
                f"{doing}: attention.{field.name} has no effect with {setting}. Remove it, or set "
                f"it to its default, {_short(field.default)}; found {_short(value)}."
            )


def _recipe_fields(kind: type, prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    hints = get_type_hints(kind, include_extras=True)
    texts = {p.arg_name: p.description or "" for p in parse_from_object(kind).params}
    for field in fields(kind):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        if is_dataclass(hint):
            yield from _recipe_fields(hint, f"{name}.")  # type: ignore[arg-type]
            continue
        limits: list[Any] = []
        if get_origin(hint) is Annotated:
            hint, *limits = get_args(hint)
        yield (
            name,
            FieldInfo(
                hint,
                field.default,
                " ".join(texts.get(field.name, "").split()),
                next((limit for limit in limits if isinstance(limit, Range)), None),
                next((limit for limit in limits if isinstance(limit, OneOf)), None),
            ),
        )


def _check_value(name: str, value: Any, info: FieldInfo, doing: str) -> None:
    # jsonargparse takes null for every field of a dataclass.
    if value is None and NoneType not in get_args(info.kind):
        raise RecipeError(f"{doing}: {name} must be {describe_type(info.kind)}, found null.")
    for key, number in _numbers(value):
        of = f"{name} of {key}" if key else name
        shown = _short(number if key else value)
        if isinstance(number, int) and abs(number) >= _LARGEST:
            raise RecipeError(f"{doing}: {of} must be less than 2^63, found {shown}.")
        if info.range is not None and number not in info.range:
            raise RecipeError(f"{doing}: {of} must be {info.range}, found {shown}.")
        if not math.isfinite(number):
            raise RecipeError(f"{doing}: {of} must be a finite number, found {shown}.")
    if info.options is None:
        return
    for option in value if isinstance(value, dict) else [value] if info.kind is str else []:
        if option not in info.options.options:
            raise RecipeError(
                f"{doing}: {name} has no option {option!r}. {closest(option, info.options.options)}"
            )


def _numbers(value: Any) -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [(str(key), number) for key, number in value.items()]
    values = value if isinstance(value, tuple) else (value,)
    return [("", v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]


def _short(value: Any) -> str:
    text = str(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
