"""What a reader does on any page: search, filter, copy, edit, share, choose a version or a palette."""

import json
import re
from urllib.parse import quote

import pytest
from built_site import PAGES, ROOT, SITE, URLS, read

WIDTHS = pytest.mark.parametrize("width", [1280, 390])
ALONE = "try/app.html"  # one file that people save, without the navigation
PLACED = [name for name in PAGES if name not in ("404.html", ALONE)]
PAIR = ["guides/wrap/", "api/softattn.wrap_backbone/"]
"""A guide and an API page."""


def search(page, words):
    """Type words into the search field and return the addresses of the results."""
    if page.viewport_size["width"] < 960:
        page.locator("label.md-header__button[for=__search]").click()
    page.get_by_role("textbox", name="Search").press_sequentially(words)
    results = page.locator(".md-search-result__link")
    results.first.wait_for()
    return results.evaluate_all("all => all.map(link => new URL(link.href).pathname)")


@WIDTHS
@pytest.mark.parametrize("start", PAIR)
def test_one_search_finds_guides_and_api(open_page, start, width):
    links = search(open_page(start, width), "wrap_backbone")
    assert any(link.endswith("guides/wrap/") for link in links)
    assert any(link.endswith("api/softattn.wrap_backbone/") for link in links)


def test_search_has_the_full_text_of_the_api(open_page):
    links = search(open_page("guides/start/"), "num_prefix_tokens")
    assert any("/api/softattn." in link for link in links)
    index = json.loads((SITE / "search" / "search_index.json").read_text())["docs"]
    (entry,) = (each for each in index if each["location"] == "api/softattn.insert_attention/")
    assert len(entry["text"]) > 1000
    assert not any("_modules" in each["location"] for each in index)


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("insert attention", "guides/insert/"),
        ("gamma", "guides/gamma/"),
        ("onnx", "guides/save/"),
        ("ddp", "guides/ddp/"),
        ("learning rate", "guides/training/"),
        ("save", "guides/save/"),
        ("capture_maps", "api/softattn.capture_maps/"),
        ("quantized tensor", "guides/troubleshooting/"),
    ],
)
def test_what_a_word_is_about_comes_before_its_error_messages(open_page, words, first):
    page = open_page(f"?q={quote(words)}")
    result = page.locator(".md-search-result__link").first
    result.wait_for()
    assert first in result.evaluate("link => link.href")


@pytest.mark.parametrize("path", PAIR)
def test_both_sides_have_the_same_header_navigation_and_buttons(open_page, path):
    page = open_page(path)
    tabs = page.locator(".md-tabs__link").all_inner_texts()
    assert tabs[:2] == ["Home", "Guides"]
    assert tabs[-1] == "API"
    assert page.locator(".md-header__source a").get_attribute("href") == URLS["Homepage"]
    assert page.locator(".md-version__current").inner_text().strip() != ""
    assert page.locator(".md-footer__link--prev, .md-footer__link--next").count() == 2
    blocks = page.locator(".md-content pre > code").count()
    assert blocks > 0
    assert page.locator(".md-content pre .md-code__button[data-md-type=copy]").count() == blocks


def test_an_example_of_the_api_is_copied_without_prompts(open_page):
    page = open_page("api/softattn.wrap_backbone/")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    block = page.locator(".md-content pre").first
    assert ">>>" in block.inner_text()
    block.hover()
    block.locator(".md-code__button[data-md-type=copy]").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "wrap_backbone(" in copied
    compile(copied, "copied", "exec")


@pytest.mark.parametrize("name", PLACED)
def test_a_page_can_be_edited_and_shared(name):
    page = read(SITE / name)
    path = page.edit.removeprefix(f"{URLS['Homepage']}/edit/main/")
    assert (ROOT / path).is_file()
    assert path.startswith("src/softattn/" if "/softattn." in name else "")
    place = URLS["Documentation"] + name.removesuffix("index.html")
    assert page.canonical == page.meta["og:url"] == place
    assert page.meta["og:title"]
    assert len(page.meta["og:description"]) > 20
    assert page.meta["description"] == page.meta["og:description"]
    assert (SITE / page.meta["og:image"].removeprefix(URLS["Documentation"])).is_file()


def test_descriptions_are_of_their_pages():
    guides = [name for name in PLACED if name.startswith("guides/")]
    assert len({read(SITE / name).meta["description"] for name in guides}) == len(guides)


@WIDTHS
def test_models_can_be_filtered(open_page, width):
    page = open_page("models/", width)
    table = page.locator("table").first
    every = table.locator("tbody tr:visible").count()
    page.get_by_label("Filter").fill("swin nchw")
    names = table.locator("tbody tr:visible td:first-child").all_inner_texts()
    assert 0 < len(names) < every
    rows = table.locator("tbody tr:visible").all_inner_texts()
    assert all("swin" in row.lower() and "nchw" in row.lower() for row in rows)
    assert page.locator("output").inner_text() == f"{len(names)} of {every} models"
    page.get_by_label("Filter").fill("")
    assert table.locator("tbody tr:visible").count() == every
    page = open_page("models/?filter=alexnet", width)
    assert page.locator("output").inner_text() == f"1 of {every} models"


@pytest.mark.parametrize("path", ["no-such-page/", "guides/no-such-guide/"])
def test_an_address_without_a_page_leads_on(open_page, address, path):
    page = open_page("404.html")
    links = page.locator(".md-content a").evaluate_all("all => all.map(link => link.href)")
    assert len(links) >= 4
    for link in links:
        assert page.request.get(link).ok
    assert page.request.get(address + path).status == 404
    assert page.title().startswith("Page not found")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_performance_begins_with_a_chart_and_three_sentences(open_page, scheme):
    page = open_page("performance/", scheme=scheme)
    charts = page.locator(".md-content img:visible")
    assert charts.count() == 1
    assert f"-{scheme}.svg" in charts.first.get_attribute("src")
    text = page.locator(".md-content p:visible").last
    assert len(re.findall(r"\.(?:\s|$)", text.inner_text())) == 3
    box = text.bounding_box()
    assert box["y"] + box["height"] < 844
    assert page.locator("pre:visible").count() == 0


def test_figures_have_a_version_for_dark_pages():
    figures = {
        (name, link)
        for name in PLACED
        for link in read(SITE / name).loaded
        if "images/" in link and link.partition("#")[0].endswith((".png", ".svg"))
    }
    shown = {(name, link) for name, link in figures if "favicon" not in link}
    assert len(shown) >= 20
    for name, link in shown:
        path, _, scheme = link.partition("#only-")
        assert scheme in ("light", "dark"), f"{name} shows {link} on light and on dark pages"
        dark = path.replace("-light.svg", "-dark.svg").replace(".png", "-dark.png")
        assert scheme == "dark" or (name, f"{dark}#only-dark") in shown, f"{name}: {link}"


def test_the_palette_that_is_chosen_is_kept_from_the_guides_to_the_api(open_page, address):
    page = open_page("guides/start/")
    page.locator("label[title='Switch to dark']").click()
    page.goto(address + "api/", wait_until="networkidle")
    assert page.locator("body").get_attribute("data-md-color-scheme") == "slate"
