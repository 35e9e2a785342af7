"""The errors that softattn raises, and nothing else.

Each is a `SoftAttnError` and also the built-in error that a caller would expect, so that both
`except softattn.SoftAttnError` and `except ValueError` do what they say. Each message says what
was being done, what was found, and what would work.
"""

import difflib
from collections.abc import Iterable


class SoftAttnError(Exception):
    """Anything that softattn refuses to do."""


class ArgumentError(SoftAttnError, ValueError):
    """An argument has a value that can't work."""


class ArgumentTypeError(SoftAttnError, TypeError):
    """An argument is of a type that can't work."""


class ShapeError(SoftAttnError, ValueError):
    """A tensor has a shape that can't work."""


class WeightsError(SoftAttnError, ValueError):
    """Weights can't be read, found, or put into the module."""


class ModelError(SoftAttnError, ValueError):
    """A model isn't what the call needs."""


class MissingExtraError(SoftAttnError, ImportError):
    """A package that an extra of softattn brings is not installed."""


def missing_extra(doing: str, package: str, extra: str) -> MissingExtraError:
    """Say which extra brings the package that something needs."""
    return MissingExtraError(
        f"{doing} needs {package}, which is not installed. "
        f"Install it with: pip install 'softattn[{extra}]'"
    )


def closest(name: str, options: Iterable[str], count: int = 3) -> str:
    """Say which options are nearest to a name that is none of them, as the end of a message.

    >>> from softattn.errors import closest
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
    """List names for a message, and say how many more there are.

    >>> from softattn.errors import listed
    >>> listed(["a", "b", "c"], most=2)
    'a, b, and 1 more'
    """
    names = list(names)
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "nothing"
