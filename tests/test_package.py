"""Scripts that check the package, and lock files of published results."""

import json
import os
import re
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "examples/ham10000/results").glob("*/environments.json"))
if not RESULTS:
    pytest.skip("needs a checkout", allow_module_level=True)

import check_package  # noqa: E402
import lock  # noqa: E402


def wheel(folder, content="1", mtime=(2020, 2, 2, 0, 0, 0)):
    folder.mkdir(exist_ok=True)
    path = folder / "softattn-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("same.py", "same")
        archive.writestr(zipfile.ZipInfo("other.py", mtime), content)
    return path


@pytest.mark.parametrize("change", [{"content": "2"}, {"mtime": (2021, 2, 2, 0, 0, 0)}])
def test_a_build_that_cannot_be_repeated_is_found(tmp_path, monkeypatch, change):
    first = wheel(tmp_path / "first")

    def build(again):
        def run(command, **_):
            again(Path(command[command.index("--outdir") + 1]))

        return run

    monkeypatch.setattr(check_package, "_tracked", lambda *_: ["pyproject.toml"])
    monkeypatch.setattr(check_package.subprocess, "run", build(wheel))
    check_package.check_rebuild([first])
    monkeypatch.setattr(check_package.subprocess, "run", build(lambda out: wheel(out, **change)))
    with pytest.raises(SystemExit, match=r"other bytes. Members that differ: \['other.py'\]"):
        check_package.check_rebuild([first])


@pytest.mark.parametrize("source", RESULTS, ids=lambda path: path.parent.name)
def test_published_results_have_a_lock_file_with_their_versions(source):
    lines = source.with_name("requirements.lock").read_text().splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==\S+ --hash=sha256:[0-9a-f]{64}", p) for p in pinned)
    versions = {line.split(" ")[0] for line in pinned}
    environment = lock.the_environment(source)
    assert versions >= set(lock.recorded(environment))
    assert f"Python {environment['python']}," in lines[0]
    names = {each.partition("==")[0] for each in versions}
    for requirement in lock.requirements():
        name = re.match(r"[\w-]+", requirement)[0].lower()
        assert name in names, f"run: python scripts/lock.py {os.path.relpath(source, ROOT)}"


def test_runs_of_several_environments_are_refused(tmp_path):
    environments = json.loads(RESULTS[0].read_text())
    other = json.loads(json.dumps(environments[0]))
    other["environment"]["packages"]["torch"] = "1.0"
    path = tmp_path / "environments.json"
    path.write_text(json.dumps([environments[0], other]))
    with pytest.raises(SystemExit, match="several environments"):
        lock.the_environment(path)
