"""Write docs/performance.md: tables and plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

from bench.harness import Row, table
from bench.targets import verdicts

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HEADER = """# Performance

`make bench` writes this page, and all figures as JSON to `out/bench`. In each comparison the sides
are timed alternately in one run of three to nine rounds. A ratio is the median over the rounds of
the ratio to the first side, followed by its quartiles; `best` compares the fastest rounds. With one
thread, times are CPU times of the process, which are little affected by other load; `wall` is the
ratio of wall-clock times. Unless stated otherwise, each part is pinned to one core. Incoming
gradients are dense and computed before the timing starts. "Set allocator" means that freed memory
is kept (`MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_` at 1 GiB), as in the example's
trainer; otherwise Linux clears the pages of large tensors at every allocation.

`limit` is the time of the bare convolution plus the time to move the other required bytes at copy
speed: twice x forward, seven times x with backward. `share` is relative to the speed of matrix
products; it exceeds 100 % where the convolution kernel is faster than the product.
"""
COLUMNS = {"plain torch": "plain", "Conv3d form": "Conv3d", "SE (timm)": "SE",
           "CBAM (timm)": "CBAM", "ECA (timm)": "ECA", "limit": "limit"}  # fmt: skip
LAYER = ("forward", "forward+backward")


def write_page(
    path: Path, rows: Sequence[Row], machines: Sequence[Mapping[str, object]], images: Path
) -> None:
    """Write the page and its plots."""
    described = [", ".join(f"{k} {v}" for k, v in facts.items()) for facts in machines]
    lines = [HEADER, *(f"Measured on: {one}." for one in described)]
    lines += ["", "## Targets and results", "", "```text", *verdicts(rows), "```"]
    parts = sorted({row.part for row in rows}, key=[row.part for row in rows].index)
    for part in parts:
        found = [row for row in rows if row.part == part]
        lines += ["", f"## {part[0].upper()}{part[1:]}", ""]
        if part.startswith("growth"):
            name = part.replace(" ", "-") + ".png"
            plot(found, images / name, part)
            lines += [f"![Time as a function of the size, {part}](images/{name})", ""]
        lines += ["```text", *(brief(found) if part.startswith(LAYER) else table(found))[1:], "```"]
    path.write_text("\n".join(lines) + "\n")


def brief(rows: Sequence[Row]) -> list[str]:
    """Format a line per case: ratios to the bare convolution, then to the limit."""
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
        lines += ["", f"milliseconds, and shares of the product speed, {allocator} allocator",
                  f"{'':22}{names}"]  # fmt: skip
        lines += [limit_line(case, sides) for case, sides in cases.items()]
    return lines


def ratio_line(case: str, sides: Mapping[str, Row]) -> str:
    """Format the ratio of each side and the quartiles of softattn."""
    ours = sides["softattn"]
    others = "".join(
        f"{sides[name].ratio:7.2f}" if name in sides else f"{'':7}" for name in COLUMNS
    )
    return f"{shorter(case):22}{f'{ours.ratio:.2f} {ours.low:.2f}-{ours.high:.2f}':>15}{others}"


def limit_line(case: str, sides: Mapping[str, Row]) -> str:
    """Format times, ratios to the limit, and shares of the product speed."""
    bare, ours, limit = (sides[name] for name in ("bare convolution", "softattn", "limit"))
    times = "".join(f"{row.milliseconds:8.3f}" for row in (bare, ours, limit))
    slower = f"{sides['Conv3d form'].ratio / ours.ratio:.2f}" if "Conv3d form" in sides else ""
    shares = "".join(f"{row.share or 0:5.0%}" for row in (bare, ours))
    return f"{shorter(case):22}{times}{ours.ratio / limit.ratio:11.2f}{slower:>12}{shares}"


def shorter(case: str) -> str:
    """Abbreviate dtype names."""
    return case.replace("bfloat16", "bf16").replace("float32", "f32")


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """Plot the time of each side over the growing quantity."""
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
