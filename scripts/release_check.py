"""Check that a release is consistent: version, tag, changelog, citation, links.

python scripts/release_check.py dist [v1.2.3]

`make release-check` builds `dist` first. With a tag, the changelog must have a section for the
version; without one, an "Unreleased" section is enough.
"""

import re
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Print each finding; exit with status 1 if there is one."""
    folder = Path(sys.argv[1])
    tag = sys.argv[2] if len(sys.argv) > 2 else ""
    (wheel,) = folder.glob("*.whl")
    version = wheel.name.split("-")[1]
    findings = [*_versions(version, tag), *_metadata(wheel)]
    for finding in findings:
        print(f"release check: {finding}", file=sys.stderr)
    if findings:
        sys.exit(1)
    print(f"softattn {version}: version and metadata agree.")


def _versions(version: str, tag: str) -> list[str]:
    findings = []
    if tag and tag != f"v{version}":
        findings.append(f"the tag is {tag}, the version of the wheel {version}.")
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    if citation is None or citation[1] != version:
        findings.append(f"CITATION.cff does not name version {version}.")
    changelog = (ROOT / "CHANGELOG.md").read_text()
    released = re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.M)
    if released is None and (tag or "## [Unreleased]" not in changelog):
        findings.append(f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD'.")
    return findings


def _metadata(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    labels = {line.split(",")[0] for line in metadata.get_all("Project-URL", [])}
    findings = [
        f"the wheel's metadata lacks the URL {label!r}."
        for label in sorted(set(project["urls"]) - labels)
    ]
    if metadata["Requires-Python"] != project["requires-python"]:
        findings.append(f"the wheel requires Python {metadata['Requires-Python']}.")
    return findings


if __name__ == "__main__":
    main()
