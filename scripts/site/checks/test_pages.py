"""Each page in a browser: no errors, no horizontal overflow, and no accessibility violations."""

from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from built_site import PAGES

MOST = 1_000_000
"""Bytes that a page may load, without its figures. Half of them are the index of the search."""
LARGER = {"try/app.html": 8_000_000, "models/index.html": 1_300_000}
"""Bytes of pages that contain a model, or a row for each model that was wrapped."""
PASSED_OVER = {
    "region": "the theme's skip link and overlays are outside of landmarks",
    "scrollable-region-focusable": "the theme's script puts wide tables into scrollable boxes",
    "empty-table-header": "the corner of a table may be empty",
    "landmark-unique": "the theme makes a nav of each parameter list, of a class and its methods",
}
OF_THE_THEME = {
    ".md-code__nav": "the theme's script makes one nav for each copy button",
}


VARIANTS = [(1280, "light"), (390, "dark")]
SEARCH = """() => !document.querySelector('[data-md-component=search]') || performance.getEntries()
    .some(entry => entry.name.endsWith('search_index.json') && entry.responseEnd)"""
"""Whether the index of the search is loaded, which pages do last; the app has no search."""
GENERATED = ("api/", "models/", "families/", "insertion/")


def cases():
    """Yield pages with their variants.

    Listings of source code share a template, and each takes seconds: one variant of them is enough.
    Other generated pages differ little, so that the first variant of them is left to the slow tests.
    """
    for path in PAGES:
        if "/_modules/" not in path:
            marks = pytest.mark.slow if path.startswith(GENERATED) else ()
            yield pytest.param(path, *VARIANTS[0], marks=marks)
        yield path, *VARIANTS[1]


@pytest.mark.parametrize(("path", "width", "scheme"), [*cases()])
def test_no_errors_overflow_or_accessibility_violations(open_page, path, width, scheme):
    page = open_page(path, width, scheme)
    page.wait_for_function(SEARCH)
    assert page.complaints == []
    requests = [each for each in page.requests if not each.url.startswith("blob:")]
    assert {urlsplit(request.url).hostname for request in requests} == {"127.0.0.1"}
    loaded = [request for request in requests if request.resource_type != "image"]
    size = sum(request.sizes()["responseBodySize"] for request in loaded)
    assert size < LARGER.get(path, MOST)
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
