from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ham10000.data import Finding, Report
from ham10000.reporting.console import print_counts, print_report, print_run, print_study
from ham10000.training import RunDir


def report(*findings: Finding) -> Report:
    return Report(Path("set"), 2, 2, {"nv": 2}, list(findings), pd.DataFrame(), pd.DataFrame())


def test_items_of_a_problem_are_listed_and_cut_after_twenty(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [f"ISIC_{number}" for number in range(23)]
    print_report(report(Finding("masks", "warning", "23 missing", names)))
    shown = capsys.readouterr().out
    assert shown.count("ISIC_") == 20
    assert "... and 3 more; --json has them all" in shown
    assert "usable, 1 warning\n" in shown


def test_an_error_makes_a_data_set_unusable(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(report(Finding("images", "error", "[1] is damaged"), Finding("table", "ok", "")))
    shown = capsys.readouterr().out
    assert "not usable, 0 warnings" in shown
    assert "[1] is damaged" in shown


def test_counts_have_thousands_separators(capsys: pytest.CaptureFixture[str]) -> None:
    print_counts(pd.DataFrame({"nv": [6705]}, index=["train"]), "A split")
    assert "6,705" in capsys.readouterr().out


def test_an_unfinished_run_says_how_to_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_run(RunDir(tmp_path))
    assert "Resume with: ham10000 train --resume" in capsys.readouterr().out


def test_a_study_begins_with_its_primary_metric_and_ends_with_its_verdict(
    capsys: pytest.CaptureFixture[str],
) -> None:
    estimate = {"mean": 0.5, "std": 0.01}
    change = {"difference": 0.012, "low": -0.02, "high": 0.04, "p_holm": 0.25}
    names = ["balanced_accuracy", "auc_macro"]
    result: dict[str, Any] = {
        "recipes": ["bare", "sa"],
        "seeds": [0, 1],
        "images": 1234,
        "lesions": 1000,
        "primary": "auc_macro",
        "metrics": {name: {"bare": estimate, "sa": estimate} for name in names},
        "comparison": dict.fromkeys(names, change),
        "undefined": ["recall/df"],
        "verdict": "sa is undecided.",
    }
    print_study(result)
    lines = capsys.readouterr().out.splitlines()
    assert "2 seeds, 1,234 test images of 1,000 lesions" in lines[0]
    rows = [line for line in lines if "50.0 (1.0)" in line]
    assert [row.split()[0] for row in rows] == ["macro", "balanced"]
    assert "+1.2 (-2.0 to 4.0)" in rows[0]
    assert "Undefined on these images: recall/df" in lines
    assert lines[-1] == "sa is undecided."
    assert max(map(len, lines)) <= 80
