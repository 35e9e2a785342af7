import shlex
import subprocess
import sys

import pytest

import softattn
from softattn.cli import main


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "explain" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"softattn {softattn.__version__}\n"


def test_arguments_that_do_not_fit_together(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["explain", "a.png", "--model", "m", "--out", "o", "--weights", "w", "--pretrained"])
    assert stopped.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_runs_as_a_module():
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "softattn",
            "explain",
            "none.png",
            "--model",
            "none",
            "--out",
            "o",
        ],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert run.stderr.startswith("softattn explain: ")
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["explain", "--help"]])
def test_version_and_help_need_no_torch(arguments):
    code = (
        "import sys; from softattn.cli import main\n"
        f"try: main({arguments})\n"
        "except SystemExit as stopped: assert not stopped.code\n"
        "print([name for name in ('torch', 'numpy', 'PIL') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("\n[]\n")


def completed(script, *words):
    """What bash offers for the last word."""
    code = f"""{script}
    COMP_WORDS=({" ".join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}
    _shtab_softattn; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    run = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_completion_in_bash(capsys):
    pytest.importorskip("shtab", reason="pip install 'softattn[completion]'")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert completed(script, "softattn", "ex") == ["explain"]
    assert completed(script, "softattn", "explain", "--pre") == ["--pretrained"]
    assert completed(script, "softattn", "info", "--num") == ["--num-classes", "--num-maps"]
    for shell in ("zsh", "tcsh"):
        assert main(["completion", shell]) == 0
        assert "pretrained" in capsys.readouterr().out


def test_completion_without_shtab(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'softattn[completion]'" in capsys.readouterr().err
