import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# Imported only for training, which takes seconds, and which each forked rank would repeat.
import lightning_fabric  # noqa: F401
import pandas as pd
import pytest
import ranks
import torch

from ham10000.data import DATA_VARIABLE, read_table, synthesize

collect_ignore = ["support/keras_irv2.py"]  # runs where Keras is installed, and nothing else is

torch.set_num_threads(1)

# The first backward pass decides whether autograd needs a thread for a GPU, and processes that are
# forked from one with such threads cannot train. torch.export pretends that there is a GPU, so a
# test of it must not be what comes first.
torch.zeros(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests fork, and OpenMP hangs in forks of a process in which it has started threads."""
    yield
    assert torch.get_num_threads() == 1


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic data set. It is shared, so tests must not change it: see `editable`."""
    out = tmp_path_factory.mktemp("synthetic") / "set"
    synthesize(out, images=280, seed=0, width=48)
    return out


@pytest.fixture(scope="session")
def isic2017(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic data set like ISIC 2017. It is shared, so tests must not change it."""
    out = tmp_path_factory.mktemp("isic2017") / "set"
    synthesize(out, images=72, seed=0, width=48, like="isic2017")
    return out


@pytest.fixture
def editable(synthetic: Path, tmp_path: Path) -> Path:
    """A copy of the synthetic data set that a test may break."""
    return Path(shutil.copytree(synthetic, tmp_path / "editable"))


@pytest.fixture
def table(synthetic: Path) -> pd.DataFrame:
    return read_table(synthetic / "HAM10000_metadata.csv")


@pytest.fixture(scope="session")
def run(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that took seconds. It is shared, so tests must not change it."""
    from ham10000.recipe import make_recipe
    from ham10000.training import train

    out = tmp_path_factory.mktemp("evaluation") / "run"
    recipe = make_recipe(
        {
            "name": "tiny",
            "data": {"root": str(synthetic), "size": 24, "epoch_samples": 32, "workers": 0},
            "model": {"backbone": "ham10000:tiny", "at": "block2"},
            "training": {"epochs": 1, "batch_size": 16},
            "logging": {"tensorboard": False},
        }
    )
    assert ranks.run(train, recipe, out) == [0]
    return out


@pytest.fixture(scope="session")
def binary_run(isic2017: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a synthetic data set like ISIC 2017. It is shared, so tests must not change it."""
    from ham10000.recipe import make_recipe
    from ham10000.training import train

    out = tmp_path_factory.mktemp("isic2017") / "run"
    mine = make_recipe(
        {
            "name": "binary",
            "data": {
                "root": str(isic2017),
                "set": "isic2017-melanoma",
                "protocol": "published",
                "size": 24,
                "workers": 0,
                "mix": "mixup",
            },
            "model": {"backbone": "ham10000:tiny", "at": "block2"},
            "loss": {"class_weights": {"mel": 3}},
            "training": {"epochs": 1, "batch_size": 16, "monitor": "auc/mel", "mode": "max"},
            "logging": {"tensorboard": False},
        }
    )
    assert ranks.run(train, mine, out) == [0]
    return out


@pytest.fixture
def real() -> Path:
    """HAM10000 itself."""
    if not os.environ.get(DATA_VARIABLE):
        pytest.skip(f"needs HAM10000: set {DATA_VARIABLE} to its folder")
    return Path(os.environ[DATA_VARIABLE])


@pytest.fixture(autouse=True)
def _no_data_folder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests must not read real images just because HAM10000_DIR is set.
    if "real" not in request.fixturenames:
        monkeypatch.delenv(DATA_VARIABLE, raising=False)
