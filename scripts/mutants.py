"""Change each operator, number and keyword of functional.py in turn; its tests must notice each.

    python scripts/mutants.py [--filter REGEX]

cosmic-ray makes the mutants. Each is tested in a fork of a process that has torch loaded already,
on a copy of the checkout, which makes a run some minutes long. Prints the mutants that no test
noticed, and fails if there are any.
"""

import argparse
import ast
import contextlib
import difflib
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Loaded here, so that no mutant has to; softattn itself is loaded by each.
import hypothesis  # noqa: F401
import numpy  # noqa: F401
import pytest
import torchvision  # noqa: F401
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
MODULE = Path("src/softattn/functional.py")
TESTS = "tests/test_functional.py"
# | and decorators (@overload) stand for types alone there, and operators on variables want to be
# told which.
LEFT_OUT = re.compile(r"ReplaceBinaryOperator_BitOr_|RemoveDecorator|Variable(Inserter|Replacer)")
SECONDS = 300


def mutants(source: str, pattern: str) -> Iterator[tuple[str, str]]:
    """Yield the name of an operator and the mutated source, for each place where it applies."""
    types = overloads(source)
    for name in operator_names():
        if LEFT_OUT.search(name) or not re.search(pattern, name):
            continue
        place = 0
        while (mutated := mutate_code(source, get_operator(name)(), place)) is not None:
            place += 1
            if first_difference(source, mutated) not in types:
                yield name, mutated


def overloads(source: str) -> set[int]:
    """The lines of the signatures that only a type checker reads."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and "overload" in map(
            ast.unparse, node.decorator_list
        ):
            lines.update(range(node.decorator_list[0].lineno, (node.end_lineno or 0) + 1))
    return lines


def first_difference(source: str, mutated: str) -> int:
    """The number of the first line that differs."""
    pairs = zip(source.splitlines(), mutated.splitlines(), strict=False)
    return next((number for number, (a, b) in enumerate(pairs, 1) if a != b), 0)


def changed(source: str, mutated: str) -> str:
    """The lines that differ, as a diff."""
    lines = difflib.unified_diff(source.splitlines(), mutated.splitlines(), lineterm="", n=0)
    return "\n".join(list(lines)[3:])


def survives(copy: Path, mutated: str) -> bool:
    """Run the tests on a mutant in a fork; tell whether they all passed."""
    (copy / MODULE).write_text(mutated)
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        os.chdir(copy)
        sys.path.insert(0, str(copy / "src"))
        sys.dont_write_bytecode = True
        with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
            code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", TESTS])
        os._exit(int(code))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main() -> None:
    """Run all mutants and print those that survive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filter", default="", help="only operators that this finds")
    pattern = parser.parse_args().filter
    source = (ROOT / MODULE).read_text()
    count, survivors = 0, []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("src", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", copy)
        if not survives(copy, source):
            sys.exit("the tests fail without any mutant")
        for name, mutated in mutants(source, pattern):
            count += 1
            if survives(copy, mutated):
                survivors.append(f"{name}\n{changed(source, mutated)}")
                print(survivors[-1], flush=True)
            if count % 50 == 0:
                print(f"{count} mutants, {len(survivors)} unnoticed", flush=True)
    print(f"{count} mutants, {len(survivors)} unnoticed")
    sys.exit(len(survivors) > 0)


if __name__ == "__main__":
    main()
