"""mkdocs hooks of the site.

They add the API pages built by Sphinx, the gallery, the app, the figures of published results, the
Markdown files of the repository root and a section of the README; link public names to their API
pages; and set the edit links of pages that are made from other files.
"""

import re
import sys
from functools import cache
from html import escape, unescape
from pathlib import Path
from textwrap import shorten

import sphobjinv
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

sys.path.insert(0, str(Path(__file__).parent))

import reference

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
TEXTS = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
MADE_FROM = {
    **TEXTS,
    "families.md": "benchmarks/families.py",
    "insertion.md": "benchmarks/coverage_insert.py",
    "models.md": "benchmarks/coverage_models.py",
    "performance.md": "benchmarks/bench/page.py",
    "transformers.md": "benchmarks/coverage_transformers.py",
    "why.md": "README.md",
}
"""Files to edit, of pages that commands or hooks write."""
BOOST = {
    "guides/troubleshooting.md": 1,
    "guides/": 2,
    "why.md": 2,
    **dict.fromkeys(MADE_FROM.keys() - {"why.md"}, 0.2),
}
"""Weights of pages in the search, by the start of their path; 1 for others. Guides come first."""
COMPARISON = "## Comparison with other libraries\n"
MENDED = {
    # The theme's script would ask GitHub for the numbers of stars and forks.
    'class="md-source" data-md-component="source"': 'class="md-source"',
    # A relative address is no URL without a base, so that the script stopped.
    '"),outdated=__md_get(': '",location),outdated=__md_get(',
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


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the API to the navigation."""
    config.nav.append(reference.navigation())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add generated files and files from outside docs."""
    for file in reference.files(config):
        files.append(file)
    for folder in ("gallery", "results", "try"):
        for path in sorted((BUILD / folder).rglob("*")):
            if path.is_file() and path.suffix != ".txt":
                address = path.relative_to(BUILD).as_posix()
                files.append(File.generated(config, address, content=path.read_bytes()))
    inventory = (BUILD / "api" / "objects.inv").read_bytes()
    for address, content in (("api/", inventory), ("", _below(inventory, "api/"))):
        path = f"{address}objects.inv"  # docs/api is excluded otherwise
        file = File.generated(config, path, content=content, inclusion=InclusionLevel.INCLUDED)
        files.append(file)
    for address, name in TEXTS.items():
        files.append(File.generated(config, address, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert the gallery, the comparison of the README and the link to the app."""
    if made_from := MADE_FROM.get(page.file.src_uri):
        page.edit_url = edit_url(config, made_from)
    boost = next((BOOST[start] for start in BOOST if page.file.src_uri.startswith(start)), 1)
    page.meta.setdefault("search", {}).setdefault("boost", boost)
    if "<!-- gallery -->" in markdown:
        figures = (BUILD / "gallery" / "gallery.txt").read_text()
        return markdown.replace("<!-- gallery -->", figures)
    if "<!-- comparison -->" in markdown:
        section = (ROOT / "README.md").read_text().partition(COMPARISON)[2].partition("\n## ")[0]
        return markdown.replace("<!-- comparison -->", section)
    return markdown.replace("<!-- app -->", app_link(BUILD / "try" / "app.html"))


def edit_url(config: MkDocsConfig, path: str) -> str:
    """Return the address at which a file of the repository can be edited."""
    return f"{config.repo_url}/edit/main/{path}"


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert an API page; in others, link public names in text and once in each code block."""
    if reference.is_reference(page):
        html = reference.content(page)
        page.toc = reference.table_of_contents(html)
        page.edit_url = edit_url(config, reference.source(page, html))
        page.meta.setdefault("description", first_sentences(html))
        return html
    page.meta.setdefault("description", first_sentences(html))
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


def first_sentences(html: str) -> str:
    """Return the first paragraph of a page as text, for search engines and links to the page."""
    for paragraph in re.findall(r"<p\b[^>]*>(.*?)</p>", html, re.DOTALL):
        text = unescape(re.sub(r"<[^>]+>", "", paragraph)).strip()
        if len(text) > 20 and not text.startswith("Bases:"):
            return escape(shorten(text, 200, placeholder=" …"))
    return ""


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


def app_link(app: Path) -> str:
    """Return the links to the app, or a note if it could not be made."""
    if not app.exists():
        return (
            '!!! note "Not part of this copy"\n\n    ONNX Runtime Web could not be downloaded when '
            "this site was built. With network access, `make docs` adds the app."
        )
    size = f"{app.stat().st_size / 1e6:.0f} MB"
    return (
        f'<a class="md-button md-button--primary" href="app.html">Open the app ({size})</a>\n'
        '<a class="md-button" href="app.html" download="app.html">Save it</a>'
    )


@cache
def public_names() -> dict[str, str]:
    """Return the address of each documented name, by full name and by last component."""
    inventory = sphobjinv.Inventory(str(BUILD / "api" / "objects.inv"))
    pages = {}
    for entry in inventory.objects:
        if entry.domain == "py" and entry.uri.startswith(f"{entry.name}/"):
            address = "api/" + entry.uri.replace("$", entry.name)
            pages |= {entry.name: address, entry.name.split(".")[-1]: address}
    return pages


def _below(inventory: bytes, folder: str) -> bytes:
    """Return an inventory with a prefix before all addresses."""
    moved = sphobjinv.Inventory(inventory)
    for entry in moved.objects:
        entry.uri = folder + entry.uri
    return sphobjinv.compress(moved.data_file())
