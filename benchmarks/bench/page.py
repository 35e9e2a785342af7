"""The page of results: tables and plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

from bench.harness import Row, table
from bench.wanted import verdicts

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HEADER = """# Performance

Written by `make bench`, which also writes every figure as JSON, to `out/bench`.
Each side is timed in turn, round by round, in one run: at most nine rounds, and
at least three. A ratio is the median of the rounds' ratios to the first side,
and beside it are their quartiles; `best` compares the fastest rounds. With one
thread the time is the process's own on the processor, which other work disturbs
little, and `wall` is the ratio by the clock on the wall. Each part is pinned to
one core, unless it says otherwise. The gradient that comes in is dense, and
lies there before the clock starts. "Set" means an allocator that keeps its
memory (`MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_` at 1 GiB), as the
trainer has it; without, Linux clears the pages of large tensors again and
again.

`limit` is the bare convolution, and what must go through memory beside it at
the rate of a copy: twice x forward, seven times x with backward. `share` is
that of the rate of matrix products; a convolution whose kernel is better than
the product's is above 100 %.
"""
COLUMNS = {"plain torch": "plain", "Conv3d form": "Conv3d", "SE (timm)": "SE",
           "CBAM (timm)": "CBAM", "ECA (timm)": "ECA", "limit": "limit"}  # fmt: skip
LAYER = ("forward", "forward+backward")


def write_page(
    path: Path, rows: Sequence[Row], machines: Sequence[Mapping[str, object]], images: Path
) -> None:
    """Write the page, and the plots that it shows."""
    described = [", ".join(f"{k} {v}" for k, v in facts.items()) for facts in machines]
    lines = [HEADER, *(f"Measured on: {one}." for one in described)]
    lines += ["", "## What was wanted", "", "```text", *verdicts(rows), "```"]
    parts = sorted({row.part for row in rows}, key=[row.part for row in rows].index)
    for part in parts:
        found = [row for row in rows if row.part == part]
        lines += ["", f"## {part[0].upper()}{part[1:]}", ""]
        if part.startswith("growth"):
            name = part.replace(" ", "-") + ".png"
            plot(found, images / name, part)
            lines += [f"![How the time grows, {part}](images/{name})", ""]
        lines += ["```text", *(brief(found) if part.startswith(LAYER) else table(found))[1:], "```"]
    path.write_text("\n".join(lines) + "\n")


def brief(rows: Sequence[Row]) -> list[str]:
    """Lay cases out one a line: ratios to the bare convolution, then what limits them."""
    lines: list[str] = []
    for allocator in sorted({row.allocator for row in rows}):
        cases: dict[str, dict[str, Row]] = {}
        for row in rows:
            if row.allocator == allocator:
                cases.setdefault(row.case, {})[row.side] = row
        names = "".join(f"{name:>7}" for name in COLUMNS.values())
        lines += ["", f"ratios to the bare convolution, {allocator} allocator",
                  f"{'':22}{'softattn':>15}{names}"]  # fmt: skip
        lines += [ratio_line(case, sides) for case, sides in cases.items()]
        names = "".join(f"{name:>8}" for name in ("bare", "ours", "limit"))
        names += f"{'ours/limit':>11}{'Conv3d/ours':>12}{'bare':>5}{'ours':>5}"
        lines += ["", f"milliseconds, and shares of the product rate, {allocator} allocator",
                  f"{'':22}{names}"]  # fmt: skip
        lines += [limit_line(case, sides) for case, sides in cases.items()]
    return lines


def ratio_line(case: str, sides: Mapping[str, Row]) -> str:
    """Give each side's ratio, and our quartiles."""
    ours = sides["softattn"]
    others = "".join(
        f"{sides[name].ratio:7.2f}" if name in sides else f"{'':7}" for name in COLUMNS
    )
    return f"{shorter(case):22}{f'{ours.ratio:.2f} {ours.low:.2f}-{ours.high:.2f}':>15}{others}"


def limit_line(case: str, sides: Mapping[str, Row]) -> str:
    """Give times beside the limit's, and shares of the rate of products."""
    bare, ours, limit = (sides[name] for name in ("bare convolution", "softattn", "limit"))
    times = "".join(f"{row.milliseconds:8.3f}" for row in (bare, ours, limit))
    slower = f"{sides['Conv3d form'].ratio / ours.ratio:.2f}" if "Conv3d form" in sides else ""
    shares = "".join(f"{row.share or 0:5.0%}" for row in (bare, ours))
    return f"{shorter(case):22}{times}{ours.ratio / limit.ratio:11.2f}{slower:>12}{shares}"


def shorter(case: str) -> str:
    """Shorten the names of dtypes."""
    return case.replace("bfloat16", "bf16").replace("float32", "f32")


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """Draw the times of each side over what grows."""
    figure, axes = plt.subplots(figsize=(4.5, 3), dpi=100, layout="constrained")
    for side in sorted({row.side for row in rows}, key=[row.side for row in rows].index):
        some = [row for row in rows if row.side == side]
        xs = [float(row.case) for row in some]
        axes.loglog(xs, [row.milliseconds for row in some], marker="o", label=side)
    values = sorted({float(row.case) for row in rows})
    axes.set_xticks(values, [f"{value:g}" for value in values], minor=False)
    axes.set_xticks([], minor=True)
    axes.set(xlabel=title.rpartition(" ")[2], ylabel="ms, forward and backward", title=title)
    axes.set_ylim(bottom=axes.get_ylim()[0] / 2)
    axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
