"""Mutation tests: change each operator, number and keyword of the code that results depend on.

    python scripts/mutants.py [functional data/splits ...] [--filter REGEX] [--minutes N] [--skip N]

cosmic-ray creates the mutants. Each is tested in a fork of a process that has loaded torch, on a
copy of the checkout, with the test file of its module and without HAM10000_DIR. Prints the mutants
that survive all tests and fails if there are any besides those that mutants.toml explains, or if
one of the latter is detected by now. After --minutes it stops, prints its progress, and fails too.
"""

import argparse
import ast
import contextlib
import difflib
import gc
import importlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
LIBRARY, EXAMPLE = "src/softattn", "examples/ham10000/src/ham10000"
MODULES = {
    "functional": LIBRARY,
    "ops/backward": LIBRARY,
    "data/splits": EXAMPLE,
    "evaluation/metrics": EXAMPLE,
    "statistics/intervals": EXAMPLE,
    "training/checkpoint_file": EXAMPLE,
}
"""Modules that have mutants, with the package of each."""
EXPLAINED = Path(__file__).with_suffix(".toml")
"""Mutants that no test can detect, or none should, each with the reason."""
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


def stripped(change: str) -> str:
    """Return a diff whose lines have no indentation."""
    return "\n".join(line[0] + line[1:].strip() for line in change.splitlines() if line[1:].strip())


def load_dependencies() -> None:
    """Load what the tests import besides softattn and ham10000, so that no mutant has to."""
    for name in ("_hypothesis_pytestplugin", "hypothesis", "timm", "lightning_fabric"):
        importlib.import_module(name)
    for module, package in MODULES.items():
        importlib.import_module(f"{Path(package).name}.{module.replace('/', '.')}")
    for name in [name for name in sys.modules if name.split(".")[0] in ("softattn", "ham10000")]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()  # pytest collects garbage at its end, and would go through all of torch


class _Fast:
    # Runs one case of each test function before the other cases, so that most mutants fail soon,
    # and ends the process without the work that pytest does for tests that come later.
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        os._exit(int(exitstatus))

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        cases: Counter[str] = Counter()
        order = {}
        for item in items:
            name = item.nodeid.partition("[")[0]
            order[item] = cases[name]
            cases[name] += 1
        items.sort(key=lambda item: order[item])


def source_of(module: str) -> Path:
    """Return the file of a module, relative to the checkout."""
    return Path(MODULES[module], f"{module}.py")


def tests_of(module: str) -> Path:
    """Return the test file of a module, relative to the checkout."""
    folder, _, name = module.rpartition("/")
    return Path(MODULES[module]).parents[1] / "tests" / folder / f"test_{name}.py"


def survives(copy: Path, module: str, mutated: str) -> bool:
    """Run the tests of a module on a mutant in a fork; return whether all passed."""
    (copy / source_of(module)).write_text(mutated)
    project = Path(MODULES[module]).parents[1]
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        os.chdir(copy / project)
        sys.path[:0] = [str(copy / "src"), str(copy / project / "src")]
        sys.dont_write_bytecode = True
        tests = tests_of(module).relative_to(project)
        with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
            options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "_hypothesis_pytestplugin"]
            options += ["--hypothesis-seed=0", "--assert=plain", f"--basetemp={copy / 'tmp'}"]
            code = pytest.main([*options, str(tests)], plugins=[_Fast()])
        os._exit(int(code))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def explained(module: str) -> set[str]:
    """Return the changes of a module's mutants that are known to survive, as `changed` does."""
    listed = tomllib.loads(EXPLAINED.read_text()).get(module, [])
    return {f"-{each['line']}\n+{each['mutant']}" for each in listed}


def run(copy: Path, module: str, pattern: str, ends: float, skip: int = 0) -> bool:
    """Test all mutants of a module and print the survivors; return whether none is unexplained."""
    source = (ROOT / source_of(module)).read_text()
    if not survives(copy, module, source):
        sys.exit(f"the tests of {module}.py fail without any mutant")
    known, met = explained(module), set()
    count = unnoticed = stale = 0
    for name, mutated in mutants(source, pattern):
        if time.monotonic() > ends:
            print(f"{module}.py: time is up after {count} mutants, {unnoticed} unnoticed")
            return False
        count += 1
        if count <= skip:
            continue
        change = stripped(changed(source, mutated))
        if survives(copy, module, mutated):
            met.add(change)
            if change not in known:
                unnoticed += 1
                print(f"{name}\n{changed(source, mutated)}", flush=True)
        elif change in known:
            stale += 1
            print(f"{name} is detected, but {EXPLAINED.name} lists it\n{change}", flush=True)
        if count % 50 == 0:
            print(f"{module}.py: {count} mutants, {unnoticed} unnoticed", flush=True)
    (copy / source_of(module)).write_text(source)
    print(f"{module}.py: {count} mutants, {unnoticed} unnoticed, {len(met & known)} explained")
    return unnoticed == stale == 0


def main() -> None:
    """Run all mutants and print those that survive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(MODULES)}; all unless given")
    parser.add_argument("--filter", default="", help="only operators that this finds")
    parser.add_argument(
        "--minutes", type=float, default=60, help="stop after this; 60 unless given"
    )
    parser.add_argument("--skip", type=int, default=0, help="mutants to skip, of one module")
    options = parser.parse_args()
    if unknown := set(options.modules) - set(MODULES):
        parser.error(f"there are no mutants of {min(unknown)!r}. Modules: {', '.join(MODULES)}")
    ends = time.monotonic() + 60 * options.minutes
    os.environ.pop("HAM10000_DIR", None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    load_dependencies()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for project in (ROOT, ROOT / "examples" / "ham10000"):
            target = copy / project.relative_to(ROOT)
            for name in ("src", "tests", "recipes"):
                if (project / name).exists():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(project / name, target / name, ignore=ignored)
            shutil.copy(project / "pyproject.toml", target)
        modules = options.modules or MODULES
        done = [run(copy, module, options.filter, ends, options.skip) for module in modules]
    sys.exit(not all(done))


if __name__ == "__main__":
    main()
