"""Test the robustness of softattn and of its example with random cases.

    python benchmarks/trust.py [--part PART ...] [--short | --minutes N] [--seed N] [--only CASE]

The parts are fuzz-layer, fuzz-wrap, fuzz-files, kill and disk-full. Each runs random cases in a
process of its own, as many as fit into its share of the time. A case passes if it has the promised
result, or ends with an error of the project; anything else is a finding. Prints a table, and each
finding with the arguments that run its case again; writes out/trust/summary.json; exits with status
1 if there is a finding.

`--part determinism`, which runs alone, trains a small recipe with other numbers of processes and
workers, interrupted and not, on 600 images of HAM10000_DIR or synthetic ones. Prints how much the
results differ, and exits with status 1 if results differ that must be identical.
"""

import argparse
import dataclasses
import itertools
import json
import os
import sys
import tempfile
from pathlib import Path

import lightning_fabric  # noqa: F401  # once, and not in each process of a run
import torch
from ham10000.data import DATA_VARIABLE
from ham10000.errors import Ham10000Error
from trust_parts import determinism, files, layer, runs, wrap
from trust_parts.campaign import KINDS, Part, Result, run_part

from softattn import SoftAttnError

OUT = Path(__file__).parents[1] / "out" / "trust"
LIBRARY, EXAMPLE = (SoftAttnError,), (SoftAttnError, Ham10000Error)

PARTS = {
    "fuzz-layer": Part(layer.prepare, layer.case, LIBRARY, short=1500, share=0.15),
    "fuzz-wrap": Part(wrap.prepare, wrap.case, LIBRARY, short=60, share=0.25),
    "fuzz-files": Part(files.prepare, files.case, EXAMPLE, short=250, share=0.2),
    "kill": Part(runs.prepare, runs.kill, EXAMPLE, short=2, share=0.25, limit=300.0),
    "disk-full": Part(runs.prepare, runs.disk_full, EXAMPLE, short=2, share=0.15, limit=300.0),
}
DETERMINISM = "determinism"
SHORT_SECONDS = 15.0
"""Bound on the time of each part of the short form."""


def table(results: list[Result]) -> list[str]:
    """Return the lines of a table of at most 80 columns."""
    head = ("part", "cases", "refused", "seconds", *KINDS)
    rows = [
        (
            r.part,
            str(r.cases),
            str(r.refused),
            f"{r.seconds:.0f}",
            *(str(r.count(k)) for k in KINDS),
        )
        for r in results
    ]
    return [
        f"{name:<12}" + "".join(f"{cell:>10}" for cell in cells) for name, *cells in [head, *rows]
    ]


def listed(results: list[Result]) -> list[str]:
    """Return two lines for each finding: what it is, and how to run its case again."""
    found = [finding for result in results for finding in result.findings]
    return [
        line
        for finding in found
        for line in (f"\n{finding.kind}: {finding.text}", f"    {finding.command}")
    ]


def write_summary(results: list[Result], seed: int, path: Path) -> None:
    """Write the results as JSON."""
    content = {
        "seed": seed,
        "torch": torch.__version__,
        "findings": sum(len(result.findings) for result in results),
        "parts": [dataclasses.asdict(result) for result in results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--part", action="append", choices=[*PARTS, DETERMINISM], help="by default all but the last"
    )
    parser.add_argument("--short", action="store_true", help="some seconds for each part")
    parser.add_argument("--minutes", type=float, default=5.0, help="time of all parts together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="CASE", help="run one case of one --part")
    options = parser.parse_args()
    if options.only is not None and len(options.part or ()) != 1:
        parser.error("--only needs one --part")
    if DETERMINISM in (options.part or ()) and len(options.part) > 1:
        parser.error(f"--part {DETERMINISM} runs alone")
    return options


def run_determinism(root: str | None) -> int:
    """Print how much the results of one recipe differ; return 1 if a promise is broken."""
    with tempfile.TemporaryDirectory(prefix="trust-") as folder:
        rows = list(determinism.compare(Path(folder), Path(root) if root else None, announce))
    print("\n".join(determinism.table(rows)))
    for row in (broken := [row for row in rows if row.broken]):
        print(f"\nbroken: {row.what} must equal {row.against}, and differs")
    return int(bool(broken))


def announce(name: str) -> None:
    """Say on standard error what begins."""
    print(f"{name} ...", file=sys.stderr, flush=True)


def main() -> int:
    """Run the campaign."""
    options = arguments()
    root = os.environ.pop(DATA_VARIABLE, None)  # the data of all other parts is synthetic
    torch.set_num_threads(1)
    if options.part == [DETERMINISM]:
        return run_determinism(root)
    names = options.part or list(PARTS)
    total = sum(PARTS[name].share for name in names)
    results = []
    for name in names:
        part = PARTS[name]
        cases = itertools.count()
        seconds = 60 * options.minutes * part.share / total
        if options.only is not None:
            cases = iter([options.only])
        elif options.short:
            cases, seconds = iter(range(part.short)), SHORT_SECONDS
        announce(name)
        results.append(run_part(name, part, options.seed, cases, seconds))
    print("\n".join([*table(results), *listed(results)]))
    write_summary(results, options.seed, OUT / "summary.json")
    return int(any(result.findings for result in results))


if __name__ == "__main__":
    sys.exit(main())
