"""The comparison of initial values of gamma in the benchmarks."""

import csv
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not (BENCHMARKS / "gamma.py").exists():
    pytest.skip("needs a checkout", allow_module_level=True)
pytest.importorskip("timm", reason="needs softattn[timm]")
pytest.importorskip("ham10000", reason="pip install -e examples/ham10000")
sys.path.insert(0, str(BENCHMARKS))

import gamma  # noqa: E402


def result(backbone, task, start, arm, seed):
    """Return a line like that of a run; the value of each arm is another."""
    auc = {"bare": 0.8, "0.01": 0.7, "uniform": 0.9}[arm] + seed / 100
    names = ("backbone", "task", "start", "arm", "seed", "auc", "loss", "look", "cpu_seconds")
    return dict(zip(names, (backbone, task, start, arm, seed, auc, 0.5, 1.5, 60), strict=True))


def test_a_command_that_was_interrupted_trains_the_rest(tmp_path, monkeypatch):
    out, trained = tmp_path / "gamma.csv", []
    monkeypatch.setattr(sys, "argv", ["gamma.py", "--seeds", "0", "--out", str(out)])

    def run(*combination):
        if len(trained) == 5:
            raise KeyboardInterrupt
        trained.append(combination)
        return result(*combination)

    monkeypatch.setattr(gamma, "run", run)
    with pytest.raises(KeyboardInterrupt):
        gamma.main()
    first = trained.copy()
    trained.clear()
    monkeypatch.setattr(gamma, "run", lambda *one: trained.append(one) or result(*one))
    gamma.main()
    assert len(first) == 5
    assert [*first, *trained] == list(gamma.combinations([0]))
    assert len(list(csv.DictReader(out.open()))) == 2 * 3 * 4 * 3


def test_differences_are_paired_by_seed():
    rows = [result("resnet18", "lesions", "random", a, s) for a in gamma.ARMS for s in (0, 1, 2)]
    *_, line = gamma.table([{name: str(value) for name, value in row.items()} for row in rows])
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:3] == ["lesions", "random", "resnet18"]
    assert cells[3:7] == ["0.810 ± 0.010", "0.710 ± 0.010", "0.910 ± 0.010", "+0.100 ± 0.000"]


def test_the_summary_is_a_mean_over_backbones_and_spreads_over_seeds(monkeypatch):
    monkeypatch.setattr(gamma, "BACKBONES", ("resnet18", "resnet34"))
    rows = [
        result(backbone, "lesions", "random", arm, seed)
        for backbone in ("resnet18", "resnet34")
        for arm in gamma.ARMS
        for seed in (0, 1)
    ]
    for row in rows:
        if row["arm"] == "uniform" and row["backbone"] == "resnet34":
            row["auc"] += 0.1 if row["seed"] else 0.3
    unfinished = [result("resnet18", "lesions", "random", arm, 2) for arm in gamma.ARMS]
    *_, line = gamma.summary(
        [{name: str(value) for name, value in row.items()} for row in rows + unfinished]
    )
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["lesions", "random", "-0.100 ± 0.000", "+0.200 ± 0.071", *["0.50"] * 3]


def test_the_page_shows_the_tables_of_the_results():
    page = (BENCHMARKS.parent / "docs" / "guides" / "gamma.md").read_text().splitlines()
    rows = gamma.read(gamma.FILE)
    for table in (gamma.summary(rows), gamma.table(rows)):
        place = page.index(table[0])
        assert page[place : place + len(table)] == table


def test_the_drawn_images_are_the_same_each_time_and_have_their_object():
    one, two = gamma.gratings(of_angles=True), gamma.gratings(of_angles=True)
    assert torch.equal(one.images, two.images)
    assert len(one.labels) == gamma.TRAIN["gratings"] + gamma.TEST
    assert torch.allclose(one.masks.mean((1, 2, 3)), torch.tensor(torch.pi / 16), atol=0.01)
