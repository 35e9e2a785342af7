"""Versions of the site: what is published is one version of several, with one default."""

import json
import subprocess

import deploy
import pytest

SETTINGS = """
site_name: softattn
site_url: https://softattn.github.io/softattn/
theme: { name: material, font: false }
plugins: [mike: { canonical_version: latest }]
"""


def git(*arguments):
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A site with one page in a repository of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a test")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "test@example.org")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Home\n")
    (tmp_path / "mkdocs.yml").write_text(SETTINGS)
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "A site")


def versions():
    found = json.loads(git("show", "gh-pages:versions.json"))
    return {each["version"]: each["aliases"] for each in found}


def test_the_address_leads_to_the_latest_release_once_there_is_one(project):
    deploy.main(["dev"])
    assert versions() == {"dev": ["latest"]}
    deploy.main(["1.2", "--latest"])
    deploy.main(["dev"])
    assert versions() == {"dev": [], "1.2": ["latest"]}
    assert "latest/" in git("show", "gh-pages:index.html")
    assert 'href="/softattn/latest/assets/' in git("show", "gh-pages:404.html")
    home = git("show", "gh-pages:1.2/index.html")
    assert 'rel="canonical" href="https://softattn.github.io/softattn/latest/"' in home
