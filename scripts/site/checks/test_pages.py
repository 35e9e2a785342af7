"""Each page in a browser: nothing fails, nothing is cut off, and everybody can read it."""

from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from built_site import PAGES

MOST = 1_000_000
"""Bytes that a page may load, without its figures."""
PASSED_OVER = {
    "region": "the theme's skip link and overlays stand outside of landmarks",
    "scrollable-region-focusable": "the theme's script lays wide tables into boxes that scroll",
    "empty-table-header": "the corner of a table may be empty",
    "landmark-unique": "the theme makes a nav of each list of parameters, a class's and its methods'",
}
OF_THE_THEME = {
    ".md-code__nav": "one nav for each button that copies, made by the theme's script",
}


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("path", PAGES)
def test_nothing_fails_and_everybody_can_read_it(open_page, path, width, scheme):
    page = open_page(path, width, scheme)
    assert page.complaints == []
    assert {urlsplit(request.url).hostname for request in page.requests} == {"127.0.0.1"}
    loaded = [request for request in page.requests if request.resource_type != "image"]
    assert sum(request.sizes()["responseBodySize"] for request in loaded) < MOST
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    # Alternative texts, contrast, the order of headings, names and roles.
    found = Axe().run(
        page,
        context={"exclude": [[selector] for selector in OF_THE_THEME]},
        options={
            "rules": {rule: {"enabled": False} for rule in PASSED_OVER},
            "resultTypes": ["violations"],
        },
    )
    assert found.violations_count == 0, found.generate_report()
