"""The page of results: tables and plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

from bench.harness import Row, table

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HEADER = """# Performance

Written by `make bench`. Each side is timed in turn, round by round, in one run. `ratio` is the
median of the rounds' ratios to the first side, and beside it are their quartiles; `best` compares
the fastest rounds. With one thread the time is the process's own on the processor, which other work
disturbs little, and `wall` is the ratio by the clock on the wall. The gradient that comes in is
dense, and lies there before the clock starts. "Set" means an allocator that keeps its memory
(`MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_` at 1 GiB); without, Linux clears the pages
of large tensors again and again.
"""


def write_page(path: Path, rows: Sequence[Row], facts: Mapping[str, object], images: Path) -> None:
    """Write the page, and the plots that it shows."""
    lines = [HEADER, "Measured on: " + ", ".join(f"{k} {v}" for k, v in facts.items()) + "."]
    for part in sorted({row.part for row in rows}, key=[row.part for row in rows].index):
        lines += ["", f"## {part[0].upper()}{part[1:]}", ""]
        if part.startswith("growth"):
            name = part.replace(" ", "-") + ".png"
            plot([row for row in rows if row.part == part], images / name, part)
            lines += [f"![How the time grows, {part}](images/{name})", ""]
        lines += ["```text", *table([row for row in rows if row.part == part])[1:], "```"]
    path.write_text("\n".join(lines) + "\n")


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """Draw the times of each side over what grows."""
    figure, axes = plt.subplots(figsize=(4.5, 3), dpi=100, layout="constrained")
    for side in sorted({row.side for row in rows}):
        for allocator, style in (("set", "-"), ("system", "--")):
            some = [row for row in rows if (row.side, row.allocator) == (side, allocator)]
            if some:
                xs = [float(row.case) for row in some]
                label = f"{side}, {allocator}"
                axes.loglog(xs, [row.milliseconds for row in some], style, marker="o", label=label)
    axes.set(xlabel=title.rpartition(" ")[2], ylabel="ms, forward and backward", title=title)
    axes.legend(fontsize=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
