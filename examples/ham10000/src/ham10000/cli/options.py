"""Options of a command, from the signature of its function and from the fields of a recipe.

Positional-only parameters become positional arguments, keyword-only parameters become options, and
`**overrides` becomes an option for each recipe field: `--data.root DIR`, `--data.root=DIR` or
`data.root=DIR`. Descriptions are those of the docstring; parameters that several commands share are
described here.
"""

import argparse
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

import shtab
from docstring_parser import parse_from_object
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from ham10000.data import DATASETS, SPLITS
from ham10000.errors import RecipeError, closest
from ham10000.recipe import describe_type, recipe_fields
from ham10000.reporting import FigureFormat

__all__ = [
    "Data",
    "DataSet",
    "Figures",
    "Option",
    "RunFolder",
    "Seed",
    "Split",
    "Tta",
    "Workers",
    "add_recipe_fields",
    "completion_script",
    "parse",
    "recipe_overrides",
    "spell_out",
]

_CHANGE = re.compile(r"(--)?([A-Za-z_][\w-]*(\.[\w-]+)*)(=.*)?", re.DOTALL)


@dataclass(frozen=True)
class Option:
    """Properties of an option that its parameter cannot express.

    Attributes:
        help: Description; the one in the docstring if empty.
        name: Name without dashes, if it differs from that of the parameter.
        choices: Allowed values.
        group: Heading in the help below which the option is listed.
    """

    help: str = ""
    name: str = ""
    choices: Iterable[str] | None = None
    group: str = ""


Data = Annotated[Path | None, Option("Folder of the data set. Defaults to HAM10000_DIR.")]
DataSet = Annotated[
    str,
    Option(
        f"Name of the data set ({', '.join(DATASETS)}), or YAML file that describes it.", name="set"
    ),
]
Seed = Annotated[int, Option("Seed of the random numbers.")]
Workers = Annotated[int | None, Option("Number of threads. Defaults to the number of cores.")]
Split = Annotated[str, Option("Part of the split.", choices=SPLITS)]
RunFolder = Annotated[Path, Option("Folder of a run.")]
Figures = Annotated[FigureFormat, Option("Format of the figures.")]
Tta = Annotated[
    Literal[1, 2, 4, 8] | None,
    Option(
        "Number of views of an image whose probabilities are averaged. Defaults to training.tta of "
        "the recipe."
    ),
]


def parse(name: str, function: Callable[..., int], arguments: Sequence[str]) -> "partial[int]":
    """Parse the arguments of a command.

    Args:
        name: Name of the command.
        function: Function of the command.
        arguments: Command line after the name.

    Returns:
        The function with its arguments.

    Raises:
        RecipeError: A recipe field does not exist.
        SystemExit: The arguments are invalid, or ask for help.
    """
    parameters = inspect.signature(function).parameters.values()
    if _takes_fields(function):
        arguments = spell_out(arguments)
    parser = _parser(name, function, show_fields="--help-fields" in arguments)
    if "--help-fields" in arguments:
        arguments = ["--help"]
    # An option can be spelled with underscores too, as in --print_config.
    known = {flag for action in parser._actions for flag in action.option_strings}
    dashed = [each.replace("_", "-") for each in arguments]
    spelled = [new if new in known else old for old, new in zip(arguments, dashed, strict=True)]
    options = parser.parse_args(spelled).as_dict()
    options.pop("help_fields", None)
    positional = [options.pop(p.name) for p in parameters if p.kind is p.POSITIONAL_ONLY]
    return partial(function, *positional, **options)


def add_recipe_fields(parser: ArgumentParser, *, show: bool = True) -> None:
    """Add an option `--section.field VALUE` for each field of a recipe to a parser.

    The values are not parsed here: `recipe_overrides` collects them, and `load_recipe` checks them.

    Args:
        parser: Parser of a command.
        show: Whether the help contains the fields.
    """
    groups: dict[str, Any] = {}
    for name, info in recipe_fields().items():
        title = f"recipe: {name.partition('.')[0]}" if "." in name else "recipe"
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        text = f"{info.text} {describe_type(info.kind).capitalize()}."
        groups[title].add_argument(
            f"--{name}",
            metavar="VALUE",
            help=text.replace("%", "%%") if show else argparse.SUPPRESS,
        )


def recipe_overrides(options: dict[str, Any]) -> list[str]:
    """Remove recipe fields from the options of a command and return them for `load_recipe`.

    Example:
        >>> from ham10000.cli.options import recipe_overrides
        >>> options = {"out": "run", "seed": "3", "data": {"size": "64", "root": None}}
        >>> recipe_overrides(options), options
        (['seed=3', 'data.size=64'], {'out': 'run'})
    """
    names = {name.partition(".")[0] for name in recipe_fields()}
    given = {name: options.pop(name) for name in list(options) if name in names}
    return [f"{name}={value}" for name, value in _flat(given).items() if value is not None]


def spell_out(arguments: Sequence[str]) -> list[str]:
    """Replace each `section.field=value` of a command line by `--section.field=value`.

    Example:
        >>> from ham10000.cli.options import spell_out
        >>> spell_out(["train", "mine.yaml", "data.size=64"])
        ['train', 'mine.yaml', '--data.size=64']

    Raises:
        RecipeError: An argument has the form of a field, but there is no such field.
    """
    known = recipe_fields()
    spelled = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        found = _CHANGE.fullmatch(argument)
        if found is not None:
            option, name, dotted, value = found.groups()
            # An option without a dot may belong to the command, and a value may contain "=".
            meant = (option or value) if dotted else value and not (option or before[:2] == "--")
            if meant and name not in known and not Path(argument).exists():
                raise RecipeError(
                    f"reading {argument}: a recipe has no field {name}. {closest(name, known)}"
                )
            if name in known and value:
                argument = f"--{name}{value}"
        spelled.append(argument)
    return spelled


