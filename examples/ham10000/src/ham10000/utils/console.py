"""The console that commands print to."""

from rich.console import Console

__all__ = ["console"]


def console() -> Console:
    """Return a console for standard output."""
    return Console(highlight=False)
