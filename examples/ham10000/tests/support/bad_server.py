"""A web server on 127.0.0.1 with configurable faults."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """Content and faults of the server."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_at: int | None = None
    """Close the connection after so many bytes, this many times."""
    cuts: int = 0
    status: int = 200
    failures: int = 0
    """Answer with `status` so many times, then well."""
    drip: float = 0.0
    """Seconds between single bytes."""
    silent: float = 0.0
    """Seconds before the first byte."""
    ranges: bool = True
    tag: str = ""
    url: str = ""
    requests: list[str] = field(default_factory=list)
    """The Range header of each request, or ""."""


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests.append(self.headers.get("Range", ""))
            name = self.path.split("?")[0].strip("/")
            if site.failures > 0 or name not in site.files:
                site.failures -= 1
                self.send_error(site.status if site.status != 200 else 404)
                return
            body = site.files[name]
            tag = site.tag or f'"{hashlib.md5(body).hexdigest()}"'
            start = 0
            asked = self.headers.get("Range", "")
            if site.ranges and asked and self.headers.get("If-Range") == tag:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(body) > 0:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.send_header("ETag", tag)
            self.end_headers()
            self._send(body[start:])

        def _send(self, body: bytes) -> None:
            time.sleep(site.silent)
            if site.drip:
                for place in range(len(body)):
                    self.wfile.write(body[place : place + 1])
                    self.wfile.flush()
                    time.sleep(site.drip)
                return
            if site.cut_at is not None and site.cuts > 0:
                site.cuts -= 1
                self.wfile.write(body[: site.cut_at])
                self.close_connection = True
                return
            self.wfile.write(body)

        def handle(self) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):  # the client has had enough
                super().handle()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
