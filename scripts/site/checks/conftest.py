"""Fixtures: the built site, served locally, and a browser."""

import json
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from built_site import BASE, SITE
from playwright.sync_api import sync_playwright

# Disable what Chromium does in the background.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


VERSIONS = [
    {"version": "dev", "title": "dev", "aliases": []},
    {"version": BASE.strip("/").rpartition("/")[2], "title": "1.2", "aliases": ["latest"]},
]


class _Pages(SimpleHTTPRequestHandler):
    """The site below the path of its address, and the list of versions beside it."""

    def translate_path(self, path):
        # Outside of the path of the address there is no page, as on GitHub.
        inside = path.partition("?")[0].removeprefix(BASE) if path.startswith(BASE) else "-/"
        return super().translate_path(f"/{inside}")

    def do_GET(self):
        if self.path.partition("?")[0] == BASE.rstrip("/").rpartition("/")[0] + "/versions.json":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(VERSIONS).encode())
        else:
            super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def address():
    def pages(*arguments):
        return _Pages(*arguments, directory=SITE)

    server = ThreadingHTTPServer(("127.0.0.1", 0), pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}{BASE}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium, or its path in CHROMIUM")
    with sync_playwright() as playwright:
        home = {**os.environ, "HOME": str(tmp_path_factory.mktemp("home"))}
        started = playwright.chromium.launch(executable_path=path, args=FLAGS, env=home)
        yield started
        started.close()


@pytest.fixture
def open_page(browser, address):
    """Open a page of the site; errors on it are collected in `page.complaints`."""
    opened = []

    def open_page(path, width=1280, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce"
        )
        page = context.new_page()
        opened.append(context)
        page.complaints, page.requests = [], []
        page.on("console", lambda said: said.type == "error" and page.complaints.append(said.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("requestfailed", lambda request: page.complaints.append(f"failed: {request.url}"))
        page.on("response", lambda it: it.status >= 400 and page.complaints.append(it.url))
        page.on("requestfinished", lambda request: page.requests.append(request))
        page.goto(address + path, wait_until="networkidle")
        # On a busy machine, the network can be idle before a long page is parsed.
        page.wait_for_function("document.readyState === 'complete'")
        return page

    yield open_page
    for context in opened:
        context.close()
