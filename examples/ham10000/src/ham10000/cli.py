"""The command `ham10000`: arguments in, one line of error out."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from ham10000 import __version__
from ham10000.commands import COMMANDS
from ham10000.data.facts import WIDTH
from ham10000.data.sources import PARTS, SOURCES
from ham10000.errors import Ham10000Error

__all__ = ["build_parser", "main"]


def build_parser() -> ArgumentParser:
    """Return the parser, with a subcommand for each of `COMMANDS`."""
    parser = ArgumentParser(
        prog="ham10000",
        formatter_class=_Formatter,
        description="HAM10000 from the download to batches, with no lesion in two splits.",
        version=__version__,
    )
    subcommands = parser.add_subcommands(dest="command")
    for name, function in COMMANDS.items():
        text = " ".join((function.__doc__ or "").partition("Args:")[0].split())
        command = ArgumentParser(description=text, formatter_class=_Formatter)
        _ARGUMENTS[name](command)
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
    options = build_parser().parse_args(None if arguments is None else list(arguments))
    chosen = options[options.command].as_dict()
    chosen.pop("config", None)
    try:
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


def _download(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="the data set's folder")
    parser.add_argument(
        "--source", choices=[*SOURCES, "kaggle"], default="dataverse", help="where from"
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=["images", "metadata"],
        help="what; masks and the official test set are optional",
    )
    parser.add_argument(
        "--mirror", help="an address that serves the source's files under their names"
    )


def _verify(parser: ArgumentParser) -> None:
    _data(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--pairs-out", type=Path, help="write the near-duplicates here, for split --pairs"
    )
    _workers(parser)


def _split(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    _data(parser)
    parser.add_argument(
        "--protocol",
        choices=["paper", "honest", "kfold"],
        default="honest",
        help="the authors' rule; with a validation set of its own; or in folds",
    )
    _seed(parser)
    parser.add_argument("--folds", type=int, default=5, help="how many, with kfold")
    parser.add_argument(
        "--pairs",
        type=Path,
        help="near-duplicates as verify --pairs-out wrote them; looked for unless given",
    )


def _prepare(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="the cache's folder")
    _size(parser, required=True)
    _data(parser)
    parser.add_argument("--masks", action="store_true", help="put the lesion masks in too")
    _workers(parser)


def _augment_offline(parser: ArgumentParser) -> None:
    parser.add_argument("--split", type=Path, required=True, help="who trains; from split")
    parser.add_argument("--out", type=Path, help="the folder to make")
    _data(parser)
    _size(parser, default=299)
    _seed(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="only say how many files there would be"
    )
    _workers(parser)


def _synthesize(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    parser.add_argument("--images", type=int, default=1000, help="how many")
    _seed(parser)
    parser.add_argument(
        "--width", type=int, default=WIDTH, help="of an image, in pixels; its height is 3/4 of it"
    )
    _workers(parser)


def _explore(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="where explore.html goes")
    _data(parser)
    _seed(parser)
    _workers(parser)


def _data(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, help="the data set's folder; what HAM10000_DIR names unless given"
    )


def _seed(parser: ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")


def _size(parser: ArgumentParser, *, required: bool = False, default: int | None = None) -> None:
    parser.add_argument(
        "--size",
        type=int,
        required=required,
        default=default,
        help="images become so many pixels wide and high",
    )


def _workers(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=int, help="how many threads; as many as there are cores unless given"
    )


_ARGUMENTS: dict[str, Callable[[ArgumentParser], None]] = {
    "download": _download,
    "verify": _verify,
    "split": _split,
    "prepare": _prepare,
    "augment-offline": _augment_offline,
    "synthesize": _synthesize,
    "explore": _explore,
}
