"""Links and anchors of the site exist, and nothing is loaded from another host."""

import pytest
from built_site import PAGES, SITE, is_outside, read, target

# The 404 page is shown at any address, so its links start at the root.
PLACED = [name for name in PAGES if name != "404.html"]


@pytest.mark.parametrize("name", PLACED)
def test_every_link_leads_somewhere(name):
    page = SITE / name
    for link in read(page).links + read(page).loaded:
        if is_outside(link):
            continue
        path, anchor = target(page, link)
        assert path.is_file(), f"{name} links to {link}"
        assert path.is_relative_to(SITE), f"{name} links to {link}, outside of the site"
        if path.suffix == ".html":
            assert anchor in read(path).anchors, f"{name} links to {link}: no such anchor"


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_loaded_from_elsewhere(name):
    loaded = [link for link in read(SITE / name).loaded if not link.startswith("data:")]
    assert [link for link in loaded if is_outside(link)] == []


def test_links_to_elsewhere_are_listed():
    found = {link for name in PAGES for link in read(SITE / name).links if is_outside(link)}
    (SITE.parent / "build" / "outside-links.txt").write_text("\n".join(sorted(found)) + "\n")
    assert found
    assert all(link.startswith("https://") for link in found)
