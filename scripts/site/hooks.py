"""mkdocs hooks of the site.

They add the API pages built by Sphinx, the gallery, the figures of published results, and the
Markdown files of the repository root; link public names to their API pages; and add these names to
the search index.
"""

import inspect
import json
import pydoc
import re
from functools import cache
from pathlib import Path

import sphobjinv
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.nav import Link, Navigation
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
TEXTS = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
WITHIN = InclusionLevel.INCLUDED  # although docs/api is excluded
MENDED = {
    'data-md-component="search" role="dialog"': (
        'data-md-component="search" role="dialog" aria-label="Search"'
    ),
    '<article class="md-content__inner md-typeset" role="main">': (
        '<article class="md-content__inner md-typeset">'  # already inside <main>
    ),
}

# Links, headings and code blocks are not changed.
_CODE = re.compile(r"<(a|h\d|pre|summary)\b.*?</\1>|<code>([\w.]+)(\(\))?</code>", re.DOTALL)
# A name in a code block, as marked up by the highlighter.
_NAME = re.compile(r'<span class="n[cnf]?">(\w+)</span>')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add generated files and files from outside docs."""
    for folder in ("api", "gallery", "results"):
        for path in sorted((BUILD / folder).rglob("*")):
            if path.is_file() and path.name != ".buildinfo" and path.suffix != ".txt":
                address = path.relative_to(BUILD).as_posix()
                html = path.suffix == ".html"
                content = mended(path.read_text()).encode() if html else path.read_bytes()
                files.append(File.generated(config, address, content=content, inclusion=WITHIN))
    inventory = (BUILD / "api" / "objects.inv").read_bytes()
    files.append(File.generated(config, "objects.inv", content=_below(inventory, "api/")))
    for address, name in TEXTS.items():
        files.append(File.generated(config, address, abs_src_path=str(ROOT / name)))
    return files


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """Add a tab for the API."""
    nav.items.append(Link("API", "api/"))
    return nav


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert the figures into the gallery page."""
    if "<!-- gallery -->" not in markdown:
        return markdown
    return markdown.replace("<!-- gallery -->", (BUILD / "gallery" / "gallery.txt").read_text())


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Link public names in text, and their first occurrence in each code block."""
    linked: set[str] = set()

    def link(name: str, inside: str) -> str:
        address = get_relative_url(public_names()[name], page.url)
        return f'<a class="api" href="{address}">{inside}</a>'

    def in_block(match: re.Match[str]) -> str:
        name = match[1]
        if name in linked or name not in public_names() or not re.search("[A-Z_]", name):
            return match[0]
        linked.add(name)
        return link(name, match[0])

    def in_text(match: re.Match[str]) -> str:
        if match[1] == "pre":
            return _NAME.sub(in_block, match[0])
        return link(match[2], match[0]) if match[2] in public_names() else match[0]

    return _CODE.sub(in_text, html)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Fix the accessibility of a guide page."""
    return mended(output)


def on_post_template(output: str, template_name: str, config: MkDocsConfig) -> str:
    """Fix the accessibility of the 404 page."""
    return mended(output) if template_name.endswith(".html") else output


def mended(html: str) -> str:
    """Fix labels and roles that the theme omits or duplicates."""
    for theirs, ours in MENDED.items():
        html = html.replace(theirs, ours)
    return html


def on_post_build(config: MkDocsConfig) -> None:
    """Add public names to the search index."""
    path = Path(config.site_dir) / "search" / "search_index.json"
    index = json.loads(path.read_text())
    for name, address in public_names().items():
        if name.startswith("softattn."):
            text = (inspect.getdoc(pydoc.locate(name)) or "").splitlines()[0]
            title = name.removeprefix("softattn.")
            page = address.partition("#")[0]  # the search treats addresses with # as sections
            index["docs"].append({"location": page, "title": title, "text": f"{name}: {text}"})
    path.write_text(json.dumps(index))


@cache
def public_names() -> dict[str, str]:
    """Return the address of each documented name, by full name and by last component."""
    inventory = sphobjinv.Inventory(str(BUILD / "api" / "objects.inv"))
    pages = {}
    for entry in inventory.objects:
        if entry.domain == "py" and entry.uri.startswith(f"{entry.name}.html"):
            address = "api/" + entry.uri.replace("$", entry.name)
            pages |= {entry.name: address, entry.name.split(".")[-1]: address}
    return pages


def _below(inventory: bytes, folder: str) -> bytes:
    """Return an inventory with a prefix before all addresses."""
    moved = sphobjinv.Inventory(inventory)
    for entry in moved.objects:
        entry.uri = folder + entry.uri
    return sphobjinv.compress(moved.data_file())
