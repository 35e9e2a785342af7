"""The gallery, used by mouse and by keys."""

import pytest
from built_site import SITE

WIDTHS = pytest.mark.parametrize("width", [1280, 390])


def opacity(page):
    return float(page.locator(".gallery-stage div").evaluate("it => getComputedStyle(it).opacity"))


def laid_over(page):
    style = page.locator(".gallery-stage div").get_attribute("style")
    return style.split('url("')[1].split('"')[0]


@WIDTHS
def test_there_are_twelve_images_of_sixteen_maps(open_page, width):
    page = open_page("gallery/", width)
    assert page.locator(".gallery-images button").count() == 12
    assert page.locator(".gallery-maps button").count() == 16
    assert page.locator(".gallery-images img").evaluate_all(
        "all => all.every(image => image.alt && image.getAttribute('loading') === 'lazy')"
    )


@WIDTHS
def test_the_slider_goes_from_image_to_overlay(open_page, width):
    page = open_page("gallery/", width)
    slider = page.get_by_role("slider")
    slider.focus()
    for key, expected in [("Home", 0), ("ArrowRight", 0.01), ("End", 1), ("ArrowLeft", 0.99)]:
        page.keyboard.press(key)
        assert opacity(page) == pytest.approx(expected)
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert opacity(page) == pytest.approx(0.5, abs=0.03)


@WIDTHS
def test_pointing_at_a_map_shows_it_alone(open_page, width):
    page = open_page("gallery/", width)
    caption = page.locator("figcaption")
    assert caption.inner_text().startswith("The sum of 16 maps")
    page.get_by_role("button", name="Map 6", exact=True).hover()
    assert caption.inner_text().startswith("Map 6 of 16")
    assert laid_over(page) == "0-maps.webp"
    page.mouse.move(0, 0)
    assert caption.inner_text().startswith("The sum of 16 maps")
    assert laid_over(page) == "0-sum.webp"


@WIDTHS
def test_keys_reach_every_part(open_page, width):
    page = open_page("gallery/", width)
    page.locator(".gallery-images button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert laid_over(page) == "1-sum.webp"
    assert page.locator(".gallery-images button").nth(1).get_attribute("aria-pressed") == "true"
    page.keyboard.press("Tab")
    assert page.get_by_role("slider").evaluate("it => it === document.activeElement")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.locator("figcaption").inner_text().startswith("Map 6 of 16")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # no map above, so the selection stays
    assert page.locator("figcaption").inner_text().startswith("Map 2 of 16")
    page.keyboard.press("Escape")
    assert page.locator("figcaption").inner_text().startswith("The sum of 16 maps")


def test_the_script_is_short():
    assert len((SITE / "javascripts" / "gallery.js").read_text().splitlines()) <= 100
