"""Settings that the API pages share with the guides: theme, navigation, links to guides."""

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mkdocs.utils.yaml import yaml_load
from sphinx.application import Sphinx
from sphinx_immaterial.nav_adapt import MkdocsNavEntry

__all__ = ["point_to_guides", "show_whole_site", "theme_options"]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_ABOVE = ("class", "exception", "function", "module")


class Guide(NamedTuple):
    """A guide that uses public names."""

    title: str
    address: str
    text: str


def theme_options(configuration: Path) -> dict[str, Any]:
    """Return the theme options of the guides for the API pages."""
    theme = _read(configuration)["theme"]
    shared = {key: theme[key] for key in ("font", "palette")}
    features = [each for each in theme["features"] if not each.startswith("content.code")]
    return {
        **shared,
        "icon": {"logo": theme["icon"]["logo"]},
        "features": [*features, "toc.sticky"],
        "scope": "/",
        "globaltoc_collapse": True,
    }


def point_to_guides(
    app: Sphinx, kind: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Append links to the guides that use a public name to its docstring."""
    public = name.split(".")[-1]
    if kind not in _ABOVE or not (guides := [g for g in _guides() if _says(g.text, public)]):
        return
    links = ", ".join(f"`{guide.title} <../{guide.address}>`__" for guide in guides)
    lines += ["", f".. seealso:: {links}", ""]


def show_whole_site(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Insert the navigation of the API into that of the site."""
    root = "../" * (page.count("/") + 1)
    api = context["nav"]
    entries = [_entry(title, root + address) for title, address in _tabs()]
    entries.append(_entry("API", context["pathto"]("index"), children=list(api), active=True))
    context["nav"] = type(api)(entries)
    context["nav"].homepage = {"url": root}


def _entry(
    title: str, address: str, children: list[MkdocsNavEntry] | None = None, active: bool = False
) -> MkdocsNavEntry:
    return MkdocsNavEntry(
        title_text=title,
        url=address,
        children=children or [],
        active=active,
        current=False,
        caption_only=bool(children),
        active_or_section_within_active=active,
    )


@cache
def _read(configuration: Path) -> dict[str, Any]:
    with configuration.open() as file:
        return yaml_load(file)


def _tabs() -> list[tuple[str, str]]:
    """Return the tabs of the site with the address of their first page."""
    tabs = [next(iter(entry.items())) for entry in _read(ROOT / "mkdocs.yml")["nav"]]
    return [(title, _address(next(_paths(content)))) for title, content in tabs if content]


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
