"""Troubleshooting has every error text of both packages, and no other."""

import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
if not (ROOT / "scripts" / "error_texts.py").exists():
    pytest.skip("needs a checkout", allow_module_level=True)

import error_texts  # noqa: E402
from error_texts import PAGE, SOURCES  # noqa: E402


def found_in(folder, code):
    (folder / "errors.py").write_text("class OurError(Exception): ...\n")
    (folder / "code.py").write_text(textwrap.dedent(code))
    return [error.text for error in error_texts.error_texts(folder)]


def test_what_a_message_takes_from_elsewhere_is_a_hole(tmp_path):
    code = """
        DOING = "reading a table"

        def read(path, size):
            expected = f"{DOING}: {path!r} must have"
            if size < 1:
                raise OurError(f"{expected} {size:,} rows, "
                               "or more.") from None
            raise errors.OurError(expected + " columns.")
    """
    assert found_in(tmp_path, code) == [
        "reading a table: … must have … rows, or more.",
        "reading a table: … must have columns.",
    ]


def test_functions_that_build_an_error_or_its_text(tmp_path):
    code = """
        def refusal(doing, what) -> OurError:
            return OurError(f"{doing}: {what}.")

        def text(names) -> str:
            if names:
                return "no names"
            return "found nothing"

        def check(names):
            raise refusal("checking names", f"too many: {names}")
            raise OurError(text(names))
            raise ValueError("this one is Python's")
    """
    assert set(found_in(tmp_path, code)) == {"too many: …", "found nothing", "no names"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_nearly_every_raise_is_found(source):
    """So that a way of raising that the script doesn't know is noticed."""
    lines = {(error.path, error.line) for error in error_texts.error_texts(source)}
    assert len(lines) > 50


def test_every_text_is_a_heading():
    headings = set(error_texts.headings(PAGE.read_text()))
    missing = [
        error.text
        for source in SOURCES
        for error in error_texts.error_texts(source)
        if error.text not in headings
    ]
    assert not missing, "see python scripts/error_texts.py --missing"


def test_every_heading_is_raised_and_explained():
    page = PAGE.read_text()
    headings = error_texts.headings(page)
    assert len(headings) == len(set(headings))
    texts = {error.text for source in SOURCES for error in error_texts.error_texts(source)}
    assert set(headings) <= texts
    for section in page.split("\n#### ")[1:]:
        heading, _, explanation = section.partition("\n")
        assert explanation.partition("\n#")[0].strip(), heading
