"""The command `ham10000`."""

from ham10000.cli.main import COMMANDS, main, parse_command

__all__ = ["COMMANDS", "main", "parse_command"]
