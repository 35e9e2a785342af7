"""Add the built site to the branch gh-pages, as one version of several. Pushes nothing.

    python scripts/site/deploy.py dev
    python scripts/site/deploy.py 1.2 --latest

The address of the site leads to the latest release or, before the first one, to the first version.
GitHub Pages shows the page 404.html at the root of the branch for addresses that do not exist.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mike.commands import list_versions
from mike.git_utils import Commit, FileInfo, read_file

__all__ = ["main"]

BRANCH = "gh-pages"
LATEST = "latest"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("version", help="name of the version, such as dev or 1.2")
    parser.add_argument("--latest", action="store_true", help="it is the latest release")
    options = parser.parse_args(arguments)
    held = [str(each.version) for each in list_versions(BRANCH) if LATEST in each.aliases]
    latest = options.latest or held in ([], [options.version])
    _mike("deploy", "--update-aliases", options.version, *[LATEST] * latest)
    _mike("set-default", LATEST)
    page = read_file(BRANCH, f"{LATEST}/404.html")
    with Commit(BRANCH, "Show the 404 page of the latest version", allow_empty=True) as commit:
        commit.add_file(FileInfo("404.html", page))


def _mike(*command: str) -> None:
    # mike looks for mkdocs in PATH.
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"}
    subprocess.run(
        [programs / "mike", *command, "--allow-empty", "--branch", BRANCH],
        check=True,
        env=environment,
    )


if __name__ == "__main__":
    main()
