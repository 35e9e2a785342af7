"""Print a pip constraint for the lower bound of every direct dependency.

python scripts/lower_bounds.py pyproject.toml examples/ham10000/pyproject.toml

Where two files name one package, the higher bound is printed.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version


def requirements(project: dict[str, Any]) -> Iterator[Requirement]:
    """Yield the direct requirements of a project, of its extras and of its test group."""
    table = project["project"]
    lines = [*table.get("dependencies", ())]
    for extra in table.get("optional-dependencies", {}).values():
        lines += extra
    lines += project.get("dependency-groups", {}).get("test", ())
    yield from (Requirement(line) for line in lines if isinstance(line, str))


def main() -> None:
    """Print one line `name==version` for each package with a lower bound."""
    bounds: dict[str, Version] = {}
    for path in sys.argv[1:]:
        for requirement in requirements(tomllib.loads(Path(path).read_text())):
            name = re.sub(r"[-_.]+", "-", requirement.name).lower()
            for specifier in requirement.specifier:
                if specifier.operator in (">=", "=="):
                    bound = Version(specifier.version)
                    bounds[name] = max(bounds.get(name, bound), bound)
    for name, bound in sorted(bounds.items()):
        print(f"{name}=={bound}")


if __name__ == "__main__":
    main()
