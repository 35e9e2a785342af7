import errno
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bad_files import edit

from ham10000.data import (
    PUBLISHED_SPLIT,
    CachedHAM10000,
    check_cache,
    find_dataset,
    open_cache,
    open_folder,
    prepare,
    read_image,
    resize,
)
from ham10000.errors import ArgumentError, CacheError, DataError, MissingDataError, WriteError

KEPT = {".lock", "cache.json"}


def files(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()} if cache.exists() else set()


def test_the_cache_holds_every_image_resized(synthetic: Path, tmp_path: Path) -> None:
    cache = prepare(synthetic, tmp_path / "cache", size=20, masks=True).cache
    folder = open_folder(synthetic)
    assert cache.images.shape == (280, 3, 20, 20)
    assert cache.table.equals(folder.table)
    for row in (0, 100, 279):
        expected = resize(read_image(folder.paths()[row]), 20)
        assert np.array_equal(cache.images[row], expected.numpy())
    assert cache.masks is not None
    assert set(np.unique(cache.masks)) == {0, 1}
    assert isinstance(cache.images.base, np.memmap) or isinstance(cache.images, np.memmap)


def test_doing_it_again_does_nothing(synthetic: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    assert prepare(synthetic, out, size=20).built
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name != ".lock"}
    assert not prepare(synthetic, out, size=20).built
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name != ".lock"}
    assert after == before


def test_the_result_does_not_depend_on_the_workers(synthetic: Path, tmp_path: Path) -> None:
    caches = [
        prepare(synthetic, tmp_path / str(number), 20, workers=number).cache for number in (1, 3)
    ]
    assert np.array_equal(caches[0].images, caches[1].images)
    assert caches[0].inputs == caches[1].inputs


@pytest.mark.parametrize("what", ["image", "table", "size", "masks"])
def test_a_changed_input_rebuilds(editable: Path, tmp_path: Path, what: str) -> None:
    out = tmp_path / "cache"
    prepare(editable, out, size=20)
    paths = open_folder(editable).paths()
    size, masks = 20, False
    if what == "image":
        times = paths[0].stat()
        paths[0].write_bytes(paths[1].read_bytes())
        os.utime(paths[0], ns=(times.st_atime_ns, times.st_mtime_ns))  # same modification time
    elif what == "table":
        edit(editable / "HAM10000_metadata.csv", ",female,", ",male,")
    elif what == "size":
        size = 24
    else:
        masks = True
    done = prepare(editable, out, size, masks=masks)
    assert done.built
    assert done.cache.size == size
    left = files(out) - KEPT
    assert len(left) == 2 + masks, left  # the old array and index are gone


def test_a_reader_keeps_what_it_has_mapped(editable: Path, tmp_path: Path) -> None:
    old = prepare(editable, tmp_path / "cache", size=20).cache
    before = np.array(old.images[0])
    paths = open_folder(editable).paths()
    paths[0].write_bytes(paths[50].read_bytes())
    prepare(editable, tmp_path / "cache", size=20)
    assert np.array_equal(old.images[0], before)


def test_a_damaged_image_is_named_and_nothing_is_left(editable: Path, tmp_path: Path) -> None:
    path = open_folder(editable).paths()[100]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=path.name):
        prepare(editable, tmp_path / "cache", size=20)
    assert files(tmp_path / "cache") <= {".lock"}


