"""Code blocks of a Markdown page."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_BLOCK = re.compile(r"^( *)```(\w+)(.*)\n((?:.*\n)*?)\1```$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced code block and the line on which its code begins."""

    language: str
    title: str | None
    code: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """Return the code blocks of a page in order."""
    text = page.read_text()
    for match in _BLOCK.finditer(text):
        title = re.search(r'title="(.+?)"', match[3])
        line = text.count("\n", 0, match.start(4))
        yield Block(match[2], title and title[1], textwrap.dedent(match[4]), line)


def sections(page: Path) -> dict[str, list[Block]]:
    """Return the code blocks below each second-level heading of a page."""
    lines = page.read_text().splitlines()
    found: dict[str, list[Block]] = {}
    for block in blocks(page):
        above = (line for line in reversed(lines[: block.line]) if line.startswith("## "))
        found.setdefault(next(above, "## ").removeprefix("## "), []).append(block)
    return found


def run_python(page: Path, block: Block, names: dict[str, Any]) -> None:
    """Run a block in a namespace; tracebacks name the page and the line."""
    exec(compile("\n" * block.line + block.code, str(page), "exec"), names)
