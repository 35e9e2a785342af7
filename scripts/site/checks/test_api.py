"""Every public name has a page, and guides and API pages link to each other."""

import importlib

import pytest
import sphobjinv
from built_site import SITE, read, target

MODULES = ("softattn", "softattn.functional", "softattn.hub", "softattn.keras", "softattn.plot")
GUIDES = sorted((SITE / "guides").glob("*/index.html"))
INTO_API = {
    guide: {target(guide, link)[0] for link in read(guide).links if "../api/" in link}
    for guide in GUIDES
}


def public_names():
    for module in map(importlib.import_module, MODULES):
        things = ((name, getattr(module, name)) for name in module.__all__)
        yield from (f"{module.__name__}.{name}" for name, thing in things if callable(thing))


@pytest.mark.parametrize("name", list(public_names()))
def test_a_public_name_has_a_page_with_its_source(name):
    page = read(SITE / "api" / name / "index.html")
    assert name in page.anchors
    assert any(link.startswith("../_modules/softattn") for link in page.links)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.parent.name)
def test_a_guide_and_the_api_lead_to_one_another(guide):
    assert INTO_API[guide] - {SITE / "api" / "index.html"}
    pages = (SITE / "api").glob("softattn.*/index.html")
    assert any(target(page, link)[0] == guide for page in pages for link in read(page).links)


@pytest.mark.parametrize("place", ["", "api/"])
def test_others_can_link_to_us(place):
    inventory = sphobjinv.Inventory(SITE / place / "objects.inv")
    found = {entry.name: entry for entry in inventory.objects}
    for name in public_names():
        assert (SITE / place / found[name].uri.split("#")[0] / "index.html").is_file()
