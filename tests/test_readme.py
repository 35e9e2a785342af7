"""The code in the README runs."""

import re
import tomllib
from pathlib import Path

import pytest
from check_package import relative_links

from softattn.cli import main

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def test_there_is_code():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_code_runs(block):
    names = {}
    exec(compile(block, README.name, "exec"), names)
    assert "torch" in names


def test_the_numbers_are_those_of_the_command(capsys):
    pytest.importorskip("timm", reason="needs softattn[timm]")
    assert main(["info", "resnet50"]) == 0
    assert f"```\n{capsys.readouterr().out}```" in README.read_text()


def test_files_that_it_names_are_there():
    text = README.read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert links
    assert all((README.parent / link).exists() for link in links)
    targets = re.findall(r"^make (\w+)", text, re.MULTILINE)
    assert set(targets) >= {"demo", "test"}
    makefile = (README.parent / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_badges_are_true():
    text, project = README.read_text(), (README.parent / "pyproject.toml").read_text()
    python = re.search(r'requires-python = ">=(.+?)"', project)[1]
    torch = re.search(r'"torch>=(.+?)"', project)[1]
    licence = re.search(r'license = "(.+?)"', project)[1]
    badges = re.findall(r"img\.shields\.io/badge/([^)]+)\)", text)
    expected = [f"python-{python}+", f"torch-{torch}+", f"licence-{licence}", "arXiv-2105.03358"]
    assert [badge.rpartition("-")[0] for badge in badges] == expected


def test_links_are_absolute_on_pypi():
    """The build replaces the links; `make package` checks the result."""
    root, text = README.parent, README.read_text()
    hooks = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"][
        "hooks"
    ]
    own = relative_links(text)
    for rule in hooks["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    assert relative_links(text) == []
    places = r"https://(raw\.githubusercontent)?(?:github)?\.com/softattn/softattn/(?:blob/)?v.*?/"
    found = re.findall(places + r"([^)]+)\)", text)
    assert sorted({path for _, path in found}) == own
    assert {path for raw, path in found if raw} == {"docs/images/explain.png"}


@pytest.mark.parametrize("page", ["README.md", "docs/study.md", "examples/ham10000/README.md"])
def test_a_quoted_result_in_a_sentence_does_not_begin_a_line(page):
    # A comment at the beginning of a line is a block of HTML: it ends a paragraph or a list.
    text = (README.parent / page).read_text(encoding="utf-8")
    assert "<!-- results " in text
    assert re.findall(r"^ *<!-- results .*?-->(?=\S).*", text, re.MULTILINE) == []


def test_relative_links_are_found():
    text = '[a](b.md) ![c](d.png) <img src="e.svg"> [f](https://g.org/h) [i](#j)'
    assert relative_links(text) == ["b.md", "d.png", "e.svg"]
