"""Files of the built site: pages with their links and anchors."""

import tomllib
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[3]
SITE = ROOT / "site"
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
BASE = urlsplit(URLS["Documentation"]).path
"""Path below which the site is published."""
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
LOADED = {"script": "src", "img": "src", "source": "src", "iframe": "src", "link": "href"}


class Page(HTMLParser):
    """Links, loaded files and anchors of a page."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loaded = {"", "top"}, [], []
        self.meta, self.canonical, self.edit = {}, None, None
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given.get("id"), given.get("name") if tag == "a" else None}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
            if given.get("rel") == "edit":
                self.edit = given["href"]
        if tag == "meta" and (name := given.get("property", given.get("name"))):
            self.meta[name] = given["content"]
        if given.get("rel") == "canonical":
            self.canonical = given["href"]
        if LOADED.get(tag) in given and given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(given[LOADED[tag]])


read = cache(Page)


def is_outside(link):
    return bool(urlsplit(link).scheme or urlsplit(link).netloc)


def target(page, link):
    """Return the file and the anchor that a link refers to."""
    place = unquote(urlsplit(link).path)
    path = (page.parent / place).resolve() if place else page
    return (path / "index.html" if path.is_dir() else path), unquote(urlsplit(link).fragment)
