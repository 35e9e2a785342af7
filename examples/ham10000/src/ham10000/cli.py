"""The command `ham10000`: arguments in, one line of error out."""

import argparse
import os
import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from ham10000 import __version__
from ham10000.commands import ARGUMENTS, COMMANDS
from ham10000.errors import Ham10000Error
from ham10000.recipe import spell_out

__all__ = ["build_parser", "main"]


def build_parser() -> ArgumentParser:
    """Return the parser, with a subcommand for each of `COMMANDS`."""
    parser = ArgumentParser(
        prog="ham10000",
        formatter_class=_Formatter,
        description="HAM10000 from the download to a report, with no lesion in two splits.",
        version=__version__,
    )
    subcommands = parser.add_subcommands(dest="command")
    for name, function in COMMANDS.items():
        text = " ".join((function.__doc__ or "").partition("Args:")[0].split())
        command = ArgumentParser(description=text, formatter_class=_Formatter)
        ARGUMENTS[name](command)
        subcommands.add_subcommand(name, command, help=text.partition(". ")[0])
    return parser


class _Formatter(DefaultHelpFormatter):
    """Help that gives defaults where there are some, and no names of Python's types."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.default in (None, False, argparse.SUPPRESS) or action.required:
            return text
        default = action.default
        shown = " ".join(default) if isinstance(default, list) else default
        return f"{text} (default: {shown})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and turn what ham10000 refuses into one line on standard error.

    Returns:
        The exit status: 0, or 1 if the data set isn't usable or something was refused. Arguments
        that don't parse exit with 2, an interruption with 130.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["train"]:  # takes part.field=value too
            given = spell_out(given)
        options = build_parser().parse_args(given)
        chosen = options[options.command].as_dict()
        chosen.pop("config", None)
        return COMMANDS[options.command](**chosen)
    except Ham10000Error as error:
        print(f"ham10000: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ham10000: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away: ham10000 verify | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
