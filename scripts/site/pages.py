"""Links from API pages to the guides that use a public name."""

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mkdocs.utils.yaml import yaml_load
from sphinx.application import Sphinx

__all__ = ["point_to_guides"]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_ABOVE = ("class", "exception", "function", "module")


class Guide(NamedTuple):
    """A guide that uses public names."""

    title: str
    address: str
    text: str


def point_to_guides(
    app: Sphinx, kind: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Append links to the guides that use a public name to its docstring."""
    public = name.split(".")[-1]
    if kind not in _ABOVE or not (guides := [g for g in _guides() if _says(g.text, public)]):
        return
    links = ", ".join(f"`{guide.title} <../../{guide.address}>`__" for guide in guides)
    lines += ["", f".. seealso:: {links}", ""]


@cache
def _read(configuration: Path) -> dict[str, Any]:
    with configuration.open() as file:
        return yaml_load(file)


def _paths(content: Any) -> Any:
    if isinstance(content, str):
        yield content
    for entry in content if isinstance(content, list) else []:
        yield from _paths(entry if isinstance(entry, str) else next(iter(entry.values())))


@cache
def _guides() -> list[Guide]:
    guides = []
    for entry in _read(ROOT / "mkdocs.yml")["nav"]:
        for path in _paths(entry.get("Guides", [])):
            text = (DOCS / path).read_text()
            title = re.search(r"^# (.+)$", text, re.MULTILINE)
            guides.append(Guide(title[1] if title else path, _address(path), text))
    return guides


def _address(path: str) -> str:
    return path.removesuffix(".md").removesuffix("index") + ("" if path == "index.md" else "/")


def _says(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)|\.{re.escape(name)}\(", text) is not None