def completion_script(shell: str, functions: Mapping[str, Callable[..., int]]) -> str:
    """Return a script that completes commands and options in a shell.

    Args:
        shell: bash, zsh or tcsh.
        functions: Function of each command.
    """
    parsers = {f"ham10000 {name}": _parser(name, each) for name, each in functions.items()}
    whole = argparse.ArgumentParser(prog="ham10000")
    whole.add_argument("--version", action="version", help="Show the version.")

    def find(prog: str, **_: Any) -> Any:
        return parsers[prog]

    # argparse calls it to make a parser, so any function does.
    commands = whole.add_subparsers(parser_class=cast(type[ArgumentParser], find))
    for name, function in functions.items():
        commands.add_parser(name, help=(inspect.getdoc(function) or "").partition("\n")[0])
    script: str = shtab.complete(whole, shell)
    return script


def _takes_fields(function: Callable[..., int]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(each.kind is each.VAR_KEYWORD for each in parameters)


def _parser(name: str, function: Callable[..., int], *, show_fields: bool = True) -> ArgumentParser:
    docstring = parse_from_object(function)
    texts = {each.arg_name: each.description or "" for each in docstring.params}
    about = [docstring.short_description, docstring.long_description]
    parser = ArgumentParser(
        prog=f"ham10000 {name}",
        description="\n\n".join(text for text in about if text),
        formatter_class=_Formatter,
        epilog=_field_groups() if _takes_fields(function) and not show_fields else None,
    )
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {"": parser}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD:
            hint, option = _split_hint(hints[parameter.name])
            if option.group not in groups:
                groups[option.group] = parser.add_argument_group(option.group)
            text = option.help or texts.get(parameter.name, "")
            _add(groups[option.group], parameter, hint, option, text)
    if _takes_fields(function):
        parser.add_argument(
            "--help-fields", action="store_true", help="Show this message with all recipe fields."
        )
        add_recipe_fields(parser, show=show_fields)
    return parser


def _field_groups() -> str:
    counts = Counter(name.partition(".")[0] for name in recipe_fields() if "." in name)
    alone = [name for name in recipe_fields() if "." not in name]
    groups = ", ".join(f"{name} ({count})" for name, count in counts.items())
    return f"Fields of a recipe, which --help-fields lists: {', '.join(alone)}, {groups}."


def _split_hint(hint: Any) -> tuple[Any, Option]:
    """Return the type of a parameter without `None`, and the properties of its option."""
    option = Option()
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        option = next(each for each in extras if isinstance(each, Option))
    if NoneType in get_args(hint):
        hint = next(each for each in get_args(hint) if each is not NoneType)
    return hint, option


def _add(parser: Any, parameter: inspect.Parameter, hint: Any, option: Option, text: str) -> None:
    required = parameter.default is parameter.empty
    arguments: dict[str, Any] = {"help": " ".join(text.split())}
    if not required:
        default = parameter.default
        # jsonargparse changes the items of a default in place.
        arguments["default"] = list(default) if isinstance(default, tuple) else default
    if hint is bool:
        arguments["action"] = "store_true"
    else:
        if get_origin(hint) is Sequence:
            (hint,) = get_args(hint)
            arguments["nargs"] = "+" if required else "*"
        choices = get_args(hint) if get_origin(hint) is Literal else option.choices
        if choices is not None:
            arguments["choices"] = list(choices)
        arguments["type"] = type(arguments["choices"][0]) if choices is not None else hint
    if parameter.kind is parameter.POSITIONAL_ONLY:
        if not required:
            arguments.setdefault("nargs", "?")
        _complete(parser.add_argument(parameter.name, **arguments), hint)
        return
    flag = (option.name or parameter.name).replace("_", "-")
    if hint is not bool:
        arguments["required"] = required
        if "choices" not in arguments:
            arguments["metavar"] = _METAVARS.get(hint, "TEXT")
        # argparse would print the choices twice, or in a line that is too long.
        elif "nargs" in arguments or len(", ".join(map(str, choices or ()))) > _MOST_CHOICES:
            arguments["metavar"] = parameter.name.removesuffix("s").upper()
            arguments["help"] += f" Choices: {', '.join(arguments['choices'])}."
    _complete(parser.add_argument(f"--{flag}", dest=parameter.name, **arguments), hint)


def _complete(action: argparse.Action, hint: Any) -> None:
    if hint is Path:
        action.complete = shtab.FILE  # type: ignore[attr-defined]  # an attribute that shtab reads


_METAVARS = {int: "N", float: "X", Path: "PATH"}

_MOST_CHOICES = 48
"""Length of choices that fit in a line of 80 columns after the name of their option."""


class _Formatter(DefaultHelpFormatter):
    """Help with the defaults that are worth showing, and with paragraphs in descriptions."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        default = action.default
        if default in (None, [], argparse.SUPPRESS) or default is False or action.required:
            return text
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        return f"{text} (default: {shown})"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        return "\n\n".join(super(_Formatter, self)._fill_text(p, width, indent) for p in paragraphs)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
