import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ham10000.data import check_cache, open_cache, prepare, read_manifest
from ham10000.errors import CacheError, MissingDataError


@pytest.fixture(scope="module")
def prepared(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "cache"
    prepare(synthetic, out, size=8, masks=True)
    return out


@pytest.fixture
def cache(prepared: Path, tmp_path: Path) -> Path:
    """A cache that a test may break."""
    return Path(shutil.copytree(prepared, tmp_path / "cache"))


def test_a_cache_has_the_checksums_of_its_files(cache: Path) -> None:
    manifest = read_manifest(cache)
    assert manifest is not None
    assert sorted(manifest["sha256"]) == ["images", "index", "masks"]
    check_cache(cache)


@pytest.mark.parametrize("kind", ["images", "masks", "index"])
def test_a_single_changed_bit_is_found(cache: Path, kind: str) -> None:
    manifest = read_manifest(cache)
    assert manifest is not None
    path = cache / manifest[kind]
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CacheError, match=rf"{path.name} has changed.*Rebuild it with: ham10000"):
        check_cache(cache)


def test_a_folder_without_a_manifest_is_not_a_cache(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    for function in (open_cache, check_cache):
        with pytest.raises(MissingDataError, match=r"there is no cache\.json in it"):
            function(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 99),
        ("version", "2"),
        ("version", True),
        ("size", "20"),
        ("size", 0),
        ("size", 10**400),
        ("count", None),
        ("count", -1),
        ("count", 279),
        ("inputs", 3),
        ("images", "../images-1.npy"),
        ("images", ["images-1.npy"]),
        ("images", None),
        ("masks", "index-1.csv"),
        ("masks", 0),
        ("index", "/etc/passwd"),
        ("index", "index-9.csv"),
        ("sha256", None),
        ("sha256", {}),
        ("sha256", {"images": 1, "masks": 2, "index": 3}),
    ],
)
def test_a_manifest_with_a_wrong_value_is_refused(cache: Path, key: str, value: Any) -> None:
    manifest = json.loads((cache / "cache.json").read_text())
    (cache / "cache.json").write_text(json.dumps({**manifest, key: value}))
    with pytest.raises(CacheError, match="Rebuild it with: ham10000 prepare") as raised:
        open_cache(cache)
    assert str(cache) in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "[" * 100_000, "\xff", '{"a": NaN}'])
def test_what_is_not_a_manifest_is_refused(cache: Path, text: str) -> None:
    (cache / "cache.json").write_text(text, encoding="latin-1")
    with pytest.raises(CacheError):
        open_cache(cache)


@pytest.mark.parametrize("how", ["cut", "gone", "shape", "order", "type", "zip", "pickle"])
def test_an_array_that_does_not_fit_is_refused(cache: Path, how: str) -> None:
    path = cache / "images-1.npy"
    array = np.load(path)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "gone":
        path.unlink()
    elif how == "shape":
        np.save(path, array[:, :, :4])
    elif how == "order":
        np.save(path, np.asfortranarray(array))
    elif how == "type":
        np.save(path, array.astype(np.int8))
    elif how == "zip":
        with path.open("wb") as file:
            np.savez(file, array)
    else:
        np.save(path, array.astype(object), allow_pickle=True)
    with pytest.raises(CacheError, match=r"images-1\.npy"):
        open_cache(cache)


def test_no_damage_passes_the_check_or_raises_a_foreign_error(cache: Path) -> None:
    draw = random.Random(0)
    whole = {path.name: path.read_bytes() for path in cache.iterdir() if path.name != ".lock"}
    expected = np.array(open_cache(cache).images)
    noticed = 0
    for _ in range(300):
        name = draw.choice(sorted(whole))
        raw = bytearray(whole[name])
        # The header of an array is where a parser reads, so half of the damage goes there.
        end = min(len(raw), 128) if draw.random() < 0.5 else len(raw)
        for _ in range(draw.randint(1, 3)):
            raw[draw.randrange(end)] = draw.randrange(256)
        if draw.random() < 0.2:
            del raw[draw.randrange(len(raw)) :]
        (cache / name).write_bytes(raw)
        try:
            opened = open_cache(cache)
            check_cache(cache)
        except CacheError:
            noticed += 1
        else:
            assert np.array_equal(opened.images, expected)
        (cache / name).write_bytes(whole[name])
    assert noticed > 280
