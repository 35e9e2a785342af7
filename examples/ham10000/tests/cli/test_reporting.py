from pathlib import Path

import pytest

from ham10000.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["localise", "run", "--faithful", "-1"], "--faithful must be 0 or more, found -1"),
        (["report", "run", "--out", "page.html", "--each", "-1"], "--each must be 0 or more"),
        (["explain", "run", "--out", "figures"], "no images are selected. Pass --image"),
        (["explain", "run", "--out", "figures", "--worst", "3"], "ham10000 train RECIPE --out run"),
    ],
)
def test_refusals(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert message in capsys.readouterr().err
