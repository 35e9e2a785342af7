from collections.abc import Callable
from pathlib import Path

import pytest

from ham10000.data import prepare
from ham10000.recipe import Recipe, make_recipe

SIZE = 24


@pytest.fixture(scope="session")
def cache(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("training") / "cache"
    prepare(synthetic, out, SIZE)
    return out


@pytest.fixture(scope="session")
def recipe(synthetic: Path, cache: Path) -> Callable[..., Recipe]:
    """Make a recipe that trains in seconds, with some fields changed: `recipe(training={...})`."""

    def make(**parts: dict[str, object]) -> Recipe:
        content: dict[str, dict[str, object]] = {
            "data": {
                "root": str(synthetic),
                "cache": str(cache),
                "size": SIZE,
                "protocol": "paper",
                "augment": "authors",
                "workers": 0,
                "epoch_samples": 64,
            },
            "model": {
                "backbone": "ham10000:tiny",
                "at": "block2",
                "head": "pool",
                "drop_rate": 0.3,
            },
            "attention": {"layer": "soft", "block": "paper"},
            "schedule": {"name": "one_cycle"},
            "training": {"epochs": 3, "batch_size": 16, "ema": 0.9, "checkpoint_steps": 2},
            "logging": {"tensorboard": False},
        }
        for name, fields in parts.items():
            content[name] = {**content.get(name, {}), **fields}
        return make_recipe({"name": "tiny", "seed": 3, **content})

    return make
