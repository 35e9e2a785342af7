"""What a run does with a cache that has changed or that is damaged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ham10000.data import open_cache, prepare
from ham10000.errors import CacheError
from ham10000.recipe import Recipe
from ham10000.training.folder import RunFolder
from ham10000.training.inputs import prepare_inputs


@pytest.fixture
def start(
    synthetic: Path, tmp_path: Path, recipe: Callable[..., Recipe]
) -> Callable[..., np.ndarray]:
    """Prepare the inputs of a run with a cache of its own, and return its images."""

    def prepared(**fields: object) -> np.ndarray:
        run = RunFolder(tmp_path / "run")
        run.path.mkdir(exist_ok=True)
        data = {"cache": str(tmp_path / "cache"), "root": str(synthetic), **fields}
        return open_cache(prepare_inputs(run, recipe(data=data))).images

    return prepared


def change_a_pixel(cache: Path) -> None:
    path = next(cache.glob("images-*.npy"))
    raw = bytearray(path.read_bytes())
    raw[5000] ^= 1
    path.write_bytes(raw)


def test_a_changed_pixel_is_repaired_before_training(start, tmp_path: Path) -> None:
    before = np.array(start())
    change_a_pixel(tmp_path / "cache")
    assert not np.array_equal(start(check_cache=False), before)
    assert np.array_equal(start(), before)


def test_a_damaged_manifest_is_repaired_before_training(start, tmp_path: Path) -> None:
    before = np.array(start())
    (tmp_path / "cache" / "cache.json").write_text("{")
    assert np.array_equal(start(), before)


def test_without_the_data_set_a_changed_cache_is_refused(start, tmp_path: Path) -> None:
    start()
    gone = str(tmp_path / "gone")
    start(root=gone)
    change_a_pixel(tmp_path / "cache")
    start(root=gone, check_cache=False)
    with pytest.raises(CacheError, match=r"images-1\.npy has changed"):
        start(root=gone)


def test_masks_stay_in_a_cache(start, synthetic: Path, tmp_path: Path) -> None:
    size = start().shape[-1]
    prepare(synthetic, tmp_path / "cache", size, masks=True)
    start()
    assert open_cache(tmp_path / "cache").masks is not None
