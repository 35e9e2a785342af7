"""Download of one file over HTTP, with resume and checksum; the file appears when it is complete.

pooch compares the checksum, moves the file into place and keeps a file that is already there. The
downloader in this module adds resuming, which pooch doesn't have.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from urllib3.exceptions import HTTPError

from ham10000.errors import DownloadError, cannot_write

__all__ = ["Patience", "fetch"]

_CHUNK = 1 << 18


@dataclass(frozen=True)
class Patience:
    """Timeouts in seconds, and retries."""

    connect: float = 20.0
    read: float = 60.0
    """Longest time without a byte."""
    slow: float = 120.0
    """Longest time below `least` bytes per second."""
    least: float = 1024.0
    attempts: int = 5
    pause: float = 2.0
    """Pause after the first failure. It doubles with each further one."""


def fetch(
    url: str,
    path: Path,
    *,
    sums: str | None = None,
    most: int = 8 * 2**30,
    patience: Patience = Patience(),
) -> Path:
    """Download a file, unless it is already there with the right checksum.

    If the connection breaks, the bytes received so far are kept next to the file as `.part`, and
    the next attempt requests only the rest if the server confirms that the file is unchanged.

    Args:
        url: Source.
        path: Destination.
        sums: Checksum in pooch's form, such as "md5:..."; `None` accepts any content.
        most: Refuse a file with more bytes.
        patience: Timeouts and retries.

    Raises:
        DownloadError: There is no connection, or the file is refused, too slow, too large, or not
            the published one.
        WriteError: The disk is full or read-only.
    """
    downloader = _Resuming(path, most, patience)
    pooch.get_logger().setLevel("ERROR")  # the progress bar is enough
    try:
        pooch.retrieve(
            url, known_hash=sums, fname=path.name, path=path.parent, downloader=downloader
        )
    except ValueError as error:  # pooch's error for a wrong checksum
        raise DownloadError(
            f"downloading {path.name} from {url}: the file is not the published one "
            f"(expected {sums}). Nothing was kept. Try again later, or another --source, if any."
        ) from error
    except OSError as error:
        if isinstance(error, DownloadError):
            raise
        raise cannot_write(path, error) from error
    return path


class _Resuming:
    """Downloader with the interface that pooch expects."""

    def __init__(self, path: Path, most: int, patience: Patience) -> None:
        self.part = path.with_name(path.name + ".part")
        self.tag = path.with_name(path.name + ".part.etag")
        self.doing = f"downloading {path.name}"
        self.most, self.patience = most, patience

    def __call__(self, url: str, output_file: str, _: object, check_only: bool = False) -> None:
        problem = ""
        for attempt in range(self.patience.attempts):
            if attempt:
                time.sleep(self.patience.pause * 2 ** (attempt - 1))
            try:
                self._attempt(url)
            except (requests.RequestException, HTTPError, TimeoutError) as error:
                problem = _reason(error)
                continue
            shutil.move(self.part, output_file)
            self.tag.unlink(missing_ok=True)
            return
        kept = self.part.stat().st_size if self.part.exists() else 0
        rest = f" {kept:,} bytes are kept, and the next attempt resumes there." if kept else ""
        raise DownloadError(
            f"{self.doing} from {url}: {problem}, after {self.patience.attempts} attempts.{rest}"
        )

    def _attempt(self, url: str) -> None:
        tag = self._kept_tag()
        have = self.part.stat().st_size if tag and self.part.exists() else 0
        headers = {"Accept-Encoding": "identity"}  # so that sizes are those on disk
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": tag}
        timeout = (self.patience.connect, self.patience.read)
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
            if response.status_code == 416:  # the kept part is longer than the file: start again
                self.part.unlink(missing_ok=True)
                raise requests.ConnectionError("the kept part is longer than the file")
            if response.status_code >= 500 or response.status_code in (408, 429):
                raise requests.HTTPError(f"the server answered {response.status_code}")
            if response.status_code not in (200, 206):
                raise DownloadError(
                    f"{self.doing} from {url}: the server answered {response.status_code} "
                    f"({response.reason}). The file may have moved; try another --source, if any."
                )
            resumed = response.status_code == 206
            self._remember(response)
            self._receive(response, have if resumed else 0)

    def _kept_tag(self) -> str:
        try:
            tag = self.tag.read_text(encoding="ascii")
        except (FileNotFoundError, UnicodeDecodeError):
            return ""
        return tag if tag.isprintable() else ""  # a damaged one is not a valid header

    def _remember(self, response: requests.Response) -> None:
        tag = response.headers.get("ETag", "")
        if tag and not tag.startswith("W/"):  # a weak tag doesn't guarantee equal bytes
            self.tag.write_text(tag, encoding="ascii", errors="replace")
        else:
            self.tag.unlink(missing_ok=True)

    def _receive(self, response: requests.Response, have: int) -> None:
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None and length.isdigit() else None
        self._check_size(total or 0)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        console = Console(stderr=True)
        with (
            self.part.open("ab" if have else "wb") as file,
            Progress(
                *columns,
                TransferSpeedColumn(),
                console=console,
                transient=True,
                disable=not console.is_terminal,
            ) as bar,
        ):
            task = bar.add_task(self.part.stem, total=total, completed=have)
            size, began, then = have, time.monotonic(), have
            # read1 returns the bytes that have arrived; read would wait for a whole chunk.
            while chunk := response.raw.read1(_CHUNK):
                file.write(chunk)
                size += len(chunk)
                self._check_size(size)
                bar.update(task, completed=size)
                if (passed := time.monotonic() - began) > self.patience.slow:
                    if (size - then) / passed < self.patience.least:
                        raise TimeoutError(f"only {(size - then) / passed:.0f} bytes a second")
                    began, then = time.monotonic(), size
        if total is not None and size < total:
            raise requests.ConnectionError(f"the connection was cut at {size:,} of {total:,} bytes")

    def _check_size(self, size: int) -> None:
        if size > self.most:
            self.part.unlink(missing_ok=True)
            raise DownloadError(
                f"{self.doing}: it has more than {self.most:,} bytes, so it is not the published "
                "file. Try another --source, if any."
            )


def _reason(error: Exception) -> str:
    if isinstance(error, requests.Timeout) or "timed out" in str(error).lower():
        return "the server didn't answer in time"
    if isinstance(error, requests.ConnectionError) and not error.args:
        return "no connection"
    text = str(error)
    for sign, meaning in (
        ("NameResolution", "no network, or no such server"),
        ("name resolution", "no network, or no such server"),
        ("refused", "the connection is refused"),
        ("unreachable", "no network"),
        ("IncompleteRead", "the connection was cut"),
        ("reset", "the connection was cut"),
        ("aborted", "the connection was cut"),
    ):
        if sign in text:
            return meaning
    return text
