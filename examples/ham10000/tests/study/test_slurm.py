import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import slurm_node

from ham10000.study.launcher import worker_environments
from ham10000.training import RunDir

pytest.importorskip("submitit", reason="needs the extra cluster: pip install submitit")

if slurm_node.missing():
    lacking = ", ".join(slurm_node.missing())
    pytest.skip(
        f"needs Slurm ({lacking} not found): apt install slurm-wlm munge", allow_module_level=True
    )

RECIPE = """
name: {name}
data: {{root: {data}, size: 16, protocol: paper, epoch_samples: 32, workers: 0}}
model: {{backbone: 'ham10000:tiny', at: block2}}
attention: {{layer: {layer}}}
training: {{epochs: 1, batch_size: 16}}
logging: {{tensorboard: false}}
"""

RUNS = [f"runs/{name}-seed{seed}" for seed in (0, 1) for name in ("bare", "attended")]


def study(recipes: list[Path], out: Path, *options: str) -> list[str]:
    names = [str(path) for path in recipes]
    command = [sys.executable, "-m", "ham10000", "study", *names, "--seeds", "0", "1"]
    return [*command, "--out", str(out), *options]


@pytest.mark.slow
def test_jobs_outlive_an_interruption_and_predict_as_on_this_machine(
    synthetic: Path, tmp_path: Path
) -> None:
    recipes = [tmp_path / "bare.yaml", tmp_path / "attended.yaml"]
    for path, layer in zip(recipes, ("none", "soft"), strict=True):
        path.write_text(RECIPE.format(name=path.stem, data=synthetic, layer=layer))
    threads = worker_environments(None, len(RUNS))[0].get("OMP_NUM_THREADS", "1")
    # One job at a time, so that jobs are queued when the command is repeated.
    options = ["--launcher", "submitit", "--parallel", "1", "--cpus-per-task", threads]
    command = study(recipes, tmp_path / "cluster", *options)
    folder = tmp_path / "slurm"
    folder.mkdir()
    with slurm_node.running(folder, os.cpu_count() or 1) as variables:
        environment = {**os.environ, **variables}
        with subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            # A shell starts commands in the background with SIGINT ignored.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        ) as first:
            assert first.stdout is not None
            printed = []
            for line in first.stdout:
                printed.append(line)
                if line.startswith("Jobs: "):
                    first.send_signal(signal.SIGINT)
        assert first.returncode == 130, printed
        recorded = (tmp_path / "cluster/jobs.json").read_text()
        assert list(json.loads(recorded)) == RUNS
        assert slurm_node.ask("squeue", "--noheader", **variables)

        again = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        assert "Queued or running since an earlier call: " in again.stdout
        assert "Submitted: " not in again.stdout
        assert (tmp_path / "cluster/jobs.json").read_text() == recorded
    assert slurm_node.processes(folder) == []

    local = study(recipes, tmp_path / "local")
    assert subprocess.run(local, capture_output=True).returncode == 0
    for run in RUNS:
        files = [RunDir(tmp_path / out / run).predictions() for out in ("cluster", "local")]
        assert files[0].read_bytes() == files[1].read_bytes()
