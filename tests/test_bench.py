"""Evaluation of measured times in the benchmarks."""

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not (BENCHMARKS / "run.py").exists():
    pytest.skip("needs a checkout", allow_module_level=True)
pytest.importorskip("matplotlib", reason="needs softattn[plot]")
sys.path.insert(0, str(BENCHMARKS))

from bench.harness import Row, compare, read_facts, read_rows, table, take_turns, worse, write_rows  # noqa: E402
from bench.imports import MEMORY, START, run  # noqa: E402
from bench.machine import cpu_model  # noqa: E402
from bench.memory import peak  # noqa: E402
from bench.page import brief, sentences, write_page  # noqa: E402
from bench.targets import TARGETS, Target, over, verdicts  # noqa: E402

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


def test_alternatives_are_timed_in_alternating_order():
    order = []
    sides = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    times = take_turns(sides, rounds=2, threads=1, least=0)
    assert {name: len(found) for name, found in times.items()} == {"a": 2, "b": 2}
    turns = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert turns == ["a", "b", "a", "b"]  # warming up; then b before a, then a before b


def test_slow_sides_have_fewer_rounds_but_three():
    times = take_turns({"a": lambda: time.sleep(0.01)}, rounds=50, threads=1, least=0, most=0.15)
    assert 3 <= len(times["a"]) <= 5
    times = take_turns({"a": lambda: time.sleep(0.01)}, rounds=50, threads=1, least=0, most=0)
    assert len(times["a"]) == 3


def test_tables_have_at_most_80_columns():
    lines = table(rows())
    assert max(map(len, lines)) <= 80
    assert lines[1] == "layer: 16x192, system allocator"
    assert "2.00   1.00 to 3.00   2.00   3.00" in lines[-1]
    assert table([dataclasses.replace(rows()[1], share=0.5)])[-1].endswith("3.00   50%")


def test_rows_survive_a_file(tmp_path):
    write_rows(tmp_path / "new" / "rows.json", rows(), {"cores": 2})
    assert read_rows(tmp_path / "new" / "rows.json") == rows()
    assert read_facts(tmp_path / "new" / "rows.json") == {"cores": 2}


def test_the_guard_names_what_is_worse_and_what_is_missing():
    key = "layer | 16x192 | ours | system"
    assert rows()[1].key == key
    assert worse(rows(), {key: 1.9}, tolerance=0.1) == []
    assert worse(rows(), {key: 1.5}, tolerance=0.1) == [f"{key}: 2.00, expected 1.50, at most 1.65"]
    assert worse(rows(), {"other": 1.0}, tolerance=0.1) == ["other: not measured"]


def test_the_guard_takes_the_better_of_two_measurements():
    slow, fast = (dataclasses.replace(rows()[1], best=best) for best in (3.0, 1.0))
    for measured in ([slow, fast], [fast, slow]):
        assert worse(measured, {slow.key: 1.0}, tolerance=0.1) == []


def layer_rows():
    sides = {"bare convolution": 1.0, "softattn": 1.234, "plain torch": 1.3, "Conv3d form": 6.0}
    case = "64x2048x7x7 bfloat16 NHWC"
    return [Row("forward", case, side, 100 * ratio, ratio, 1, 2, ratio, ratio, "set", 0.5)
            for side, ratio in {**sides, "limit": 1.1}.items()]  # fmt: skip


def test_a_case_of_the_layer_is_a_line_of_at_most_80_columns():
    lines = brief(layer_rows())
    assert max(map(len, lines)) <= 80
    assert lines[3].startswith("64x2048x7x7 bf16 NHWC")
    assert "1.23 1.00-2.00" in lines[3]
    assert lines[3].split()[-3:] == ["1.30", "6.00", "1.10"]
    # The limit's ratio is 1.1, the Conv3d form's 6.
    assert lines[-1].split()[3:] == ["100.000", "123.400", "110.000", "1.12", "4.86", "50%", "50%"]


def rows_of_the_page():
    case = "16x192x8x8 float32 NCHW"
    sides = {"bare convolution": 1.0, "softattn": 1.25, "CBAM (timm)": 2.0, "Conv3d form": 5.0}
    layer = [Row("forward+backward", case, side, 0.1, ratio, 1, 2, ratio, ratio, "set", 0.5)
             for side, ratio in {**sides, "limit": 1.1}.items()]  # fmt: skip
    return layer + [Row("growth with maps", size, side, 1, 1, 1, 1, 1, 1)
                    for size in ("1", "4") for side in ("bare convolution", "softattn")]  # fmt: skip


