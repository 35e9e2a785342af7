"""The commands: what each does, and how its arguments are read, in groups of one file each."""

from collections.abc import Callable

from jsonargparse import ArgumentParser

from ham10000.commands import evaluation, preparation, reporting, sets, study, training

__all__ = ["ARGUMENTS", "COMMANDS"]


_GROUPS = (sets, preparation, training, evaluation, study, reporting)

COMMANDS: dict[str, Callable[..., int]] = {
    name: function for group in _GROUPS for name, function in group.COMMANDS.items()
}
"""What each command runs."""

ARGUMENTS: dict[str, Callable[[ArgumentParser], None]] = {
    name: add for group in _GROUPS for name, add in group.ARGUMENTS.items()
}
"""What adds a command's arguments to its parser."""
