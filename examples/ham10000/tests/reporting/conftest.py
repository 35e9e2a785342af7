import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ranks

from ham10000.recipe import make_recipe
from ham10000.training import train

CHROMIUM = Path(shutil.which("chromium") or "/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def run(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with attention, of seconds; shared, so only added to."""
    out = tmp_path_factory.mktemp("reporting") / "run"
    recipe = make_recipe(
        {
            "name": "tiny_sa",
            "data": {"root": str(synthetic), "size": 24, "epoch_samples": 32, "workers": 0},
            "model": {
                "backbone": "ham10000:tiny",
                "at": "block2",
            },
            "attention": {"layer": "soft", "block": "paper", "num_maps": 2},
            "training": {"epochs": 1, "batch_size": 16},
            "logging": {"tensorboard": False},
        }
    )
    assert ranks.run(train, recipe, out) == [0]
    return out


@pytest.fixture(scope="session")
def app_run(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with attention, which took seconds."""
    out = tmp_path_factory.mktemp("app") / "run"
    recipe = make_recipe(
        {
            "name": "tiny",
            "data": {"root": str(synthetic), "size": 40, "epoch_samples": 64, "workers": 0},
            "model": {"backbone": "ham10000:tiny", "at": "block2", "mean": [0.4, 0.5, 0.6]},
            "attention": {"layer": "soft", "block": "paper", "num_maps": 10},
            "training": {"epochs": 1, "batch_size": 16},
            "logging": {"tensorboard": False},
        }
    )
    assert ranks.run(train, recipe, out) == [0]
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install it")
    if not CHROMIUM.exists():
        pytest.skip("needs Chromium: install the package chromium")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield started
        started.close()
