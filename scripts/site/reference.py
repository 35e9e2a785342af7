"""API pages: Sphinx writes them, and mkdocs shows them as it shows the guides.

Header, navigation, search, copy buttons and edit links are therefore the same on both sides. The
content of a page that Sphinx wrote replaces that of an empty page of mkdocs.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, InclusionLevel
from mkdocs.structure.pages import Page
from mkdocs.structure.toc import TableOfContents, get_toc

__all__ = ["content", "files", "is_reference", "navigation", "source", "table_of_contents"]

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
INDEX = ROOT / "docs" / "api" / "index.rst"
NOT_SHOWN = {"api/genindex", "api/search", "api/py-modindex"}

_ARTICLE = re.compile(r"<article [^>]*>(.*?)</article>", re.DOTALL)
_TITLE = re.compile(r"<h1.*?>(.*?)<a ", re.DOTALL)
_ENTRY = re.compile(
    r'<h2 id="(?P<heading>[^"]+)">(?P<title>.*?)<a |'
    r'<dt class="sig sig-object[^"]*" id="(?P<member>[^"]+)">'
)
_SOURCE = re.compile(r"_modules/([\w/]+)/")


def files(config: MkDocsConfig) -> list[File]:
    """Return a page for each page that Sphinx wrote."""
    found = []
    for path in sorted((BUILD / "api").rglob("index.html")):
        place = path.parent.relative_to(BUILD).as_posix()
        if place in NOT_SHOWN:
            continue
        code = place.startswith("api/_modules")
        title = _TITLE.search(_article(path))
        start = f"---\nsearch: {{ exclude: {str(code).lower()} }}\n---\n"
        page = File.generated(
            config,
            "api/index.md" if place == "api" else f"{place}.md",
            content=f"{start}# {title[1].strip() if title else place}\n",
            inclusion=InclusionLevel.NOT_IN_NAV if code else InclusionLevel.INCLUDED,
        )
        found.append(page)
    return found


def navigation() -> dict[str, list[Any]]:
    """Return the entry of the API for the navigation: the groups of docs/api/index.rst."""
    groups: list[Any] = ["api/index.md"]
    for group in re.split(r"^\.\. autosummary::\n", INDEX.read_text(), flags=re.MULTILINE)[1:]:
        (caption,) = re.findall(r"^   :caption: (.+)$", group, re.MULTILINE)
        names = re.findall(r"^   ([\w.]+)$", group, re.MULTILINE)
        groups.append({caption: [f"api/softattn.{name}.md" for name in names]})
    return {"API": groups}


def is_reference(page: Page) -> bool:
    """Return whether a page is one of Sphinx."""
    return page.file.src_uri.startswith("api/")


def content(page: Page) -> str:
    """Return the content that Sphinx wrote for a page."""
    return _article(BUILD / page.file.dest_uri)


def table_of_contents(html: str) -> TableOfContents:
    """Return the headings of a page, or the members of its class."""
    title = re.search(r'<h1 id="([^"]+)">(.*?)<a ', html, re.DOTALL)
    own, entries = None, []
    for match in _ENTRY.finditer(html):
        anchor = match["heading"] or match["member"]
        name = match["title"] or anchor.rpartition(".")[2]
        if own is None and match["member"]:
            own = anchor  # the class or function that the page is about
        else:
            entries.append({"level": 2, "id": anchor, "name": name, "children": []})
    if title is None:
        return get_toc([])
    return get_toc([{"level": 1, "id": title[1], "name": title[2], "children": entries}])


def source(page: Page, html: str) -> str:
    """Return the path in the repository of what a page is made from."""
    module = _SOURCE.search(page.url if "_modules/" in page.url else html)
    if module is not None and page.file.src_uri != "api/index.md":
        for path in (f"src/{module[1]}.py", f"src/{module[1]}/__init__.py"):
            if (ROOT / path).is_file():
                return path
    return INDEX.relative_to(ROOT).as_posix()


def _article(path: Path) -> str:
    found = _ARTICLE.search(path.read_text())
    if found is None:
        raise ValueError(f"reading {path}, a page of Sphinx: found no article in it")
    return found[1].strip()  # text before the title would be a section of the search index
