import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ranks
import torch

from ham10000.errors import ArgumentError, TrainingError
from ham10000.recipe import Recipe, save_recipe
from ham10000.training import INTERRUPTED, RunDir
from ham10000.training.processes import (
    StopRequest,
    all_gather,
    all_reduce_any,
    broadcast_tensors,
    catch_signals,
    limit_threads,
    local_processes,
    start_fabric,
    tune_allocator,
)


@pytest.mark.slow
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


FAULTS = """
import resource, torch
from ham10000.training.processes import tune_allocator
said = tune_allocator() if {tuned} else ""
for _ in range(30):
    torch.ones(16 * 2**20).add_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt, said)
"""


def faults(tuned: bool) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(tuned=tuned)],
        capture_output=True,
        text=True,
        check=True,
    )
    count, _, said = done.stdout.partition(" ")
    return int(count), said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, whose page faults are counted")
def test_large_blocks_are_kept() -> None:
    plain, _ = faults(tuned=False)
    tuned, said = faults(tuned=True)
    if "glibc keeps" not in said:
        pytest.skip(f"needs glibc's own allocator: {said.strip()}")
    assert tuned < plain / 2


def test_what_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert "as set by the variables" in tune_allocator()
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", str(before))
    assert "OMP_NUM_THREADS" in limit_threads(2)
    assert torch.get_num_threads() == before
    monkeypatch.delenv("OMP_NUM_THREADS")
    try:
        limit_threads(10_000)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_signal_is_a_request_and_a_second_interruption_is_one() -> None:
    before = signal.getsignal(signal.SIGTERM)
    request = StopRequest()
    with catch_signals(request):
        assert not request
        os.kill(os.getpid(), signal.SIGTERM)
        assert request
        assert request.reason == "SIGTERM was received"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_time_is_a_request() -> None:
    assert not StopRequest(1.0)
    request = StopRequest(0.0)
    assert request
    assert "max_minutes" in str(request.reason)


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    tensor = torch.ones(2)
    broadcast_tensors([tensor])
    assert all_gather("mine") == ["mine"]
    assert all_reduce_any([True, False], torch.device("cpu")) == [True, False]
    assert local_processes() == 1


def test_collective_operations_of_two_processes(tmp_path: Path) -> None:
    def check() -> int:
        rank = start_fabric("32").global_rank
        tensor = torch.full((2,), float(rank + 5))
        broadcast_tensors([tensor])
        flags = all_reduce_any([rank == 1, False], torch.device("cpu"))
        good = tensor.tolist() == [5.0, 5.0] and flags == [True, False]
        return 0 if good and all_gather({"rank": rank}) == [{"rank": 0}, {"rank": 1}] else 1

    assert ranks.run(check, ranks=2) == [0, 0]


def test_the_time_to_wait_for_another_process_is_a_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import lightning_fabric  # noqa: F401 - here, so that both processes start at once

    def wait() -> int:
        rank = start_fabric("32").global_rank
        all_gather(None)
        if rank == 1:
            time.sleep(30)
        start = time.monotonic()
        with pytest.raises(RuntimeError, match="Timed out waiting 5000ms"):
            all_gather(None)
        return 0 if time.monotonic() - start < 20 else 1

    monkeypatch.setenv("HAM10000_TIMEOUT", "5")
    processes = ranks.start(wait, ranks=2)
    assert ranks.wait(processes[:1]) == [0]
    ranks.kill(processes)


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "ten", "", "1000000"])
def test_a_time_to_wait_that_is_no_number_of_seconds(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("HAM10000_TIMEOUT", given)
    with pytest.raises(ArgumentError, match="HAM10000_TIMEOUT must be a whole number of seconds"):
        start_fabric("32")


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two network namespaces, 10.77.0.1 and 10.77.0.2, with a cable between `eth0` of each."""
    ip = shutil.which("ip")
    names = [f"ham10000-{os.getpid()}-{number}" for number in range(2)]
    commands = [f"netns add {name}" for name in names] + [
        f"link add eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}"
    ]
    for number, name in enumerate(names):
        commands += [
            f"-n {name} link set lo up",
            f"-n {name} addr add 10.77.0.{number + 1}/24 dev eth0",
            f"-n {name} link set eth0 up",
            f"netns exec {name} true",
        ]
    try:
        for command in commands:
            done = subprocess.run(
                [ip or "true", *command.split()], capture_output=True, text=True, check=False
            )
            if ip is None or done.returncode:
                reason = done.stderr.strip() or "there is no command ip"
                pytest.skip(f"needs network namespaces, so root on Linux: {reason}")
        yield names
    finally:
        for name in names if ip is not None else []:
            inside = subprocess.run([ip, "netns", "pids", name], capture_output=True, check=False)
            for process in inside.stdout.split():
                os.kill(int(process), signal.SIGKILL)
            subprocess.run([ip, "netns", "del", name], capture_output=True, check=False)


@pytest.mark.slow
def test_two_hosts_end_when_they_have_lost_their_link(
    recipe: Callable[..., Recipe], hosts: list[str], tmp_path: Path
) -> None:
    save_recipe(recipe(training={"epochs": 5000}), tmp_path / "tiny.yaml")
    run = RunDir(tmp_path / "run")
    seconds = 15
    variables = {"GLOO_SOCKET_IFNAME": "eth0", "HAM10000_TIMEOUT": str(seconds)}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
    torchrun += ["--nproc-per-node", "1", "--master-addr", "10.77.0.1", "--master-port", "29400"]
    train = ["-m", "ham10000", "train", str(tmp_path / "tiny.yaml"), "--out", str(run.path)]
    launched = [
        subprocess.Popen(
            ["ip", "netns", "exec", host, *torchrun, "--node-rank", str(number), *train],
            env={**os.environ, **variables},
            stderr=subprocess.DEVNULL,
        )
        for number, host in enumerate(hosts)
    ]
    ranks.wait_for(
        lambda: bool(run.step_checkpoints()) or any(each.poll() is not None for each in launched)
    )
    subprocess.run(["ip", "-n", hosts[1], "link", "set", "eth0", "down"], check=True)
    cut = time.monotonic()
    assert [each.wait(timeout=120) for each in launched] == [1, 1]
    assert time.monotonic() - cut > seconds / 2, "they ended for another reason"
    assert "does not answer ([" in run.log.read_text()
    print(f"ended {time.monotonic() - cut:.0f} s after the cut, with a timeout of {seconds} s")


def test_processes_are_refused_where_machines_have_different_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="every machine must have the same number"):
        start_fabric("32")


def test_devices_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="fp16 needs a GPU"):
        start_fabric("fp16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(TrainingError, match="this machine has 1 GPUs"):
        start_fabric("32")
