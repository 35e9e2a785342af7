"""What the layer was wanted to show, and whether the rows show it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.harness import Row

Find = Callable[[Sequence[Row]], list[float]]


@dataclass(frozen=True)
class Wanted:
    """A bound, and how to find what it bounds."""

    text: str
    bound: float
    find: Find
    at_least: bool = False

    def line(self, rows: Sequence[Row]) -> str:
        """Say in 80 columns whether all that was found keeps to the bound."""
        found = self.find(rows)
        if not found:
            return f"{self.text:45}{'':7}{'':16}not measured"
        # To the digits that are shown, so that what looks met is.
        kept = [round(x, 2) >= self.bound if self.at_least else round(x, 2) <= self.bound
                for x in found]  # fmt: skip
        spread = f"{min(found):.2f} to {max(found):.2f}"
        sign = ">=" if self.at_least else "<="
        verdict = "met" if all(kept) else f"{sum(kept)} of {len(kept)}"
        return f"{self.text:45}{sign}{self.bound:5.2f}{spread:>16}  {verdict}"


def verdicts(rows: Sequence[Row]) -> list[str]:
    """Give a line for each thing that was wanted."""
    head = f"{'':45}{'wanted':>7}{'found':>16}  in cases"
    return [head, *(wanted.line(rows) for wanted in WANTED)]


def ratios(part: str, side: str, allocator: str = "set", case: str = "") -> Find:
    """Find a side's ratios to the baseline, in batches of 16, NCHW and float32 of the layer."""

    def find(rows: Sequence[Row]) -> list[float]:
        return [row.ratio for row in rows
                if (row.part, row.side, row.allocator) == (part, side, allocator)
                and case in row.case]  # fmt: skip

    return find


def over(part: str, side: str, allocator: str = "set", case: str = "", without: str = "-") -> Find:
    """Find how many times a side takes what softattn takes."""

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


def _models(part: str, mobile: bool) -> Find:
    def find(rows: Sequence[Row]) -> list[float]:
        return [row.ratio for row in rows if (row.part, row.side) == (part, "wrapped")
                and ("mobilenetv3" in row.case) == mobile]  # fmt: skip

    return find


def _batch_16(find: Find) -> Find:
    return lambda rows: find([row for row in rows if row.case.startswith("16x")])


WANTED = [
    Wanted("Conv3d over ours, system allocator, C >= 256", 5,
           _batch_16(over(BOTH, "Conv3d form", "system", COMMON, "x192x")), at_least=True),
    Wanted("the same, C = 192", 3,
           _batch_16(over(BOTH, "Conv3d form", "system", "x192x")), at_least=True),
    Wanted("Conv3d over ours, set allocator, C >= 256", 4,
           _batch_16(over(BOTH, "Conv3d form", "set", COMMON, "x192x")), at_least=True),
    Wanted("layer, forward and backward, set", 1.35,
           _batch_16(ratios(BOTH, "softattn", "set", COMMON))),
    Wanted("the same, the aim", 1.15, _batch_16(ratios(BOTH, "softattn", "set", COMMON))),
    Wanted("layer, forward and backward, system", 1.6,
           _batch_16(ratios(BOTH, "softattn", "system", COMMON))),
    Wanted("layer, forward, set", 1.08,
           _batch_16(ratios("forward", "softattn", "set", COMMON))),
    Wanted("plain torch's peak memory over ours", 1,
           over("peak memory in x", "plain torch"), at_least=True),
    Wanted("per map, peak memory over its output", 1.1,
           ratios("memory, per map, in its output", "softattn")),
    Wanted("wrapped models, training step", 1.02, _models(TRAIN, mobile=False)),
    Wanted("wrapped models, inference", 1.02, _models(INFER, mobile=False)),
    Wanted("wrapped mobilenetv3, training step", 1.05, _models(TRAIN, mobile=True)),
    Wanted("wrapped mobilenetv3, inference", 1.05, _models(INFER, mobile=True)),
    Wanted("import beside torch and torchvision", 1.05, ratios("import", "and softattn")),
    Wanted("a pass with capture_maps", 1.01, ratios("capture", "capture_maps")),
    Wanted("cache's time over PIL's, an image", 0.1,
           ratios("input pipeline, an image", "cache", "system")),
    Wanted("epoch beside the usual way", 0.3, ratios("trainer, epoch", "ours", "system")),
    Wanted("time of an image, two processes over one", 0.56,
           ratios("trainer, scaling", "two processes", "system")),
]  # fmt: skip
