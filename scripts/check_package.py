"""Check the wheel and the sdist in a folder: their files, and the links of the text for PyPI.

python scripts/check_package.py dist
"""

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path


def main() -> None:
    """Compare the contents with the checkout; exit with a message if something is wrong."""
    folder, root = Path(sys.argv[1]), Path(__file__).parents[1]
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    source = root / "src"
    modules = {path.relative_to(source).as_posix() for path in source.rglob("*.py")}
    modules |= {"softattn/py.typed"}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (described,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        _check_description(wheel, archive.read(described), (root / "README.md").read_text())
    metadata = {name for name in names if ".dist-info/" in name}
    _compare(wheel, names - metadata, modules)
    with tarfile.open(sdist) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()}
    listed = subprocess.run(
        ["git", "ls-files", "tests", "docs"], cwd=root, capture_output=True, text=True, check=True
    )
    texts = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"}
    texts |= {"Makefile", "pyproject.toml", *listed.stdout.split()}
    generated = {"PKG-INFO", ".gitignore"}
    _compare(sdist, inside - generated, {f"src/{name}" for name in modules} | texts)
    print(f"{wheel.name}: {len(names)} files; {sdist.name}: {len(inside)} files")


def _check_description(archive: Path, metadata: bytes, readme: str) -> None:
    """Exit with a message if the description is not the README, with links that work on PyPI."""
    description = message_from_bytes(metadata).get_payload(decode=True).decode()
    if relative := relative_links(description):
        sys.exit(f"{archive.name}: the description links to {relative}, which PyPI does not have")
    texts = [re.sub(r"\]\([^)]*\)", "]()", text).strip() for text in (description, readme)]
    if texts[0] != texts[1]:
        sys.exit(f"{archive.name}: apart from links, the description is not the README")


def relative_links(text: str) -> list[str]:
    """Return the targets of links and images in Markdown or HTML that need the repository."""
    targets = re.findall(r"\]\(([^)\s]+)|(?:href|src)=\"([^\"]+)", text)
    found = {markdown or html for markdown, html in targets}
    return sorted(target for target in found if not re.match(r"https?://|#|mailto:", target))


def _compare(archive: Path, found: set[str], expected: set[str]) -> None:
    if found != expected:
        sys.exit(
            f"{archive.name}: missing {sorted(expected - found)}, unexpected "
            f"{sorted(found - expected)}"
        )


if __name__ == "__main__":
    main()
