"""Argument checks, and the parts of error messages that several modules share."""

import difflib
import math
import operator
from collections.abc import Iterable
from numbers import Real

from torch import Tensor

from softattn.errors import ArgumentError, ArgumentTypeError, MissingExtraError


def whole_number(doing: str, name: str, value: object, *, least: int = 1) -> int:
    """Return `value` as an int of at least `least`, or raise an error that names the argument."""
    expected = f"{doing}: {name} must be a whole number of at least {least}, found {value!r}"
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ArgumentTypeError(f"{expected} ({type(value).__name__}).")
    try:
        number = operator.index(value)
    except TypeError as error:  # of a tensor or an array with several elements
        raise ArgumentTypeError(f"{expected} ({type(value).__name__}).") from error
    if number < least:
        raise ArgumentError(f"{expected}.")
    return number


def finite_number(doing: str, name: str, value: object) -> float:
    """Return `value` as a float, or raise an error that names the argument."""
    expected = f"{doing}: {name} must be a finite number, found {value!r}"
    if isinstance(value, bool) or not isinstance(value, Real):  # NumPy's numbers too
        raise ArgumentTypeError(f"{expected} ({type(value).__name__}).")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ArgumentError(f"{expected}.")
    return number


def not_negative(doing: str, name: str, value: object) -> float:
    """Return `value` as a float of at least 0, or raise an error that names the argument."""
    number = finite_number(doing, name, value)
    if number < 0:
        raise ArgumentError(f"{doing}: {name} must be at least 0, found {value!r}.")
    return number


def flag(doing: str, name: str, value: object) -> bool:
    """Return `value` if it is a bool, or raise an error that names the argument."""
    if not isinstance(value, bool):
        raise ArgumentTypeError(
            f"{doing}: {name} must be True or False, found {value!r} ({type(value).__name__})."
        )
    return value


def fraction(doing: str, name: str, value: object) -> float:
    """Return `value` as a float between 0 and 1, or raise an error that names the argument."""
    number = finite_number(doing, name, value)
    if not 0 <= number <= 1:
        raise ArgumentError(f"{doing}: {name} must be between 0 and 1, found {value!r}.")
    return number


_SIZES = {1: "", 2: " or (height, width)", 3: " or (depth, height, width)"}


def odd_sizes(doing: str, name: str, value: object, count: int) -> tuple[int, ...]:
    """Return a size, or a tuple of `count` sizes, as a tuple of odd numbers of at least 1."""
    is_tuple = isinstance(value, tuple | list)
    sizes = tuple(value) if isinstance(value, tuple | list) else (value,) * count
    if len(sizes) != count:
        raise ArgumentError(f"{doing}: {name} must be one number{_SIZES[count]}, found {value!r}.")
    numbers = tuple(whole_number(doing, name, size) for size in sizes)
    if not all(number % 2 for number in numbers):
        below = tuple(number - 1 + number % 2 for number in numbers)
        above = tuple(number + 1 - number % 2 for number in numbers)
        nearest = (below, above) if is_tuple else (below[0], above[0])
        raise ArgumentError(
            f"{doing}: {name} must be odd, since an even kernel has no centre, found {value!r}. "
            f"Nearest: {nearest[0]} or {nearest[1]}."
        )
    return numbers


def missing_extra(doing: str, package: str, extra: str) -> MissingExtraError:
    """Return the error for a missing optional package, with the command that installs it."""
    return MissingExtraError(
        f"{doing} needs {package}, which is not installed. "
        f"Install it with: pip install 'softattn[{extra}]'"
    )


def closest(name: str, options: Iterable[str], count: int = 3) -> str:
    """Return the options closest to an unknown name, as the last sentence of a message.

    >>> from softattn._validation import closest
    >>> closest("layr4", ["layer3", "layer4", "fc"])
    'Closest: layer4, layer3.'
    """
    options = list(options)
    near = difflib.get_close_matches(name, options, n=count, cutoff=0.5)
    if near:
        return f"Closest: {', '.join(near)}."
    if not options:
        return "There are none."
    return f"There are: {listed(options, 10)}."


def listed(names: Iterable[str], most: int = 20) -> str:
    """Join names for a message; after `most` names, only count the rest.

    >>> from softattn._validation import listed
    >>> listed(["a", "b", "c"], most=2)
    'a, b, and 1 more'
    """
    names = list(names)
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "nothing"


def describe(value: object) -> str:
    """Describe a value, typically the output of a module, for a message.

    >>> import torch
    >>> from softattn._validation import describe
    >>> describe([torch.zeros(2, 3), torch.zeros(2, 4)])
    'a list of 2: a tensor (2, 3), a tensor (2, 4)'
    """
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return f"{_kind(value)} of {len(value)}: {', '.join(map(describe, value))}"
    if isinstance(value, dict):
        return f"a dict with {', '.join(map(str, value))}"
    return _kind(value)


def _kind(value: object) -> str:
    name = type(value).__name__
    # U is left out, since most names with it sound like UNet.
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"
