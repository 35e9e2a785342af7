from pathlib import Path
from typing import Any

import pytest

from ham10000.data import DATA_VARIABLE, find_table, read_table
from ham10000.reporting import demo


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of the study and of the report, which are not run."""
    found: dict[str, Any] = {}

    def run_study(recipes: list[Path], **options: Any) -> dict[str, str]:
        found.update(options, recipes=[path.stem for path in recipes])
        return {"verdict": "undecided"}

    monkeypatch.setattr(demo, "run_study", run_study)
    monkeypatch.setattr(demo, "write_report", lambda study, page: found.update(page=page))
    monkeypatch.setattr(demo, "IMAGES", 28)
    return found


def test_without_a_data_set_one_is_generated_once(calls: dict[str, Any], tmp_path: Path) -> None:
    lines: list[str] = []
    assert demo.run_demo(tmp_path, log=lines.append) == tmp_path / "report.html" == calls["page"]
    assert len(read_table(find_table(tmp_path / "data"))) == 28
    assert calls["recipes"] == ["smoke", "smoke_sa"]
    assert f"data.root={(tmp_path / 'data').absolute()}" in calls["overrides"]
    assert lines[0].startswith("Generating 28 synthetic images")
    assert lines[-1] == "undecided"
    demo.run_demo(tmp_path, log=lines.append)
    assert sum(line.startswith("Generating") for line in lines) == 1


def test_a_data_set_is_used_where_there_is_one(
    calls: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, "/named/by/variable")
    demo.run_demo(tmp_path, log=lambda text: None)
    assert "data.root=/named/by/variable" in calls["overrides"]
    demo.run_demo(tmp_path, Path("/given"), log=lambda text: None)
    assert "data.root=/given" in calls["overrides"]
    assert not (tmp_path / "data").exists()
