from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ham10000.data import Finding, VerificationReport
from ham10000.reporting.console import (
    print_counts,
    print_run,
    print_saliency,
    print_study,
    print_verification,
)
from ham10000.training import RunDir


def report(*findings: Finding) -> VerificationReport:
    return VerificationReport(
        Path("set"), 2, 2, {"nv": 2}, list(findings), pd.DataFrame(), pd.DataFrame()
    )


def test_items_of_a_problem_are_listed_and_cut_after_twenty(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [f"ISIC_{number}" for number in range(23)]
    print_verification(report(Finding("masks", "warning", "23 missing", names)))
    shown = capsys.readouterr().out
    assert shown.count("ISIC_") == 20
    assert "... and 3 more; --json has them all" in shown
    assert "usable, 1 warning\n" in shown


def test_an_error_makes_a_data_set_unusable(capsys: pytest.CaptureFixture[str]) -> None:
    print_verification(
        report(Finding("images", "error", "[1] is damaged"), Finding("table", "ok", ""))
    )
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


def test_a_finished_run_has_the_names_that_metrics_have_elsewhere(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_run(RunDir(run))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if "/" not in line]
    assert max(map(len, lines)) <= 80
    words = " ".join(" ".join(lines).split())
    for word in ("images", "balanced", "weighted", "macro F1", "log loss"):
        assert word in words
    assert "recall" not in words


def test_intervals_of_saliency_are_not_cut_at_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    score = {"value": 0.125, "low": 0.056, "high": 0.194}
    methods = ("attention", "grad_cam", "gaussian", "random")
    scores = ("pointing_game", "energy_inside", "iou")
    print_saliency(
        {
            "localisation": {"methods": {m: dict.fromkeys(scores, score) for m in methods}},
            "faithfulness": {"images": 0},
            **{"images": 80, "without_mask": 0, "empty_mask": 0, "resamples": 2000, "seed": 0},
        }
    )
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("[0.056, 0.194]") == 12
    for name in ("centred Gaussian", "random map", "pointing game", "IoU"):
        assert name in text


def test_a_study_begins_with_its_primary_metric_and_ends_with_its_verdict(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = study_result(low=-0.02, high=0.04, p_holm=0.25, outcome="undecided")
    print_study(result)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("5 folds, 2 seeds, 1,234 test images of 1,000 lesions; ")
    assert "se (arm) instead of bare (control), 97.5 % intervals" in map(str.strip, lines[:5])
    rows = [line for line in lines if "50.00" in line]
    assert [row.split()[0] for row in rows] == ["macro", "balanced"] * 2
    assert rows[0].split()[-6:] == ["+1.20", "(-2.00", "to", "4.00)", "0.250", "undecided"]
    assert "Undefined on these images: recall/df" in lines
    assert lines[-2:] == ["se is undecided.", "sa is undecided."]
    assert max(map(len, lines)) <= 80


def test_a_study_with_too_few_runs_has_no_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    print_study(study_result(low=None, high=None, p_holm=None, outcome="too few runs"))
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if "50.00" in line]
    assert rows[0].split()[-4:] == ["+1.20", "too", "few", "runs"]
    assert " to " not in "".join(rows)


def test_a_change_that_rounds_to_zero_has_no_sign(capsys: pytest.CaptureFixture[str]) -> None:
    result = study_result(low=-0.00002, high=0.04, p_holm=0.25, outcome="undecided")
    result["comparisons"]["se"]["auc_macro"]["mean"] = -0.00001
    print_study(result)
    row = next(line for line in capsys.readouterr().out.splitlines() if "50.00" in line)
    assert row.split()[-6:] == ["0.00", "(0.00", "to", "4.00)", "0.250", "undecided"]


def study_result(**change: Any) -> dict[str, Any]:
    estimate = {"mean": 0.5, "std": 0.01}
    names = ["auc_macro", "balanced_accuracy"]
    return {
        "control": "bare",
        "arms": ["se", "sa"],
        "folds": 5,
        "look": {"number": 1, "level": 0.025, "exploratory": False},
        "seeds": [0, 1],
        "images": 1234,
        "lesions": 1000,
        "primary": "auc_macro",
        "secondaries": ["balanced_accuracy", "sensitivity_at_95_specificity/mel"],
        "metrics": {name: dict.fromkeys(("bare", "se", "sa"), estimate) for name in names},
        "comparisons": {
            arm: {name: {"mean": 0.012, **change} for name in names} for arm in ("se", "sa")
        },
        "undefined": ["recall/df"],
        "verdicts": {"se": "se is undecided.", "sa": "sa is undecided."},
    }