def test_the_page_begins_with_a_chart_and_three_sentences_and_the_rest_is_folded(tmp_path):
    write_page(tmp_path / "page.md", rows_of_the_page(), [{"cores": 2}], tmp_path / "images")
    text = (tmp_path / "page.md").read_text()
    seen = re.sub(r"<details.*?</details>", "", text.partition("# Performance\n")[2], flags=re.S)
    pictures = re.findall(r"!\[.+\]\(images/(.+)-(light|dark)\.svg#only-\2\)", seen)
    assert pictures == [("performance", "light"), ("performance", "dark")]
    assert [bool(line) for line in seen.strip().splitlines()] == [True, True, False, *[True] * 3]
    assert len([line for line in seen.splitlines() if line.endswith(".")]) == 3
    assert text.count("```text") == 3
    assert text.count("<details") == 4  # one says how it is measured
    for name in re.findall(r"\]\(images/(.+?)#", text):
        assert (tmp_path / "images" / name).read_text().lstrip().startswith("<?xml")


def test_the_sentences_of_the_page_are_of_the_rows():
    first, second, third = sentences(rows_of_the_page())
    assert "take 1.25 to 1.25 times" in first
    assert "4.00 to 4.00 times as long in the Conv3d form" in first
    assert "(not measured)" in second
    assert "(not measured)" in third


def test_a_target_is_met_not_met_or_not_measured():
    bound = Target("a thing", 1.35, lambda rows: [row.ratio for row in rows])
    found = [Row("layer", "x", "ours", 1, ratio, 1, 1, 1, 1) for ratio in (1.2, 1.354)]
    assert bound.line(found).endswith("1.20 to 1.35  met")
    assert dataclasses.replace(bound, bound=1.3).line(found).endswith("  1 of 2")
    assert dataclasses.replace(bound, at_least=True).line(found).endswith("  1 of 2")
    assert bound.line([]).endswith("not measured")
    lines = verdicts(layer_rows())
    assert max(map(len, lines)) <= 80


def test_rows_are_found_for_a_target():
    rows = [dataclasses.replace(row, case="16x512x7x7 float32 NCHW") for row in layer_rows()]
    wide = [dataclasses.replace(row, case="64x512x7x7 float32 NCHW") for row in rows]
    forward = next(target for target in TARGETS if target.text == "layer / conv, forward, set")
    assert forward.find(rows + wide) == [1.234]
    assert over("forward", "Conv3d form")(rows) == [pytest.approx(6 / 1.234)]


def test_processes_are_measured_and_compared():
    cpu, wall, megabytes = run(["-c", "block = bytearray(200_000_000)"])
    assert 0 < cpu < 60
    assert wall > 0
    assert 200 < megabytes < 400
    with pytest.raises(RuntimeError, match="ended with status"):
        run(["-c", "raise SystemExit(1)"])
    sides = {"import torch": 1.0, "import torch, softattn": 1.02, "softattn --help": 0.05}
    found = {
        part: compare(part, "x", {name: [(v, v)] for name, v in sides.items()}, "import torch")
        for part in (START, MEMORY)
    }
    assert table(found[START])[2].split()[0] == "ms"
    assert table(found[MEMORY])[2].split()[0] == "MB"
    by_text = {target.text: target for target in TARGETS}
    both = [row for rows in found.values() for row in rows]
    assert by_text["import torch, softattn / import torch"].find(both) == [pytest.approx(1.02)]
    for what in ("CPU time in s", "peak memory in GB"):
        assert by_text[f"--version and --help, {what}"].find(both) == [pytest.approx(0.05)]


def test_peak_is_the_most_that_is_held_at_once():
    assert peak([4, 3, -5, 4, -6]) == 7
    assert peak([-3, 2]) == 0


def test_the_name_of_the_processor(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A chip\nmodel name\t: B\n")
    assert cpu_model(tmp_path / "cpuinfo") == "A chip"
    assert cpu_model(tmp_path / "none")


def test_an_unknown_part():
    pytest.importorskip("timm", reason="needs softattn[timm]")
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "run.py", "nothing"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "there is no part 'nothing'. Parts: limits, layer" in done.stderr
