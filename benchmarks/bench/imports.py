"""Time that `import softattn` adds to importing torch and torchvision."""

from collections.abc import Iterator

from import_time import measure

from bench.harness import Row, compare


def imports(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time imports in new interpreters, both sides in turn."""
    del quick, threads
    measure("import softattn")
    times: dict[str, list[tuple[float, float]]] = {"torch, torchvision": [], "and softattn": []}
    for _ in range(rounds):
        base, added = measure("import softattn")
        times["torch, torchvision"].append((base, base))
        times["and softattn"].append((base + added, base + added))
    yield compare("import", "in one interpreter", times, "torch, torchvision")
