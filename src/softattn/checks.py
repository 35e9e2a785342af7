"""Checks of arguments that more than one module takes."""

import math
import operator

from softattn.errors import ArgumentError, ArgumentTypeError


def whole_number(doing: str, name: str, value: object, *, least: int = 1) -> int:
    """Return `value` as an int of at least `least`, or raise an error that names the argument."""
    expected = f"{doing}: {name} must be a whole number of at least {least}, found {value!r}"
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ArgumentTypeError(f"{expected} ({type(value).__name__}).")
    number = operator.index(value)
    if number < least:
        raise ArgumentError(f"{expected}.")
    return number


def finite_number(doing: str, name: str, value: object) -> float:
    """Return `value` as a float, or raise an error that names the argument."""
    expected = f"{doing}: {name} must be a finite number, found {value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentTypeError(f"{expected} ({type(value).__name__}).")
    if not math.isfinite(value):
        raise ArgumentError(f"{expected}.")
    return float(value)


def fraction(doing: str, name: str, value: object) -> float:
    """Return `value` as a float between 0 and 1, or raise an error that names the argument."""
    number = finite_number(doing, name, value)
    if not 0 <= number <= 1:
        raise ArgumentError(f"{doing}: {name} must be between 0 and 1, found {value!r}.")
    return number


def odd_pair(doing: str, name: str, value: object) -> tuple[int, int]:
    """Return a size, or a (height, width) of sizes, as a pair of odd numbers of at least 1."""
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2:
        raise ArgumentError(
            f"{doing}: {name} must be one number or (height, width), found {value!r}."
        )
    height, width = (whole_number(doing, name, size) for size in pair)
    if height % 2 == 0 or width % 2 == 0:
        below = (height - 1 + height % 2, width - 1 + width % 2)
        above = (height + 1 - height % 2, width + 1 - width % 2)
        nearest = (below, above) if isinstance(value, tuple | list) else (below[0], above[0])
        raise ArgumentError(
            f"{doing}: {name} must be odd, since an even kernel has no centre, found {value!r}. "
            f"Nearest: {nearest[0]} or {nearest[1]}."
        )
    return height, width
