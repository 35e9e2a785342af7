"""Sphinx inventories of other projects, for links to their pages without network access."""

from pathlib import Path

import sphobjinv
from mkdocs.utils.yaml import yaml_load

__all__ = ["write"]


def write(names: Path, out: Path) -> dict[str, tuple[str, str]]:
    """Write an inventory for each project in a YAML file of names.

    Args:
        names: a YAML file: for each project its `url`, and its names by role.
        out: the folder for the inventories.

    Returns:
        A value for Sphinx's `intersphinx_mapping`: address and inventory of each project.
    """
    out.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for project, known in yaml_load(names.read_text()).items():
        address = known.pop("url")
        inventory = sphobjinv.Inventory()
        inventory.project, inventory.version = project, ""
        for role, places in known.items():
            for name, place in places.items():
                entry = sphobjinv.DataObjStr(
                    name=name, domain="py", role=role, priority="1", uri=place, dispname="-"
                )
                inventory.objects.append(entry)
        path = out / f"{project}.inv"
        sphobjinv.writebytes(path, sphobjinv.compress(inventory.data_file()))
        mapping[project] = (address, str(path))
    return mapping
