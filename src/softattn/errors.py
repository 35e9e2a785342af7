"""Exception classes.

Each derives from `SoftAttnError` and from the built-in exception that fits, so both
`except softattn.SoftAttnError` and `except ValueError` work. Messages say what was being done,
what was found, and what would work.
"""


class SoftAttnError(Exception):
    """Base class of all exceptions that softattn raises."""


class ArgumentError(SoftAttnError, ValueError):
    """An argument has an invalid value."""


class ArgumentTypeError(SoftAttnError, TypeError):
    """An argument has an invalid type."""


class ShapeError(SoftAttnError, ValueError):
    """A tensor has an invalid shape."""


class WeightsError(SoftAttnError, ValueError):
    """Weights can't be read, or don't fit the module."""


class ModelError(SoftAttnError, ValueError):
    """A model doesn't support what was requested."""


class MissingExtraError(SoftAttnError, ImportError):
    """An optional dependency isn't installed."""
