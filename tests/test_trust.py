"""The robustness campaign finds faults that are planted in the code that it tests."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not (BENCHMARKS / "trust.py").exists():
    pytest.skip("needs a checkout", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

from trust_parts import campaign, layer  # noqa: E402
from trust_parts.campaign import Part, WrongResultError, run_part  # noqa: E402

from softattn import SoftAttnError, functional  # noqa: E402
from softattn.errors import ArgumentError  # noqa: E402


def run(case, cases=3, seconds=60.0, limit=5.0, prepare=lambda folder: folder):
    part = Part(prepare, case, (SoftAttnError,), short=cases, share=1.0, limit=limit)
    return run_part("planted", part, 7, iter(range(cases)), seconds)


def kinds(result):
    return [(finding.case, finding.kind) for finding in result.findings]


def test_results_and_errors_of_the_project_are_no_findings():
    def case(folder, rng):
        assert folder.is_dir()
        raise ArgumentError("refused")

    result = run(case)
    assert (result.cases, result.refused, result.findings) == (3, 3, [])


def test_a_foreign_exception_is_found_with_its_place():
    def case(_, rng):
        {}["missing"]

    result = run(case)
    assert kinds(result) == [(0, "foreign"), (1, "foreign"), (2, "foreign")]
    assert "KeyError: 'missing'" in result.findings[0].text
    assert "test_trust.py:" in result.findings[0].text
    assert result.findings[1].command == "--part planted --seed 7 --only 1"


def test_a_wrong_result_is_found():
    def case(_, rng):
        raise WrongResultError("2 + 2 is 5")

    assert kinds(run(case, cases=1)) == [(0, "wrong")]


def test_a_hang_is_found_and_the_cases_after_it_run(tmp_path):
    def case(_, rng):
        with (tmp_path / "cases").open("a") as file:
            file.write("x")
        if (tmp_path / "cases").stat().st_size == 2:
            time.sleep(60)

    result = run(case, limit=0.5)
    assert kinds(result) == [(1, "hang")]
    assert (result.cases, (tmp_path / "cases").read_text()) == (3, "xxx")
    assert result.seconds < 30


def test_the_death_of_the_process_is_found_and_the_cases_after_it_run():
    def case(_, rng):
        os.kill(os.getpid(), signal.SIGKILL)

    result = run(case)
    assert kinds(result) == [(0, "foreign"), (1, "foreign"), (2, "foreign")]
    assert "status -9" in result.findings[0].text


def test_what_cannot_be_prepared_is_found():
    result = run(lambda *_: None, prepare=lambda folder: folder / 1)
    assert kinds(result) == [(0, "foreign")]
    assert "TypeError" in result.findings[0].text


def test_time_and_findings_are_bounded():
    part = Part(lambda _: None, lambda *_: time.sleep(0.2), (), short=1, share=1.0)
    assert 1 <= run_part("slow", part, 0, itertools.count(), 0.5).cases <= 4
    part = Part(lambda _: None, lambda *_: 1 / 0, (), short=1, share=1.0)
    assert run_part("wrong", part, 0, itertools.count(), 60.0, most_findings=4).cases == 4


def test_a_case_depends_on_its_number_and_seed_alone():
    def draw(*key):
        return campaign.numbers(*key).random(), torch.rand(1).item()

    assert draw("part", 1, 5) == draw("part", 1, 5)
    assert len({draw("part", 1, 5), draw("part", 1, 6), draw("part", 2, 5), draw("x", 1, 5)}) == 4


def test_a_fault_of_the_equation_is_found(monkeypatch):
    part = Part(layer.prepare, layer.case, (SoftAttnError,), short=1, share=1.0)
    assert run_part("fuzz-layer", part, 0, iter(range(100)), 60.0).findings == []
    attend = functional.attend
    monkeypatch.setattr(functional, "attend", lambda x, *a, **k: attend(x, *a, **k) * torch.inf)
    found = run_part("fuzz-layer", part, 0, iter(range(100)), 60.0).findings
    assert "not finite" in found[0].text
    assert {finding.kind for finding in found} == {"wrong"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m.eval(), "training"),
        (lambda m: m[0].register_forward_hook(print), "hooks"),
        (lambda m: m[0].weight.data.add_(1), "values of 0.weight"),
        (lambda m: m[0].weight.requires_grad_(False), "requires_grad of 0.weight"),
        (lambda m: setattr(m, "0", nn.Identity()), "names of"),
        (lambda m: setattr(m[0], "kept", 1), "attributes of 0"),
    ],
)
def test_a_changed_model_is_noticed(change, named):
    wrap = pytest.importorskip("trust_parts.wrap", reason="needs softattn[timm]")
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    before = wrap.snapshot(model)
    assert wrap.compare(before, wrap.snapshot(model)) == ""
    change(model)
    found = wrap.compare(before, wrap.snapshot(model))
    assert named in found or "modules" in found


def test_a_damaged_file_that_is_read_as_another_is_found(tmp_path):
    files = pytest.importorskip("trust_parts.files", reason="pip install -e examples/ham10000")
    folder = tmp_path / "sealed"
    folder.mkdir()
    (folder / "content.txt").write_text("content")

    def read(path):
        return (path / "content.txt").read_bytes()

    target = files.Target(folder, ("content.txt",), read, b"content")
    part = Part(lambda _: [target], files.case, (), short=1, share=1.0)
    found = run_part("files", part, 0, iter(range(20)), 60.0).findings
    assert {finding.kind for finding in found} == {"wrong"}
    assert found[0].text == "content.txt is damaged, and is read with other content"
    assert (folder / "content.txt").read_text() == "content"


def test_a_difference_that_was_promised_away_is_found(tmp_path):
    determinism = pytest.importorskip(
        "trust_parts.determinism", reason="pip install -e examples/ham10000"
    )

    def run(name, weight, probability):
        out = tmp_path / name
        (out / "checkpoints").mkdir(parents=True)
        weights = {"w": torch.tensor([1.0, weight], dtype=torch.float64)}
        content = {"model": weights, "ema": weights}
        torch.save(content, out / "checkpoints" / "step-00000001.pt")
        rest = (1 - probability) / 6
        head = "image_id,lesion_id,dx,split,akiec,bcc,bkl,df,mel,nv,vasc"
        row = f"I,L,nv,test,{rest},{rest},{rest},{rest},{rest},{probability},{rest}"
        (out / "predictions.csv").write_text(f"{head}\n{row}\n")
        return out

    base, same = run("base", 2.0, 0.4), run("same", 2.0, 0.4)
    row = determinism.compare_runs("again", same, "base", base, promised=True)
    assert (row.weights, row.predictions, row.broken) == (0, 0, False)
    for other in (run("weight", 2.25, 0.4), run("probability", 2.0, 0.46)):
        rows = [
            determinism.compare_runs("other", other, "base", base, promised)
            for promised in (True, False)
        ]
        assert [row.broken for row in rows] == [True, False]
    assert rows[0].predictions == pytest.approx(0.06)
    assert determinism.table([row, rows[1]])[2:] == [
        "| again | base | identical | identical | identical |",
        "| other | base | no | identical | differ by 0.06 |",
    ]


def test_the_command_prints_a_table_and_writes_a_summary(tmp_path):
    pytest.importorskip("lightning_fabric", reason="pip install -e examples/ham10000")
    script = (
        "import sys; from pathlib import Path; import trust; from trust_parts.campaign import Part\n"
        f"trust.OUT = Path({str(tmp_path)!r})\n"
        "trust.PARTS = {'planted': Part(lambda _: 0, lambda *_: 1 / 0, (), 2, 1.0)}\n"
        "sys.argv = ['trust.py', '--short', '--seed', '3']\n"
        "sys.exit(trust.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *sys.path])},
        timeout=600,
    )
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["part", "cases", "refused", "seconds", "foreign", "wrong", "hang"]
    assert lines[1].split()[:3] == ["planted", "2", "0"]
    assert max(map(len, lines[:2])) <= 80
    assert "--part planted --seed 3 --only 1" in done.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["findings"] == 2
