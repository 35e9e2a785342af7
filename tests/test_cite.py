"""The page about citation agrees with CITATION.cff and with the package."""

import re
import tomllib
from pathlib import Path

import pytest

import softattn

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "cite.md"

if not PAGE.exists() or not (ROOT / "CITATION.cff").exists():
    pytest.skip("needs a checkout", allow_module_level=True)

yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
FIELD = re.compile(r"^ +(\w+) += \{(.*)\},?$", re.MULTILINE)
ENTRIES = {
    entry[1]: dict(FIELD.findall(entry[2]))
    for entry in re.finditer(
        r"```bibtex\n@\w+\{(\w+),\n(.*?)\n\}\n```", PAGE.read_text(), re.DOTALL
    )
}


def names(authors):
    return " and ".join(
        f"{each['family-names']}, {each['given-names']}" if "family-names" in each else each["name"]
        for each in authors
    )


def test_the_paper_is_that_of_the_citation_file():
    found, expected = ENTRIES["datta2021softattention"], CITATION["preferred-citation"]
    assert found["title"] == expected["title"]
    assert found["author"] == names(expected["authors"])
    assert found["booktitle"] == expected["collection-title"]
    assert found["publisher"] == expected["publisher"]["name"]
    assert found["year"] == str(expected["year"])
    assert found["doi"] == expected["doi"]


def test_the_software_is_that_of_the_citation_file_and_of_the_package():
    found = ENTRIES["softattn"]
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert found["title"] == CITATION["title"]
    assert found["author"] == f"{{{names(CITATION['authors'])}}}"
    assert found["version"] == CITATION["version"] == softattn.__version__
    assert found["license"] == CITATION["license"]
    assert found["url"] == urls["Homepage"]
    assert urls["Paper"].endswith(ENTRIES["datta2021softattention"]["eprint"])


def test_ham10000_is_cited_with_its_doi():
    assert ENTRIES["tschandl2018ham10000"]["doi"] == "10.1038/sdata.2018.161"
    assert ENTRIES.keys() == {"datta2021softattention", "softattn", "tschandl2018ham10000"}
