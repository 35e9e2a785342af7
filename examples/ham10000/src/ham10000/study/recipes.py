"""The recipes that come with ham10000, by name."""

from pathlib import Path

import ham10000
from ham10000.errors import MissingDataError, closest

__all__ = ["find_recipe"]


def find_recipe(name: str) -> Path:
    """Return the file of a recipe that comes with ham10000.

    Example:
        >>> from ham10000.study.recipes import find_recipe
        >>> find_recipe("smoke_sa").name
        'smoke_sa.yaml'

    Raises:
        MissingDataError: there is none of this name.
    """
    package = Path(ham10000.__file__).parent
    # In an installed package beside the code; in a checkout at the root of the project.
    folders = [package / "recipes", package.parents[1] / "recipes"]
    known = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
    if name not in known:
        public = sorted(stem for stem in known if not stem.startswith("_"))
        raise MissingDataError(
            f"looking for a recipe: none that comes with ham10000 is named {name!r}. "
            f"{closest(name, public)}"
        )
    return known[name]
