"""Write docs/performance.md: one chart, three sentences, and all tables, folded."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.charts import draw_growth, draw_overview, overview
from bench.harness import Row, table
from bench.targets import TARGETS, verdicts

METHOD = """\
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
    """Write the page and its charts: first the overview, then all tables, folded."""
    described = [", ".join(f"{k} {v}" for k, v in facts.items()) for facts in machines]
    draw_overview(rows, images)
    lines = [
        *("---", "hide: [toc]", "---", "", "# Performance", ""),
        *picture("Time of the layer and of its alternatives for five feature maps", "performance"),
        *sentences(rows),
        *folded(
            "How it is measured",
            [METHOD.rstrip(), "", *(f"Measured on: {one}." for one in described)],
        ),
        *folded("Targets and results", ["```text", *verdicts(rows), "```"]),
    ]
    parts = sorted({row.part for row in rows}, key=[row.part for row in rows].index)
    for part in parts:
        found = [row for row in rows if row.part == part]
        inside = []
        if part.startswith("growth"):
            draw_growth(found, images, part)
            inside = picture(f"Time as a function of the size, {part}", part.replace(" ", "-"))
        table_lines = (brief(found) if part.startswith(LAYER) else table(found))[1:]
        lines += folded(f"{part[0].upper()}{part[1:]}", [*inside, "```text", *table_lines, "```"])
    path.write_text("\n".join(lines) + "\n")


def picture(text: str, name: str) -> list[str]:
    """Format an image with a version for each colour scheme."""
    themes = ("light", "dark")
    return [*(f"![{text}](images/{name}-{theme}.svg#only-{theme})" for theme in themes), ""]


def folded(title: str, lines: Sequence[str]) -> list[str]:
    """Format lines as a part of the page that is closed at first."""
    start = ["", '<details markdown="1">', f"<summary>{title}</summary>", ""]
    return [*start, *lines, "", "</details>"]


def sentences(rows: Sequence[Row]) -> list[str]:
    """Summarize the measurements in three sentences, each with its range."""
    cases = overview(rows)
    layer = [sides["softattn"].ratio for sides in cases.values()]
    slower = [
        sides["Conv3d form"].ratio / sides["softattn"].ratio
        for sides in cases.values()
        if "Conv3d form" in sides
    ]
    found = {target.text: target.find(rows) for target in TARGETS}
    trained = found["wrapped / bare model, training step"]
    memory = found["peak memory, plain torch / softattn"]
    return [
        f"Forward and backward take {span(layer)} times as long as in the convolution alone, and "
        f"{span(slower)} times as long in the Conv3d form as in softattn.",
        f"A training step of a wrapped model takes {span(trained)} times as long as one of the "
        "bare model.",
        f"The peak memory of the same equation in plain torch is {span(memory)} times that of "
        "softattn.",
    ]


def span(ratios: Sequence[float]) -> str:
    """Format the smallest and the largest of some ratios."""
    if not ratios:
        return "(not measured)"
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


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
