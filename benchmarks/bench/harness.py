"""Time several sides in turn in one run, and compare their times."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch.utils.benchmark import Timer

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """Comparison of one side with the baseline of its case."""

    part: str
    case: str
    side: str
    milliseconds: float
    """Median time; of parts whose name ends with MB, the median number of megabytes."""
    ratio: float
    """Median over the rounds of the ratio to the baseline."""
    low: float
    """Lower quartile of these ratios."""
    high: float
    """Upper quartile of these ratios."""
    best: float
    """Ratio of the fastest rounds, which other load on the machine disturbs least."""
    wall: float
    """Like `ratio`, in wall-clock time."""
    allocator: str = "system"
    share: float | None = None
    """Share of the rate of matrix products, if the number of operations is known."""

    @property
    def key(self) -> str:
        """Key for comparing the row with a stored one."""
        return " | ".join((self.part, self.case, self.side, self.allocator))


def take_turns(
    sides: Mapping[str, Work],
    rounds: int,
    threads: int,
    *,
    least: float = 0.01,
    most: float = 4.0,
) -> dict[str, list[tuple[float, float]]]:
    """Time each side once per round, in alternating order: (CPU, wall) seconds per call.

    A side is called for `least` seconds per round. If all rounds would take more than `most`
    seconds, there are fewer rounds, but at least three.

    With one thread, times are CPU times of the process, which are little affected by other load.
    With more threads, waiting counts as CPU time, so both times are wall-clock times.
    """
    timers = {name: Timer("work()", globals={"work": work}, num_threads=threads)
              for name, work in sides.items()}  # fmt: skip
    calls, counted, one_round = {}, {}, 0.0
    for name, timer in timers.items():
        seconds = timer.timeit(1).mean
        calls[name] = max(1, int(least / max(seconds, 1e-9)))
        # A Timer makes one percent more calls than it counts, to warm up.
        counted[name] = calls[name] + max(calls[name] // 100, 2)
        one_round += counted[name] * seconds
    rounds = min(rounds, max(3, int(most / max(one_round, 1e-9))))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(rounds):
        names = list(timers)
        for name in names if turn % 2 else reversed(names):
            before = time.process_time()
            wall = timers[name].timeit(calls[name]).mean
            own = (time.process_time() - before) / counted[name]
            times[name].append((own if threads == 1 else wall, wall))
    return times


def compare(
    part: str, case: str, times: Mapping[str, Sequence[tuple[float, float]]], baseline: str
) -> list[Row]:
    """Return a row for each side, the baseline first."""
    own = {name: [one for one, _ in rounds] for name, rounds in times.items()}
    walls = {name: [wall for _, wall in rounds] for name, rounds in times.items()}

    def row(name: str) -> Row:
        ratios = [a / b for a, b in zip(own[name], own[baseline], strict=True)]
        wall = [a / b for a, b in zip(walls[name], walls[baseline], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        return Row(
            part,
            case,
            name,
            1000 * statistics.median(own[name]),
            statistics.median(ratios),
            low,
            high,
            min(own[name]) / min(own[baseline]),
            statistics.median(wall),
        )

    return [row(name) for name in sorted(times, key=lambda name: name != baseline)]


def table(rows: Sequence[Row]) -> list[str]:
    """Format rows in lines of at most 80 columns."""
    lines, case = [], None
    for row in rows:
        if (row.part, row.case, row.allocator) != case:
            case = (row.part, row.case, row.allocator)
            title = f"{row.part}: {row.case}, {row.allocator} allocator"
            unit = "MB" if row.part.endswith(" MB") else "ms"
            lines += ["", title[:80], f"  {'':26}{unit:>10}{'ratio':>7}{'quartiles':>15}{'best':>7}"
                      f"{'wall':>7}{'share':>6}"]  # fmt: skip
        time_taken = f"{row.milliseconds:.3f}" if row.milliseconds else ""
        spread = f"{row.low:.2f} to {row.high:.2f}"
        share = "" if row.share is None else f"{row.share:.0%}"
        line = (
            f"  {row.side[:26]:26}{time_taken:>10}{row.ratio:7.2f}{spread:>15}"
            f"{row.best:7.2f}{row.wall:7.2f}{share:>6}"
        )
        lines.append(line.rstrip())
    return lines


def write_rows(path: Path, rows: Sequence[Row], facts: Mapping[str, object]) -> None:
    """Write rows and a description of the machine as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"facts": dict(facts), "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a file of `write_rows`."""
    return [Row(**row) for row in json.loads(path.read_text())["rows"]]


def read_facts(path: Path) -> dict[str, object]:
    """Read the description of the machine from such a file."""
    facts: dict[str, object] = json.loads(path.read_text())["facts"]
    return facts


def worse(rows: Sequence[Row], expected: Mapping[str, float], tolerance: float) -> list[str]:
    """Return the rows that exceed the expected ratio, and the missing ones."""
    found: dict[str, float] = {}
    for row in rows:  # the better one of a row that was measured again
        found[row.key] = min(row.best, found.get(row.key, row.best))
    lines = []
    for key, ratio in expected.items():
        limit = ratio * (1 + tolerance)
        if key not in found:
            lines.append(f"{key}: not measured")
        elif found[key] > limit:
            lines.append(f"{key}: {found[key]:.2f}, expected {ratio:.2f}, at most {limit:.2f}")
    return lines