def test_a_failed_rebuild_keeps_the_old_cache(editable: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    prepare(editable, out, size=20)
    before = files(out)
    path = open_folder(editable).paths()[100]
    path.write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        prepare(editable, out, size=20)
    assert files(out) == before
    assert open_cache(out).images.shape[0] == 280


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_nothing(synthetic: Path, tmp_path: Path) -> None:
    """A limit on the size of files, which the system enforces as it does a full disk."""
    code = (
        "import resource, sys; from ham10000.cli import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY));"
        "sys.exit(main(sys.argv[1:]))"
    )
    out = tmp_path / "cache"
    arguments = ["prepare", "--data", str(synthetic), "--size", "20", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("ham10000: error: writing ")
    assert "Free some" in done.stderr
    assert "Traceback" not in done.stderr
    assert files(out) <= {".lock"}
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000  # ours is as it was


def test_a_full_disk_at_the_last_moment_leaves_nothing(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="no space left"):
        prepare(synthetic, tmp_path / "cache", size=20)
    assert files(tmp_path / "cache") <= {".lock"}


@pytest.mark.slow
def test_a_killed_run_leaves_no_cache_and_the_next_one_cleans_up(
    synthetic: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    arguments = ["prepare", "--data", str(synthetic), "--size", "1500", "--workers", "1"]
    process = subprocess.Popen([sys.executable, "-m", "ham10000", *arguments, "--out", str(out)])
    end = time.monotonic() + 60
    while not any(name.startswith(".ham10000-part-") for name in files(out)):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    with pytest.raises(MissingDataError, match=r"no cache\.json"):
        open_cache(out)
    assert prepare(synthetic, out, size=20).built
    assert not any(name.startswith(".ham10000-part-") for name in files(out))


@pytest.mark.parametrize(
    "how", ["cut", "gone", "pixel", "index", "no index", "no key", "no JSON", "other version"]
)
def test_a_damaged_cache_is_rebuilt(synthetic: Path, tmp_path: Path, how: str) -> None:
    out = tmp_path / "cache"
    before = np.array(prepare(synthetic, out, size=20).cache.images)
    array, index = next(out.glob("images-*.npy")), next(out.glob("index-*.csv"))
    manifest = json.loads((out / "cache.json").read_text())
    if how == "cut":
        os.truncate(array, array.stat().st_size - 1)
    elif how == "gone":
        array.unlink()
    elif how == "pixel":
        raw = bytearray(array.read_bytes())
        raw[5000] ^= 1
        array.write_bytes(raw)
    elif how == "index":
        edit(index, ",nv,", ",mel,")
    elif how == "no index":
        index.write_text("image_id\n")
    elif how == "no key":
        del manifest["inputs"]
        (out / "cache.json").write_text(json.dumps(manifest))
    elif how == "no JSON":
        (out / "cache.json").write_text("{")
    else:
        edit(out / "cache.json", '"version": 2', '"version": 99')
    assert prepare(synthetic, out, size=20).built
    assert np.array_equal(open_cache(out).images, before)
    check_cache(out)
    assert len(files(out) - KEPT) == 2


def test_without_the_check_a_changed_pixel_is_not_looked_for(
    synthetic: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    prepare(synthetic, out, size=20)
    array = next(out.glob("images-*.npy"))
    raw = bytearray(array.read_bytes())
    raw[5000] ^= 1
    array.write_bytes(raw)
    assert not prepare(synthetic, out, size=20, check=False).built
    assert prepare(synthetic, out, size=20).built


def test_what_cannot_be_removed_or_locked_is_an_error_of_ours(
    synthetic: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    (out / "index-7.csv").mkdir(parents=True)
    with pytest.raises(WriteError, match=r"index-7\.csv"):
        prepare(synthetic, out, size=20)
    (tmp_path / "other" / ".lock").mkdir(parents=True)
    with pytest.raises(WriteError, match=r"\.lock"):
        prepare(synthetic, tmp_path / "other", size=20)


def test_files_with_similar_names_are_not_removed(synthetic: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    prepare(synthetic, out, size=20)
    (out / "index-mine.csv").write_text("notes")
    assert prepare(synthetic, out, size=24).built
    assert (out / "index-mine.csv").read_text() == "notes"


def test_a_folder_of_something_else_is_left_alone(synthetic: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").touch()
    with pytest.raises(ArgumentError, match=r"it has 'precious\.txt' in it and is not a cache"):
        prepare(synthetic, tmp_path, size=20)
    with pytest.raises(ArgumentError, match="it is a file"):
        prepare(synthetic, tmp_path / "precious.txt", size=20)
    with pytest.raises(ArgumentError, match="between 1 and 4096"):
        prepare(synthetic, tmp_path / "cache", size=0)
    assert files(tmp_path) == {"precious.txt"}


def test_a_cache_knows_its_data_set(isic2017: Path, synthetic: Path, tmp_path: Path) -> None:
    melanoma, keratosis = (find_dataset(f"isic2017-{task}") for task in ("melanoma", "keratosis"))
    cache = prepare(isic2017, tmp_path / "cache", 16, masks=True, info=melanoma).cache
    assert (cache.info.name, cache.info.class_names) == (melanoma.name, melanoma.class_names)
    assert cache.table[PUBLISHED_SPLIT].value_counts()["train"] > 36
    assert not prepare(isic2017, tmp_path / "cache", 16, masks=True, info=melanoma).built
    data = CachedHAM10000(tmp_path / "cache", masks=True)
    assert data.classes == ("other", "mel")
    assert [data.classes[target] for target in data.targets] == data.table["dx"].tolist()
    other = prepare(isic2017, tmp_path / "cache", 16, masks=True, info=keratosis)
    assert other.built
    assert other.cache.info.classes == ("other", "sk")
    edit(tmp_path / "cache" / "cache.json", '"class_names": {', '"class_names": {"x": 1,')
    with pytest.raises(CacheError, match="no valid 'set'"):
        open_cache(tmp_path / "cache")
    prepare(synthetic, tmp_path / "ham", 16)
    assert "set" not in json.loads((tmp_path / "ham" / "cache.json").read_text())
