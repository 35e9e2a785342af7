"""Check that the wheel and the sdist in a folder contain the expected files and no others.

python scripts/check_package.py dist
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path


def main() -> None:
    """Compare the contents with the checkout; exit with a message if they differ."""
    folder, root = Path(sys.argv[1]), Path(__file__).parents[1]
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    source = root / "src"
    modules = {path.relative_to(source).as_posix() for path in source.rglob("*.py")}
    modules |= {"softattn/py.typed"}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
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


def _compare(archive: Path, found: set[str], expected: set[str]) -> None:
    if found != expected:
        sys.exit(
            f"{archive.name}: missing {sorted(expected - found)}, unexpected "
            f"{sorted(found - expected)}"
        )


if __name__ == "__main__":
    main()
