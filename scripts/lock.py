"""Write the packages of the environment that published results were computed in, with hashes.

    python scripts/lock.py examples/ham10000/results/frozen-lite0/environments.json

Run it with the Python version that the file records. pip resolves the requirements of softattn and
of the example, with the recorded versions, for this platform, and installs nothing. Writes
requirements.lock next to the file, for `pip install --require-hashes -r`. Packages whose versions
are not recorded get the newest ones that fit.
"""

import json
import platform
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
EXTRAS = {ROOT: ("timm", "plot"), ROOT / "examples" / "ham10000": ("lite",)}
"""Projects, with the extras that studies need."""
LOCAL = ("softattn", "ham10000")


def main() -> None:
    """Write the lock file of an environment."""
    source = Path(sys.argv[1])
    environment = the_environment(source)
    version = environment["python"].rpartition(".")[0]
    if platform.python_version().rpartition(".")[0] != version:
        sys.exit(f"{source}: the environment has Python {version}. Run this script with it.")
    pins = recorded(environment)
    lines = locked(resolve([*requirements(), *pins]))
    target = source.with_name("requirements.lock")
    target.write_text("\n".join([*header(source, environment, pins), *lines]) + "\n")
    print(f"{target}: {len(lines)} packages")


def the_environment(source: Path) -> dict[str, Any]:
    """Return the environment of all runs, which may be of several commits of this repository."""
    found = [each["environment"] for each in json.loads(source.read_text())]
    for key in ("python", "packages", "device"):
        if any(each[key] != found[0][key] for each in found):
            sys.exit(f"{source}: the runs have several environments, and a lock file has one.")
    first: dict[str, Any] = found[0]
    return first


def recorded(environment: dict[str, Any]) -> list[str]:
    """Return the recorded versions of all packages but those of this repository."""
    packages = environment["packages"].items()
    return [f"{name}=={version}" for name, version in packages if name not in LOCAL]


def requirements() -> list[str]:
    """Return the requirements of both projects besides one another."""
    found = []
    for project, extras in EXTRAS.items():
        table = tomllib.loads((project / "pyproject.toml").read_text())["project"]
        found += table["dependencies"]
        for extra in extras:
            found += table["optional-dependencies"][extra]
    return [each for each in found if not each.startswith(LOCAL)]


def resolve(wanted: list[str]) -> list[dict[str, Any]]:
    """Return what pip would install into an empty environment."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        options = ["--quiet", "--dry-run", "--ignore-installed", "--report", str(report)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *wanted], check=True)
        found: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return found


def locked(installed: list[dict[str, Any]]) -> list[str]:
    """Return a line for each package of a report of pip, by name."""
    lines = []
    for each in installed:
        metadata, archive = each["metadata"], each["download_info"]["archive_info"]
        digest = archive["hashes"]["sha256"]
        name = metadata["name"].lower().replace("_", "-")
        lines.append(f"{name}=={metadata['version']} --hash=sha256:{digest}")
    return sorted(lines)


def header(source: Path, environment: dict[str, Any], pins: list[str]) -> list[str]:
    """Return the comment at the top of a lock file."""
    machine = f"{platform.system()} {platform.machine()}, {environment['device']}"
    return [
        f"# Environment of the runs in {source.parent.name}: Python {environment['python']},",
        f"# {machine}. Versions that are recorded with the runs:",
        *(f"#     {pin}" for pin in pins),
        "# All others are the newest that fit. Written by:",
        f"#     python scripts/{Path(__file__).name} {source.as_posix()}",
    ]


if __name__ == "__main__":
    main()
