"""The layout in CONTRIBUTING.md is the layout of both packages, and imports follow its order."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "CONTRIBUTING.md"
PACKAGES = {"softattn": "src/softattn/", "ham10000": "examples/ham10000/src/ham10000/"}
MOST_MODULES = {"softattn": 30, "ham10000": 100}
PUBLIC_MODULES = {"functional", "keras", "hub", "plot", "errors"}

if not PICTURE.exists() or not (ROOT / "src").exists():
    pytest.skip("needs a checkout", allow_module_level=True)


def drawn(heading):
    """Return the paths of the files below a heading of the picture, in its order."""
    lines = PICTURE.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.split() == [heading])
    folders, paths = [], []
    for line in lines[start + 1 :]:
        depth = (len(line) - len(line.lstrip())) // 4 - 2
        if line.strip() and depth < 0:
            break
        if line.strip():
            name = line.split()[0]
            folders = folders[:depth]
            if name.endswith("/"):
                folders.append(name)
            else:
                paths.append("".join([*folders, name]))
    return paths


def imported(path, package):
    """Yield the modules of a package that a file imports, also inside functions, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(f"{package}."))
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == package:
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                is_module = find(below) is not None and not exports(node.module, alias.name)
                yield below if is_module else node.module


def exports(module, name):
    """Return whether an `__init__.py` exports a name, which one of its files may have too."""
    contract = find(module)
    return (
        contract is not None
        and f'"{name}",' in (ROOT / PACKAGES[module.split(".")[0]] / contract).read_text()
    )


def find(module):
    """Return the file of a module of one of the packages, relative to the package."""
    package, *parts = module.split(".")
    base = ROOT / PACKAGES[package]
    for relative in ("/".join(parts) + ".py", "/".join([*parts, "__init__.py"])):
        if parts and (base / relative).is_file():
            return relative
    return None


HOUSE = {package: drawn(heading) for package, heading in PACKAGES.items()}
FILES = [(package, path) for package, paths in HOUSE.items() for path in paths]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_is_drawn_once(package):
    base = ROOT / PACKAGES[package]
    found = {path.relative_to(base).as_posix() for path in base.rglob("*.py")}
    contracts = {path for path in found if path.endswith("/__init__.py")}
    assert sorted(HOUSE[package]) == sorted(found - contracts)


@pytest.mark.parametrize(("package", "path"), FILES)
def test_a_file_imports_only_from_files_above_it(package, path):
    if path == "__init__.py":
        return
    order = HOUSE[package]
    below = set(order[order.index(path) :])
    for module in imported(ROOT / PACKAGES[package] / path, package):
        target = find(module)
        if target is None:  # the package itself, for its public names
            assert path.startswith("cli/"), module
        elif target.endswith("/__init__.py"):
            folder = target.removesuffix("__init__.py")
            assert not path.startswith(folder), f"{path} imports its own package {folder}"
            assert not any(p.startswith(folder) for p in below), f"{path} imports {module}"
        else:
            assert target not in below, f"{path} imports {module}"


@pytest.mark.parametrize(("package", "path"), FILES)
def test_a_package_is_imported_by_its_contract_alone(package, path):
    for module in imported(ROOT / PACKAGES[package] / path, package):
        target = find(module)
        if target is not None and "/" in target and not target.endswith("__init__.py"):
            folder = target.rpartition("/")[0] + "/"
            assert path.startswith(folder) or path == "__init__.py", f"{path} imports {module}"


@pytest.mark.parametrize(("package", "path"), FILES)
def test_a_file_has_at_most_400_lines(package, path):
    assert len((ROOT / PACKAGES[package] / path).read_text().splitlines()) <= 400


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_a_limited_number_of_modules(package):
    modules = [path for path in HOUSE[package] if path != "__init__.py"]
    assert len(modules) <= MOST_MODULES[package]


@pytest.mark.parametrize("path", [path for package, path in FILES if package == "ham10000"])
def test_the_example_uses_only_public_names_of_the_library(path):
    public = (ROOT / PACKAGES["softattn"] / "__init__.py").read_text()
    for node in ast.walk(ast.parse((ROOT / PACKAGES["ham10000"] / path).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, *below = name.split(".")
            if top == "softattn" and below:
                assert below[0] in PUBLIC_MODULES or f'"{below[0]}",' in public, name
                assert not any(part.startswith("_") for part in below), name
