"""Targets of the benchmark, and whether the measurements meet them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.harness import Row
from bench.imports import MEMORY, START

Find = Callable[[Sequence[Row]], list[float]]


@dataclass(frozen=True)
class Target:
    """A bound on a ratio, and how to find the ratio in the rows."""

    text: str
    bound: float
    find: Find
    at_least: bool = False

    def line(self, rows: Sequence[Row]) -> str:
        """Format the bound, the measured range and the verdict in 80 columns."""
        found = self.find(rows)
        if not found:
            return f"{self.text:45}{'':7}{'':16}not measured"
        # Rounded as displayed, so that the verdict agrees with what is shown.
        kept = [round(x, 2) >= self.bound if self.at_least else round(x, 2) <= self.bound
                for x in found]  # fmt: skip
        spread = f"{min(found):.2f} to {max(found):.2f}"
        sign = ">=" if self.at_least else "<="
        verdict = "met" if all(kept) else f"{sum(kept)} of {len(kept)}"
        return f"{self.text:45}{sign}{self.bound:5.2f}{spread:>16}  {verdict}"


def verdicts(rows: Sequence[Row]) -> list[str]:
    """Format a line for each target."""
    head = f"{'':45}{'target':>7}{'measured':>16}  in cases"
    return [head, *(target.line(rows) for target in TARGETS)]


def ratios(part: str, side: str, allocator: str = "set", case: str = "") -> Find:
    """Find the ratios of a side to the baseline."""

    def find(rows: Sequence[Row]) -> list[float]:
        return [row.ratio for row in rows
                if (row.part, row.side, row.allocator) == (part, side, allocator)
                and case in row.case]  # fmt: skip

    return find


def amounts(part: str, *commands: str) -> Find:
    """Find seconds, or gigabytes, of commands in a part that times processes."""
    return lambda rows: [row.milliseconds / 1000 for row in rows
                         if row.part == part and row.side in commands]  # fmt: skip


def over(part: str, side: str, allocator: str = "set", case: str = "", without: str = "-") -> Find:
    """Find the ratios of a side's time to the time of softattn."""

    def find(rows: Sequence[Row]) -> list[float]:
        return list(_pairs(rows, part, side, allocator, case, without))

    return find


def _pairs(
    rows: Sequence[Row], part: str, side: str, allocator: str, case: str, without: str
) -> Iterator[float]:
    some = [row for row in rows if row.part == part and row.allocator == allocator]
    ours = {row.case: row.ratio for row in some if row.side == "softattn"}
    for row in some:
        if row.side == side and case in row.case and without not in row.case:
            yield row.ratio / ours[row.case]


BOTH, TRAIN, INFER = "forward+backward", "wrapped, training step", "wrapped, inference"
COMMON = "float32 NCHW"
COMMANDS = [f"{name} {option}" for name in ("softattn", "ham10000")
            for option in ("--version", "--help")]  # fmt: skip


def _models(part: str, mobile: bool) -> Find:
    def find(rows: Sequence[Row]) -> list[float]:
        return [row.ratio for row in rows if (row.part, row.side) == (part, "wrapped")
                and ("mobilenetv3" in row.case) == mobile]  # fmt: skip

    return find


def _batch_16(find: Find) -> Find:
    return lambda rows: find([row for row in rows if row.case.startswith("16x")])


TARGETS = [
    Target("Conv3d / softattn, system, C >= 256", 5,
           _batch_16(over(BOTH, "Conv3d form", "system", COMMON, "x192x")), at_least=True),
    Target("same, C = 192", 3,
           _batch_16(over(BOTH, "Conv3d form", "system", "x192x")), at_least=True),
    Target("Conv3d / softattn, set, C >= 256", 4,
           _batch_16(over(BOTH, "Conv3d form", "set", COMMON, "x192x")), at_least=True),
    Target("layer / conv, forward+backward, set", 1.35,
           _batch_16(ratios(BOTH, "softattn", "set", COMMON))),
    Target("same, stretch goal", 1.15, _batch_16(ratios(BOTH, "softattn", "set", COMMON))),
    Target("layer / conv, forward+backward, system", 1.6,
           _batch_16(ratios(BOTH, "softattn", "system", COMMON))),
    Target("layer / conv, forward, set", 1.08,
           _batch_16(ratios("forward", "softattn", "set", COMMON))),
    Target("peak memory, plain torch / softattn", 1,
           over("peak memory in x", "plain torch"), at_least=True),
    Target("per map, peak memory / size of the output", 1.1,
           ratios("memory, per map, in its output", "softattn")),
    Target("wrapped / bare model, training step", 1.02, _models(TRAIN, mobile=False)),
    Target("wrapped / bare model, inference", 1.02, _models(INFER, mobile=False)),
    Target("wrapped / bare mobilenetv3, training step", 1.05, _models(TRAIN, mobile=True)),
    Target("wrapped / bare mobilenetv3, inference", 1.05, _models(INFER, mobile=True)),
    Target("import softattn / import torch, torchvision", 1.05, ratios("import", "and softattn")),
    Target("import torch, softattn / import torch", 1.05,
           ratios(START, "import torch, softattn", "system")),
    Target("same, with SoftAttention", 1.05, ratios(START, "and SoftAttention", "system")),
    Target("--version and --help, CPU time in s", 0.5, amounts(START, *COMMANDS)),
    Target("--version and --help, peak memory in GB", 0.1, amounts(MEMORY, *COMMANDS)),
    Target("forward with / without capture_maps", 1.01, ratios("capture", "capture_maps")),
    Target("time per image, cache / PIL", 0.1,
           ratios("input pipeline, an image", "cache", "system")),
    Target("epoch, trainer / conventional loop", 0.3, ratios("trainer, epoch", "ours", "system")),
    Target("time per image, two processes / one", 0.56,
           ratios("trainer, scaling", "two processes", "system")),
]  # fmt: skip
