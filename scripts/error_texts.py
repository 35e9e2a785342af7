"""The text of every error that the two packages raise, and which of them Troubleshooting lacks.

    python scripts/error_texts.py             # every text, with the place that raises it
    python scripts/error_texts.py --missing   # headings to paste, and those that nothing raises

Reads the source and runs nothing. What a message takes from its surroundings is shown as "…".
"""

import argparse
import ast
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (ROOT / "src" / "softattn", ROOT / "examples" / "ham10000" / "src" / "ham10000")
PAGE = ROOT / "docs" / "guides" / "troubleshooting.md"
HOLE = "…"

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
# Of a function that builds an error, arguments that are no part of what went wrong.
NO_REASON = {"doing", "package", "extra"}


class ErrorText(NamedTuple):
    """A message, and where it is."""

    text: str
    path: Path
    line: int


def error_texts(source: Path) -> list[ErrorText]:
    """Find the messages of a package's own errors, in the order of its files and lines."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(source.rglob("*.py"))}
    functions = [f for tree in trees.values() for f in ast.walk(tree) if isinstance(f, Function)]
    errors = ast.walk(trees[source / "errors.py"])
    classes = {node.name for node in errors if isinstance(node, ast.ClassDef)}
    makers = {f.name: f for f in functions if _name(f.returns) in classes}
    found = {
        ErrorText(text, path, line): None
        for path, tree in trees.items()
        for text, line in _messages(Scope(tree, {}), classes, makers)
    }
    return sorted(found, key=lambda error: (error.path, error.line))


class Scope:
    """A module or a function, and what the names in it stand for."""

    def __init__(self, node: ast.Module | Function, outer: "dict[str, Meaning]") -> None:
        self.own: list[ast.AST] = []
        self.functions: list[Function] = []
        waiting: list[ast.AST] = list(ast.iter_child_nodes(node))
        while waiting:
            inner = waiting.pop()
            if isinstance(inner, Function):
                self.functions.append(inner)
            else:
                self.own.append(inner)
                waiting += ast.iter_child_nodes(inner)
        values: dict[str, list[Meaning]] = {f.name: [f] for f in self.functions}
        for inner in self.own:
            if isinstance(inner, ast.Assign) and isinstance(inner.targets[0], ast.Name):
                values.setdefault(inner.targets[0].id, []).append(inner.value)
        once = {name: found[0] for name, found in values.items() if len(found) == 1}
        hidden = {inner.arg for inner in self.own if isinstance(inner, ast.arg)} | set(values)
        kept = {name: meaning for name, meaning in outer.items() if name not in hidden}
        self.names: dict[str, Meaning] = {**kept, **once}

    def messages(self, node: ast.expr) -> list[str]:
        """Give the texts of a message, also where a function of the same file writes it."""
        function = self.names.get(_name(node.func)) if isinstance(node, ast.Call) else None
        if not isinstance(function, Function):
            return self.texts(node)
        inside = Scope(function, self.names)
        returns = [n.value for n in inside.own if isinstance(n, ast.Return) and n.value]
        return [text for value in returns for text in inside.texts(value)]

    def texts(self, node: ast.expr, seen: frozenset[str] = frozenset()) -> list[str]:
        """Give what an expression may be as text, with "…" for all that isn't written there."""
        parts: list[list[str]] = [[HOLE]]
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = [[node.value]]
        elif isinstance(node, ast.JoinedStr):
            parts = [self.texts(part, seen) for part in node.values]
        elif isinstance(node, ast.FormattedValue):
            parts = [self.texts(node.value, seen)]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            parts = [self.texts(node.left, seen), self.texts(node.right, seen)]
        elif isinstance(node, ast.Name) and node.id not in seen:
            meaning = self.names.get(node.id)
            if isinstance(meaning, ast.expr):
                parts = [self.texts(meaning, seen | {node.id})]
        return ["".join(chosen) for chosen in itertools.product(*parts)]


Meaning: TypeAlias = ast.expr | Function


def _messages(
    scope: Scope, classes: set[str], makers: dict[str, Function]
) -> Iterator[tuple[str, int]]:
    """Give the messages that errors are built with, and the reasons for functions that build."""
    for node in scope.own:
        if not isinstance(node, ast.Call):
            continue
        arguments = []
        if _name(node.func) in classes:
            arguments = node.args[:1]
        elif _name(node.func) in makers:
            names = [a.arg for a in makers[_name(node.func)].args.args if a.arg != "self"]
            given = zip(names, node.args, strict=False)
            arguments = [value for name, value in given if name not in NO_REASON]
        for text in (text for argument in arguments for text in scope.messages(argument)):
            text = re.sub(rf"{HOLE}(\s*{HOLE})+", HOLE, re.sub(r"\s+", " ", text)).strip()
            if len(re.findall(r"\w+", text)) > 1:
                yield text, node.lineno
    for function in scope.functions:
        yield from _messages(Scope(function, scope.names), classes, makers)


def _name(node: ast.AST | None) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Constant):
        return str(node.value)
    return node.id if isinstance(node, ast.Name) else ""


def headings(page: str) -> list[str]:
    """Give the texts that the page has as headings, in its order."""
    return re.findall(r"^#+ `+ ?(.+?) ?`+$", page, re.MULTILINE)


def main() -> int:
    """Print the texts, or with `--missing` what differs between them and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--missing", action="store_true")
    options = parser.parse_args()
    found = [error for source in SOURCES for error in error_texts(source)]
    if not options.missing:
        for error in found:
            print(f"{error.path.relative_to(ROOT)}:{error.line}: {error.text}")
        return 0
    there = set(headings(PAGE.read_text()))
    missing = [error for error in found if error.text not in there]
    for error in missing:
        print(f"{error.path.relative_to(ROOT)}:{error.line}\n\n#### `{error.text}`\n")
    stale = sorted(there - {error.text for error in found})
    for text in stale:
        print(f"nothing raises: {text}")
    return 1 if missing or stale else 0


if __name__ == "__main__":
    sys.exit(main())
