"""The command `softattn`."""

from softattn.cli.main import main

__all__ = ["main"]
