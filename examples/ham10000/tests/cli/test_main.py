import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ham10000 import cli


def test_a_refusal_is_one_line_without_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify", "--data", str(tmp_path / "nowhere")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ham10000: error: opening ")
    assert "ham10000 download" in captured.err
    assert captured.err.count("\n") == 1


def test_the_module_runs_as_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ham10000", "verify", "--data", str(tmp_path / "nowhere")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("ham10000: error:")


def test_arguments_that_do_not_parse_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["split", "--protocol", "papper"])
    assert stopped.value.code == 2
    assert "papper" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        cli.main([name, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "(default: )" not in text


def test_the_help_of_train_is_one_screen_with_groups(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["positional arguments:", "options:", "processes:", "recipe:"]


def test_an_interruption_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("ham10000.cli.data.verify", interrupted)
    assert cli.main(["verify"]) == 130
    assert capsys.readouterr().err == "ham10000: interrupted\n"


def test_help_and_version_need_no_torch() -> None:
    for option, start in (("--help", "usage: ham10000 COMMAND"), ("--version", "ham10000 0")):
        code = (
            "import sys; from ham10000.cli import main\n"
            f"try: main(['{option}'])\n"
            "except SystemExit as stopped: assert not stopped.code\n"
            "assert 'torch' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(start)


def test_the_help_lists_every_command_with_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert not stopped.value.code
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for name in cli.COMMANDS:
        assert f"\n  {name} " in text
    assert "Train a recipe, or resume a run." in text


def test_a_misspelt_command_is_refused_with_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["trian"])
    assert stopped.value.code == 2
    assert "there is no command 'trian'. Closest: train" in capsys.readouterr().err


def completed(script: str, *words: str) -> list[str]:
    """Return what bash offers for the last word."""
    code = f"""{script}
    COMP_WORDS=({" ".join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}
    _shtab_ham10000; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    run = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_completion_in_bash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert completed(script, "ham10000", "") == list(cli.COMMANDS)
    assert completed(script, "ham10000", "train", "--model.back") == ["--model.backbone"]
    assert completed(script, "ham10000", "evaluate", "--tta", "") == ["1", "2", "4", "8"]
    (tmp_path / "run").mkdir()
    here = f"{tmp_path}/"
    assert completed(script, "ham10000", "report", "--out", here) == [f"{tmp_path}/run"]
    for shell in ("zsh", "tcsh"):
        assert cli.main(["completion", shell]) == 0
        assert "model.backbone" in capsys.readouterr().out
