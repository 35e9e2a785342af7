from pathlib import Path
from typing import Any

import pytest

from ham10000.cli import main
from ham10000.recipe import shipped_recipes


def test_study_takes_names_and_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["recipes"])  # imports nothing of study
    import ham10000.cli.study as module

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(module, "run_study", lambda *args, **kw: calls.append((args, kw)) or {})
    monkeypatch.setattr(module, "print_study", lambda result: None)
    arguments = ["lite0", "lite0_sa", "--seeds", "0", "1", "--out", str(tmp_path), "data.size=64"]
    assert main(["study", *arguments]) == 0
    (((recipes, seeds, out), options),) = calls
    shipped = shipped_recipes()
    assert recipes == [shipped["lite0"], shipped["lite0_sa"]]
    assert (list(seeds), out) == ([0, 1], tmp_path)
    assert options["overrides"] == ["data.size=64"]
    assert f"ham10000 report {tmp_path}" in capsys.readouterr().out


def test_study_of_an_unknown_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study"
    assert main(["study", "lite0", "lite0_s", "--seeds", "0", "1", "--out", str(out)]) == 1
    assert "Closest: lite0_sa" in capsys.readouterr().err
    assert not out.exists()
