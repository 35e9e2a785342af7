"""Check the wheel and the sdist in a folder: files, links of the text for PyPI, a second build.

python scripts/check_package.py dist

The second build is of a copy of the checkout in another folder, with other times of files.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Check the files of a folder; exit with a message if something is wrong."""
    folder = Path(sys.argv[1])
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    check_contents(wheel, sdist)
    check_rebuild([wheel, sdist])


def check_contents(wheel: Path, sdist: Path) -> None:
    """Compare the files in a wheel and an sdist with the checkout."""
    source = ROOT / "src"
    modules = {path.relative_to(source).as_posix() for path in source.rglob("*.py")}
    modules |= {"softattn/py.typed"}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (described,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        _check_description(wheel, archive.read(described), (ROOT / "README.md").read_text())
    metadata = {name for name in names if ".dist-info/" in name}
    _compare(wheel, names - metadata, modules)
    with tarfile.open(sdist) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()}
    texts = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"}
    texts |= {"Makefile", "pyproject.toml", *_tracked("tests", "docs")}
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


def check_rebuild(built: list[Path]) -> None:
    """Build a copy of the checkout and compare the archives byte by byte."""
    with tempfile.TemporaryDirectory() as folder:
        copy, out = Path(folder, "copy"), Path(folder, "dist")
        for name in _tracked():
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, copy / name)
        # Members have the date of SOURCE_DATE_EPOCH or, without it, a constant of hatchling.
        subprocess.run(
            [sys.executable, "-m", "build", "--outdir", str(out), str(copy)],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": "1"},
        )
        for archive in built:
            again = out / archive.name
            if not again.is_file() or again.read_bytes() != archive.read_bytes():
                sys.exit(
                    f"{archive.name}: a second build, of the files that git lists, has other "
                    f"bytes. Members that differ: {_differing(archive, again)}"
                )
    print(f"a second build has the same bytes: {', '.join(archive.name for archive in built)}")


def _tracked(*folders: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listed.stdout.splitlines()


def _differing(first: Path, second: Path) -> list[str]:
    members = [_members(path) if path.is_file() else {} for path in (first, second)]
    return sorted(
        name
        for name in members[0].keys() | members[1].keys()
        if members[0].get(name) != members[1].get(name)
    )


def _members(path: Path) -> dict[str, object]:
    """Return the content and the attributes of each member of an archive."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return {
                info.filename: (info.date_time, info.external_attr, archive.read(info))
                for info in archive.infolist()
            }
    with tarfile.open(path) as tar:
        return {
            info.name: (info.mtime, info.mode, (file := tar.extractfile(info)) and file.read())
            for info in tar.getmembers()
        }


def _compare(archive: Path, found: set[str], expected: set[str]) -> None:
    if found != expected:
        sys.exit(
            f"{archive.name}: missing {sorted(expected - found)}, unexpected "
            f"{sorted(found - expected)}"
        )


if __name__ == "__main__":
    main()
