"""Entry point of the command `ham10000`: parse arguments, run the command, report errors."""

import ast
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Literal

from ham10000 import __version__
from ham10000.errors import Ham10000Error, closest

__all__ = ["COMMANDS", "main", "parse_command"]

COMMANDS = {
    "download": "data",
    "verify": "data",
    "synthesize": "data",
    "explore": "data",
    "split": "data",
    "prepare": "data",
    "augment-offline": "data",
    "recipes": "training",
    "features": "training",
    "train": "training",
    "runs": "training",
    "predict": "training",
    "export": "training",
    "app": "training",
    "evaluate": "evaluation",
    "compare": "evaluation",
    "tables": "evaluation",
    "ensemble": "evaluation",
    "submission": "evaluation",
    "localise": "evaluation",
    "explain": "evaluation",
    "report": "evaluation",
    "study": "study",
    "reproduce": "study",
    "demo": "study",
    "completion": "main",
}
"""Module in `ham10000.cli` of each command. The function has the name of the command."""

_DESCRIPTION = "Train and evaluate classifiers of skin lesions on HAM10000."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Errors of ham10000 are printed as one line on standard error.

    Args:
        arguments: Command line without the program's name. Defaults to `sys.argv[1:]`.

    Returns:
        Exit status: 0, 1 after an error or if the data set is not usable, 75 if a training run was
        stopped and can be resumed, 130 after Ctrl-C. Invalid arguments exit with 2.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return parse_command(given)()
    except Ham10000Error as error:
        print(f"ham10000: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ham10000: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has closed the pipe, as in: ham10000 verify | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def parse_command(arguments: Sequence[str]) -> "partial[int]":
    """Parse a command line.

    Example:
        >>> from ham10000.cli import parse_command
        >>> command = parse_command(["verify", "--data", "ham10000"])
        >>> command.func.__name__, command.keywords["data"]
        ('verify', PosixPath('ham10000'))

    Returns:
        The function of the command with its arguments.

    Raises:
        RecipeError: A recipe field does not exist.
        SystemExit: The arguments are invalid, or ask for help or the version.
    """
    name, *rest = arguments or ["--help"]
    if name not in COMMANDS:
        raise SystemExit(_without_command(name))
    function = _function(name)
    from ham10000.cli.options import parse

    return parse(name, function, rest)


def completion(shell: Literal["bash", "zsh", "tcsh"], /) -> int:
    """Print a script that completes commands and options in a shell.

    In bash: eval "$(ham10000 completion bash)"

    Args:
        shell: The shell.
    """
    from ham10000.cli.options import completion_script

    print(completion_script(shell, {name: _function(name) for name in COMMANDS}))
    return 0


def _function(name: str) -> Callable[..., int]:
    # Commands are imported when they run, so that --version and --help need no torch.
    module = import_module(f"ham10000.cli.{COMMANDS[name]}")
    function: Callable[..., int] = getattr(module, name.replace("-", "_"))
    return function


def _without_command(name: str) -> int:
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"ham10000 {__version__}")
        return 0
    print(
        f"ham10000: error: there is no command {name!r}. {closest(name, COMMANDS)} "
        "All of them: ham10000 --help.",
        file=sys.stderr,
    )
    return 2


def _help() -> str:
    lines = ["usage: ham10000 COMMAND ...", "", _DESCRIPTION, "", "commands:"]
    for name, module in COMMANDS.items():
        lines += textwrap.wrap(
            _summary(name, module), 80, initial_indent=f"  {name:17}", subsequent_indent=" " * 19
        )
    lines += ["", "options:", "  --version          Show the version.", ""]
    lines += ["Options of a command: ham10000 COMMAND --help"]
    return "\n".join(lines)


def _summary(name: str, module: str) -> str:
    """Return the first line of the docstring of a command, without importing its module."""
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    wanted = name.replace("-", "_")
    (found,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == wanted)
    return (ast.get_docstring(found) or "").partition("\n")[0]
