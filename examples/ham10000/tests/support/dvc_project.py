"""DVC in a project of its own, whose commands `ham10000` run in forks of this process.

A command that starts Python imports torch first, which takes longer than all that it does here.
"""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ranks
import yaml

from ham10000.cli import main

PIPELINE = Path(__file__).parents[2]
FILES = ("dvc.yaml", "params.yaml", "pipeline.yaml", ".dvcignore")
_CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    call = json.dumps([os.getcwd(), sys.argv[1:]]).encode()
    socket.send_fds(server, [call], [1, 2])
    server.shutdown(socket.SHUT_WR)
    sys.exit(int(server.recv(16)))
"""


class DvcProject:
    """The pipeline of this repository in a new git repository, with changed parameters."""

    def __init__(self, folder: Path, pipeline: dict[str, Any], params: dict[str, Any]) -> None:
        self.folder = folder
        folder.mkdir()
        for name in FILES:
            shutil.copy(PIPELINE / name, folder)
        self.edit("pipeline.yaml", pipeline)
        self.edit("params.yaml", params)
        self.run("git", "init", "-q")
        for key, value in (("user.email", "nobody@example.org"), ("user.name", "Nobody")):
            self.run("git", "config", key, value)
        self.run("dvc", "init", "-q")
        self.run("dvc", "config", "core.analytics", "false")
        self.commit()

    def edit(self, name: str, changes: dict[str, Any]) -> None:
        """Change values of a YAML file, given as `section.field` or `field`."""
        path = self.folder / name
        content = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            *sections, field = key.split(".")
            part = content
            for section in sections:
                part = part[section]
            part[field] = value
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def commit(self) -> None:
        """Commit everything that git sees."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", "state")

    def run(self, *command: str) -> str:
        """Run a command, which must succeed, and return its output."""
        # The path of a socket is short.
        with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as server:
            address = f"{name}/socket"
            client = Path(name) / "ham10000"
            client.write_text(_CLIENT.format(python=sys.executable, address=address))
            client.chmod(client.stat().st_mode | stat.S_IXUSR)
            server.bind(address)
            server.listen()
            server.settimeout(0.05)
            path = f"{name}:{Path(sys.executable).parent}:{os.environ['PATH']}"
            environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}
            with tempfile.TemporaryFile("w+") as output:
                process = subprocess.Popen(
                    command, cwd=self.folder, env=environment, stdout=output, stderr=output
                )
                try:
                    while process.poll() is None:
                        _serve(server)
                finally:
                    process.kill()
                    process.wait()
                output.seek(0)
                text = output.read()
        assert process.returncode == 0, f"{' '.join(command)}:\n{text[-8000:]}"
        return text


def _serve(server: socket.socket) -> None:
    """Run the command of a client if there is one."""
    try:
        client, _ = server.accept()
    except TimeoutError:
        return
    with client:
        client.setblocking(True)
        call, handles, _, _ = socket.recv_fds(client, 1 << 16, 2)
        folder, arguments = json.loads(call)
        try:
            (status,) = ranks.run(_command, folder, arguments, handles)
        finally:
            for handle in handles:
                os.close(handle)
        client.sendall(str(status).encode())


def _command(folder: str, arguments: list[str], handles: list[int]) -> int:
    os.chdir(folder)
    for number, handle in enumerate(handles, start=1):
        os.dup2(handle, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    status = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    return status
