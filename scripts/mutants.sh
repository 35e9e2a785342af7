#!/usr/bin/env bash
# Change each operator and number of functional.py in turn, in a copy of the checkout, and run its
# tests on every mutant. Prints the mutants that no test noticed; fails if there are any.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r src tests pyproject.toml README.md Makefile "$copy"
cd "$copy"
cat > mutants.toml <<TOML
[cosmic-ray]
module-path = "src/softattn/functional.py"
timeout = 300.0
excluded-modules = []
test-command = "env PYTHONPATH=src $root/.venv/bin/python -m pytest -q -x -p no:cacheprovider tests/test_functional.py"

[cosmic-ray.distributor]
name = "local"

# | and decorators (@overload) stand for types alone.
[cosmic-ray.filters.operators-filter]
exclude-operators = ["core/ReplaceBinaryOperator_BitOr_.*", "core/RemoveDecorator"]
TOML
bin="$root/.venv/bin"
"$bin/cosmic-ray" init mutants.toml mutants.sqlite
"$bin/cr-filter-operators" mutants.sqlite mutants.toml
"$bin/cr-filter-pragma" mutants.sqlite  # "no mutate": types of overloads
OMP_NUM_THREADS=1 "$bin/cosmic-ray" exec mutants.toml mutants.sqlite
"$bin/cr-report" --surviving-only --show-diff mutants.sqlite
"$bin/cr-rate" --fail-over 0 mutants.sqlite
