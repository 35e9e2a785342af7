"""The app of the site predicts an example, by mouse and by keys."""

import pytest
from built_site import SITE, read

APP = SITE / "try" / "app.html"


@pytest.fixture
def app(open_page):
    if not APP.exists():
        pytest.skip("needs ONNX Runtime Web: run make docs with network access")

    def app(width):
        page = open_page("try/app.html", width)
        page.get_by_text("Ready. Choose an image.").wait_for(timeout=60_000)
        return page

    return app


def test_the_page_leads_to_the_app_or_says_why_not():
    links = read(SITE / "try" / "index.html").links
    text = (SITE / "try" / "index.html").read_text()
    assert APP.exists() == ("app.html" in links) == ("could not be downloaded" not in text)


@pytest.mark.parametrize("width", [1280, 390])
def test_an_example_is_predicted(app, width):
    page = app(width)
    page.locator("#examples button").nth(3).focus()
    page.keyboard.press("Enter")
    page.locator("#probabilities tbody tr").first.wait_for()
    assert page.get_by_role("status").inner_text().startswith("Most probable of the seven classes:")
    assert page.locator("#maps button").count() == 16
    page.get_by_role("button", name="Map 6 of 16").hover()
    assert page.locator("#caption").inner_text() == "Map 6 of 16, alone."
    assert page.complaints == []
