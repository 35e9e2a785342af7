import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ranks

from ham10000.recipe import Recipe, save_recipe
from ham10000.training import INTERRUPTED, RunDir


def test_processes_start_again_when_one_dies_and_stop_when_told(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    save_recipe(recipe(training={"epochs": 500}), tmp_path / "tiny.yaml")
    run = RunDir(tmp_path / "run")

    def resumed() -> int:
        return run.log.read_text().count("Resuming from step") if run.log.exists() else 0

    command = [sys.executable, "-m", "ham10000", "train", str(tmp_path / "tiny.yaml")]
    command += ["--out", str(run.path), "--processes", "2", "--elastic"]
    launched = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    ranks.wait_for(lambda: bool(run.step_checkpoints()) or launched.poll() is not None)
    assert not resumed()
    os.kill(worker_of(launched.pid), signal.SIGKILL)
    ranks.wait_for(lambda: resumed() == 1 or launched.poll() is not None)
    launched.send_signal(signal.SIGTERM)
    out, err = launched.communicate(timeout=60)
    assert launched.returncode == INTERRUPTED, err
    assert "Not finished. Resume with: ham10000 train --resume" in out
    assert "Traceback" not in err


def worker_of(launcher: int) -> int:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in map(int, children):
        if "--resume" in Path(f"/proc/{child}/cmdline").read_text():
            return child
    raise AssertionError("it has started no process")
