"""Cases of a part in a process of their own, and what is wrong with them.

A part is a generator of random cases. A case passes if it returns, or raises an error of the
project. A `WrongResultError` is a finding, and so is any other exception, a case that does not end
within its limit, and the death of the process. Case n of a seed is always the same case: its random
numbers depend on nothing but the part, the seed and n.
"""

import hashlib
import multiprocessing
import os
import random
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

KINDS = ("foreign", "wrong", "hang")
"""Kinds of findings: a foreign exception, a wrong result, a case that does not end."""

PREPARE_SECONDS = 600.0


class WrongResultError(Exception):
    """A case has a result other than the promised one."""


@dataclass(frozen=True)
class Part:
    """One part of the campaign."""

    prepare: Callable[[Path], Any]
    """Function of an empty folder that returns what all cases share."""
    case: Callable[[Any, random.Random], None]
    """Function of what `prepare` returned, and of the random numbers of the case."""
    errors: tuple[type[Exception], ...]
    """Errors of the project, which a case may raise."""
    short: int
    """Number of cases of the short form."""
    share: float
    """Share of the time of the long form."""
    limit: float = 60.0
    """Seconds after which a case counts as a hang."""


@dataclass(frozen=True)
class Finding:
    """A fault that a case found."""

    part: str
    seed: int
    case: int
    kind: str
    text: str

    @property
    def command(self) -> str:
        """The arguments of `benchmarks/trust.py` that run this case again."""
        return f"--part {self.part} --seed {self.seed} --only {self.case}"


@dataclass
class Result:
    """Outcome of a part."""

    part: str
    cases: int = 0
    refused: int = 0
    """Number of cases that ended with an error of the project."""
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def count(self, kind: str) -> int:
        """Return the number of findings of a kind."""
        return sum(finding.kind == kind for finding in self.findings)


def numbers(name: str, seed: int, case: int) -> random.Random:
    """Return the random numbers of a case, and seed torch with them."""
    digest = hashlib.sha256(f"{name} {seed} {case}".encode()).digest()
    found = random.Random(digest)
    torch.manual_seed(found.getrandbits(63))
    return found


def run_part(
    name: str, part: Part, seed: int, cases: Iterator[int], seconds: float, most_findings: int = 20
) -> Result:
    """Run cases until they are over, the time is, or there are too many findings.

    A case that does not end, or that ends its process, is recorded, and the others go on in a new
    process. The time of preparing does not count.
    """
    result = Result(name)
    began = time.monotonic()
    left = seconds
    case = next(cases, None)
    while case is not None and left > 0 and len(result.findings) < most_findings:
        process, pipe = _start(name, part, seed)
        try:
            if (message := _receive(pipe, PREPARE_SECONDS)) != ("ready",):
                text = f"preparing fails: {message}"
                result.findings.append(Finding(name, seed, case, "foreign", text))
                break
            while case is not None and left > 0 and len(result.findings) < most_findings:
                at = time.monotonic()
                pipe.send(case)
                kind, text = _outcome(_receive(pipe, part.limit), process, part.limit)
                left -= time.monotonic() - at
                result.cases += 1
                result.refused += kind == "refused"
                if kind in KINDS:
                    result.findings.append(Finding(name, seed, case, kind, text))
                case = next(cases, None)
                if not process.is_alive() or kind == "hang":
                    break
        finally:
            _end(process)
    result.seconds = time.monotonic() - began
    return result


def _outcome(message: Any, process: BaseProcess, limit: float) -> tuple[str, str]:
    if message == "nothing":
        return "hang", f"it did not end within {limit:.0f} s"
    if message == "closed":
        process.join(10)
        return "foreign", f"the process ended with status {process.exitcode}"
    kind, text = message
    return kind, text


def _receive(pipe: Connection, limit: float) -> Any:
    """Return the next message, "nothing" if none comes within the limit, "closed" at the end."""
    if not pipe.poll(limit):
        return "nothing"
    try:
        return pipe.recv()
    except (EOFError, ConnectionError):
        return "closed"


def _start(name: str, part: Part, seed: int) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(name, part, seed, ours, theirs))
    process.start()
    theirs.close()
    return process, ours


def _end(process: BaseProcess) -> None:
    if process.pid is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.join()


def _work(name: str, part: Part, seed: int, ours: Connection, pipe: Connection) -> None:
    """Run the cases that arrive in a pipe."""
    ours.close()
    os.setsid()
    with tempfile.TemporaryDirectory(prefix="trust-") as folder:
        try:
            shared = part.prepare(Path(folder))
        except Exception:
            pipe.send(("failed", traceback.format_exc()))
            return
        pipe.send(("ready",))
        with suppress(EOFError):
            while True:
                pipe.send(_classified(part, shared, numbers(name, seed, pipe.recv())))


def _classified(part: Part, shared: Any, rng: random.Random) -> tuple[str, str]:
    try:
        part.case(shared, rng)
    except WrongResultError as error:
        return "wrong", str(error)
    except part.errors as error:
        return "refused", str(error)
    except Exception as error:
        return "foreign", f"{_last_lines(error)}"
    return "passed", ""


def _last_lines(error: Exception) -> str:
    """Return an exception, with the last places it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    steps = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]} ({' '.join(steps[-8:])})"
