"""A Slurm cluster of one node, in a folder of its own."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "scancel", "sinfo", "squeue", "srun")

TIMEOUT = 60.0
"""Seconds in which daemons must start, and jobs must end after scancel."""

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
KillWait=5
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Names of Slurm's programs that are not installed."""
    return [name for name in (*DAEMONS, *COMMANDS) if _find(name) is None]


@contextmanager
def running(folder: Path, cores: int) -> Iterator[dict[str, str]]:
    """Run the daemons, and yield the environment variable with which commands find them.

    At the end, jobs are cancelled, and the daemons are stopped.
    """
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o600)
    path, host = folder / "slurm.conf", socket.gethostname().partition(".")[0]
    path.write_text(
        _CONFIGURATION.format(
            host=host, ports=_free_ports(2), user=getpass.getuser(), folder=folder, cores=cores
        )
    )
    files = {"key-file": "key", "socket": "munge", "pid-file": "munged.pid", "seed-file": "seed"}
    # The folder is readable only for this user, which munged refuses without --force.
    options = {
        "munged": ["--foreground", "--force", *(f"--{k}={folder / v}" for k, v in files.items())],
        "slurmctld": ["-D", "-f", str(path)],
        "slurmd": ["-D", "-f", str(path)],
    }
    variables = {"SLURM_CONF": str(path)}
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for name in DAEMONS:
            with (folder / f"{name}.log").open("wb") as log:
                command = [str(_find(name)), *options[name]]
                environment = {**os.environ, **variables}
                daemons.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
            if name == "munged":
                _wait((folder / "munge").is_socket, folder)
        _wait(lambda: ask("sinfo", "--noheader", "--format=%T", **variables) == "idle", folder)
        try:
            yield variables
        finally:
            ask("scancel", f"--user={os.getuid()}", **variables)
            _wait(lambda: not ask("squeue", "--noheader", **variables), folder)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(TIMEOUT)
            daemon.kill()
            daemon.wait()


def ask(*command: str, **variables: str) -> str:
    """Return what a command prints, with more environment variables."""
    environment = {**os.environ, **variables}
    found = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=TIMEOUT
    )
    return found.stdout.strip()


def processes(folder: Path) -> list[str]:
    """Command lines of the processes that were started with a path in the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, or is of another user
            command = (path / "cmdline").read_bytes()
            if os.fsencode(folder) in command + (path / "environ").read_bytes():
                found.append(command.replace(b"\0", b" ").decode())
    return found


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


def _wait(condition: Callable[[], bool], folder: Path) -> None:
    until = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > until:
            logs = {path.name: path.read_text()[-2000:] for path in folder.glob("*.log")}
            raise TimeoutError(f"Slurm does not answer. Its logs: {logs}")
        time.sleep(0.2)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
