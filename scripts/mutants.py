"""Mutation tests: change each operator, number and keyword of the equation's code.

    python scripts/mutants.py [functional ops/backward] [--filter REGEX] [--minutes N]

cosmic-ray creates the mutants. Each is tested in a fork of a process that has loaded torch, on a
copy of the checkout. Prints the mutants that survive all tests and fails if there are any. After
--minutes it stops, prints its progress, and fails too.
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
import time
from collections import Counter
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
MODULES = ("functional", "ops/backward")
# There, | and decorators (@overload) only occur in types, and operators on variables need a
# configuration.
LEFT_OUT = re.compile(r"ReplaceBinaryOperator_BitOr_|RemoveDecorator|Variable(Inserter|Replacer)")
# Changes that have no effect: `strict` of a zip, which never fails in correct code, and `is` for
# `==` of numbers of dimensions, since Python has each small integer once.
EQUIVALENT = (
    (re.compile(r"strict=(True|False)"), "strict"),
    (re.compile(r"ndim (==|is(?! not)) "), "ndim == "),
    (re.compile(r"ndim (!=|is not) "), "ndim != "),
)
# Thresholds that change no result.
TUNED = re.compile(r"^_(PIECE|LEAST)_BYTES = ", re.MULTILINE)
SECONDS = 300


def mutants(source: str, pattern: str) -> Iterator[tuple[str, str]]:
    """Yield the name of an operator and the mutated source, for each place where it applies."""
    skipped = overloads(source) | tuned(source)
    for name in operator_names():
        if LEFT_OUT.search(name) or not re.search(pattern, name):
            continue
        place = 0
        while (mutated := mutate_code(source, get_operator(name)(), place)) is not None:
            place += 1
            if first_difference(source, mutated) not in skipped and not equivalent(source, mutated):
                yield name, mutated


def overloads(source: str) -> set[int]:
    """Return the lines of overload signatures, which only type checkers read."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and "overload" in map(
            ast.unparse, node.decorator_list
        ):
            lines.update(range(node.decorator_list[0].lineno, (node.end_lineno or 0) + 1))
    return lines


def tuned(source: str) -> set[int]:
    """Return the lines of thresholds that do not change results."""
    return {source.count("\n", 0, found.start()) + 1 for found in TUNED.finditer(source)}


def first_difference(source: str, mutated: str) -> int:
    """Return the number of the first line that differs."""
    pairs = zip(source.splitlines(), mutated.splitlines(), strict=False)
    return next((number for number, (a, b) in enumerate(pairs, 1) if a != b), 0)


def equivalent(source: str, mutated: str) -> bool:
    """Return whether a mutant computes the same: see `EQUIVALENT`."""
    for found, replaced in EQUIVALENT:
        if found.sub(replaced, source) == found.sub(replaced, mutated):
            return True
    return False


def changed(source: str, mutated: str) -> str:
    """Return the lines that differ, as a diff."""
    lines = difflib.unified_diff(source.splitlines(), mutated.splitlines(), lineterm="", n=0)
    return "\n".join(list(lines)[3:])


class _OneOfEachFirst:
    # Runs one case of each test function before the other cases, so that most mutants fail soon.
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        cases: Counter[str] = Counter()
        order = {}
        for item in items:
            name = item.nodeid.partition("[")[0]
            order[item] = cases[name]
            cases[name] += 1
        items.sort(key=lambda item: order[item])


def survives(copy: Path, module: str, mutated: str) -> bool:
    """Run the tests of a module on a mutant in a fork; return whether all passed."""
    (copy / "src" / "softattn" / f"{module}.py").write_text(mutated)
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        os.chdir(copy)
        sys.path.insert(0, str(copy / "src"))
        sys.dont_write_bytecode = True
        folder, _, name = module.rpartition("/")
        tests = Path("tests", folder, f"test_{name}.py")
        with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
            options = ["-q", "-x", "-p", "no:cacheprovider", str(tests)]
            code = pytest.main(options, plugins=[_OneOfEachFirst()])
        os._exit(int(code))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def run(copy: Path, module: str, pattern: str, ends: float) -> bool:
    """Test all mutants of a module and print the survivors; return whether there are none."""
    source = (ROOT / "src" / "softattn" / f"{module}.py").read_text()
    if not survives(copy, module, source):
        sys.exit(f"the tests of {module}.py fail without any mutant")
    count = unnoticed = 0
    for name, mutated in mutants(source, pattern):
        if time.monotonic() > ends:
            print(f"{module}.py: time is up after {count} mutants, {unnoticed} unnoticed")
            return False
        count += 1
        if survives(copy, module, mutated):
            unnoticed += 1
            print(f"{name}\n{changed(source, mutated)}", flush=True)
        if count % 50 == 0:
            print(f"{module}.py: {count} mutants, {unnoticed} unnoticed", flush=True)
    (copy / "src" / "softattn" / f"{module}.py").write_text(source)
    print(f"{module}.py: {count} mutants, {unnoticed} unnoticed")
    return unnoticed == 0


def main() -> None:
    """Run all mutants and print those that survive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(MODULES)}; all unless given")
    parser.add_argument("--filter", default="", help="only operators that this finds")
    parser.add_argument(
        "--minutes", type=float, default=60, help="stop after this; 60 unless given"
    )
    options = parser.parse_args()
    if unknown := set(options.modules) - set(MODULES):
        parser.error(f"there are no mutants of {min(unknown)!r}. Modules: {', '.join(MODULES)}")
    ends = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("src", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", copy)
        done = [run(copy, module, options.filter, ends) for module in options.modules or MODULES]
    sys.exit(not all(done))


if __name__ == "__main__":
    main()
