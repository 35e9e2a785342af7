"""What the benchmarks make of their times."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not (BENCHMARKS / "run.py").exists():
    pytest.skip("needs a checkout", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

from bench.harness import compare, read_rows, table, take_turns, worse, write_rows  # noqa: E402
from bench.machine import cpu_model  # noqa: E402
from bench.memory import peak  # noqa: E402

TIMES = {
    "ours": [(2.0, 3.0), (4.0, 4.0), (3.0, 6.0)],
    "bare": [(1.0, 1.0), (4.0, 4.0), (1.0, 2.0)],
}


def rows():
    return compare("layer", "16x192", TIMES, "bare")


def test_ratios_are_of_rounds_and_the_baseline_comes_first():
    bare, ours = rows()
    assert (bare.side, bare.ratio, bare.best, bare.wall) == ("bare", 1, 1, 1)
    assert ours.milliseconds == 3000
    assert (ours.ratio, ours.best, ours.wall) == (2, 2, 3)
    assert (ours.low, ours.high) == (1, 3)


def test_one_round_has_no_spread():
    row = compare("layer", "x", {name: times[:1] for name, times in TIMES.items()}, "bare")[1]
    assert (row.ratio, row.low, row.high) == (2, 2, 2)


def test_sides_take_turns_in_an_order_that_turns_around():
    order = []
    sides = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    times = take_turns(sides, rounds=2, seconds=0, threads=1)
    assert {name: len(found) for name, found in times.items()} == {"a": 2, "b": 2}
    turns = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert turns == ["a", "b", "a", "b"]  # warming up; then b before a, then a before b


def test_tables_have_at_most_80_columns():
    lines = table(rows())
    assert max(map(len, lines)) <= 80
    assert lines[1] == "layer: 16x192, system allocator"
    assert "2.00   1.00 to 3.00   2.00   3.00" in lines[-1]


def test_rows_survive_a_file(tmp_path):
    write_rows(tmp_path / "new" / "rows.json", rows(), {"cores": 2})
    assert read_rows(tmp_path / "new" / "rows.json") == rows()
    assert json.loads((tmp_path / "new" / "rows.json").read_text())["facts"] == {"cores": 2}


def test_the_guard_names_what_is_worse_and_what_is_missing():
    key = "layer | 16x192 | ours | system"
    assert rows()[1].key == key
    assert worse(rows(), {key: 1.9}, tolerance=0.1) == []
    assert worse(rows(), {key: 1.5}, tolerance=0.1) == [f"{key}: 2.00, expected 1.50, at most 1.65"]
    assert worse(rows(), {"other": 1.0}, tolerance=0.1) == ["other: not measured"]


def test_peak_is_the_most_that_is_held_at_once():
    assert peak([4, 3, -5, 4, -6]) == 7
    assert peak([-3, 2]) == 0


def test_the_name_of_the_processor(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A chip\nmodel name\t: B\n")
    assert cpu_model(tmp_path / "cpuinfo") == "A chip"
    assert cpu_model(tmp_path / "none")


def test_a_part_that_there_is_not():
    pytest.importorskip("timm", reason="needs softattn[timm]")
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "run.py", "nothing"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "there is no part 'nothing'. Parts: limits, layer" in done.stderr
