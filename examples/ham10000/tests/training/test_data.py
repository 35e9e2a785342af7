import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ham10000.data import (
    EpochSampler,
    kfold_split,
    open_cache,
    prepare,
    read_table,
    write_split,
)
from ham10000.errors import (
    ArgumentError,
    CacheError,
    DataError,
    LockedError,
    MissingDataError,
    SplitError,
)
from ham10000.recipe import Recipe
from ham10000.training.checkpoint_file import save_step
from ham10000.training.data import (
    EpochPlan,
    find_cache,
    make_split,
    open_split,
    open_train,
    prepare_data,
    replace_run,
    splits_of,
)
from ham10000.training.run_dir import RunDir, claim_run, lock_run


@given(
    samples=st.integers(8, 300),
    per_rank=st.integers(2, 9),
    replicas=st.integers(1, 4),
    accumulate=st.integers(1, 3),
)
def test_every_rank_has_every_batch_and_no_batch_is_of_one(
    samples: int, per_rank: int, replicas: int, accumulate: int
) -> None:
    plan = EpochPlan(samples, per_rank * replicas, replicas, accumulate)
    counted = [0] * plan.batches
    for rank in range(replicas):
        length = len(EpochSampler([0] * samples, rank=rank, num_replicas=replicas))
        for batch in range(plan.batches):
            own = min(per_rank, length - batch * per_rank)
            assert own >= 2
            counted[batch] += own
    numbers = [plan.batches_of(step) for step in range(plan.steps)]
    assert [number for part in numbers for number in part] == list(range(plan.batches))
    for step, part in enumerate(numbers):
        assert plan.images(step) == sum(counted[number] for number in part)
    assert plan.images_before(plan.steps - 1) + plan.images(plan.steps - 1) <= samples


def test_what_can_not_be_shared_out_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"training.batch_size 32 .* 3 processes.* Use 30\."):
        EpochPlan(100, 32, 3)
    with pytest.raises(ArgumentError, match="3 images are too few for 2 processes"):
        EpochPlan(3, 32, 2)


MakeRecipe = Callable[..., Recipe]


def test_the_split_of_a_run_is_made_once(recipe: MakeRecipe, tmp_path: Path) -> None:
    run, mine = claim_run(tmp_path / "run", recipe(data={"protocol": "lesion"}))
    cache = prepare_data(run, mine)
    assert cache == mine.data.cache
    before = run.split.read_bytes()
    assert splits_of(run) == ["train", "val", "test"]
    images = [len(open_split(cache, run, split, metadata=False)) for split in splits_of(run)]
    assert sum(images) == len(pd.read_csv(run.split))
    run.split.write_bytes(before + b"\n")
    prepare_data(run, mine)
    assert run.split.read_bytes() == before + b"\n"


@pytest.mark.parametrize(
    ("training", "schedule", "validation", "expected"),
    [
        ({"monitor": "epoch", "mode": "max"}, "one_cycle", None, ["train", "test"]),
        ({"monitor": "epoch", "mode": "max"}, "one_cycle", True, ["train", "val", "test"]),
        ({"monitor": "epoch", "mode": "max"}, "plateau", None, ["train", "val", "test"]),
        (
            {"monitor": "epoch", "mode": "max", "patience": 2},
            "constant",
            None,
            ["train", "val", "test"],
        ),
        ({"monitor": "log_loss"}, "one_cycle", None, ["train", "val", "test"]),
        ({"monitor": "log_loss"}, "one_cycle", False, ["train", "test"]),
    ],
)
def test_a_fold_validates_only_if_something_depends_on_it(
    recipe: MakeRecipe,
    tmp_path: Path,
    training: dict[str, object],
    schedule: str,
    validation: bool | None,
    expected: list[str],
) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("lesion_id,other_lesion_id\n")
    data = {"protocol": "kfold", "fold": 2, "validation": validation, "pairs": str(pairs)}
    mine = recipe(data=data, training=training, schedule={"name": schedule})
    run, mine = claim_run(tmp_path / "run", mine)
    prepare_data(run, mine)
    assert splits_of(run) == expected


@pytest.fixture
def few_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ham10000.data.augment.offline.TARGET", 60)
    monkeypatch.setattr("ham10000.data.augment.offline.BATCH", 10)


def test_the_augmented_set_of_a_split_is_made_once(
    recipe: MakeRecipe, few_copies: None, tmp_path: Path
) -> None:
    data = {"offline": "auto", "augment": "none", "metadata": True}
    run, mine = claim_run(tmp_path / "one", recipe(data=data))
    cache = prepare_data(run, mine)
    (made,) = tmp_path.glob(f"[!.]*-offline-{mine.data.size}-*")
    train = open_train(cache, run, mine.data)
    split = pd.read_csv(run.split)
    names = set(split["image_id"][split["split"] == "train"])
    assert set(train.table["image_id"]) == names
    assert len(train) == len(pd.read_csv(made / "index.csv")) > len(names)
    assert train.metadata
    before = (made / "index.csv").stat().st_mtime_ns
    other = replace(mine, seed=7, data=replace(mine.data, split=run.split))
    again, other = claim_run(tmp_path / "two", other)
    open_train(prepare_data(again, other), again, other.data)
    assert (made / "index.csv").stat().st_mtime_ns == before
    third, moved = claim_run(tmp_path / "three", replace(mine, seed=7))  # another split
    prepare_data(third, moved)
    assert len(list(tmp_path.glob("[!.]*-offline-*"))) == 2


def test_an_augmented_set_is_made_again_from_other_pixels(
    recipe: MakeRecipe, few_copies: None, editable: Path, tmp_path: Path
) -> None:
    data = {"offline": "auto", "root": str(editable), "cache": None}
    for name in ("one", "two"):
        run, mine = claim_run(tmp_path / name, recipe(data=data))
        prepare_data(run, mine)
        first = next(editable.rglob("*.jpg"))
        Image.new("RGB", (48, 36), "red").save(first)
    assert len(list(tmp_path.glob("[!.]*-offline-*"))) == 2


def test_a_run_does_not_go_on_with_other_images(
    recipe: MakeRecipe, editable: Path, tmp_path: Path
) -> None:
    run, mine = claim_run(tmp_path / "run", recipe(data={"root": str(editable), "cache": None}))
    prepare_data(run, mine)
    Image.new("RGB", (48, 36), "red").save(next(editable.rglob("*.jpg")))
    before = run.images.read_text()
    run.split.write_text("of the images before\n")
    cache = prepare_data(run, mine)  # nothing is trained yet
    assert run.images.read_text() != before
    assert splits_of(run) == ["train", "test"]
    prepare(editable, cache, mine.data.size, masks=True)
    save_step(run, 1, {"step": 1}, keep=1)
    prepare_data(run, mine)  # masks change nothing
    Image.new("RGB", (48, 36), "blue").save(next(editable.rglob("*.jpg")))
    with pytest.raises(CacheError, match=r"images .* have changed since the run was trained"):
        prepare_data(run, mine)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"image_id,split\xff\n", "not UTF-8"), (b"image_id,lesion_id,dx\na,b,nv\n", "'split'")],
)
def test_a_damaged_split_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    run = RunDir(tmp_path)
    run.split.write_bytes(content)
    with pytest.raises(DataError, match=rf"split\.csv.*{message}"):
        splits_of(run)


def test_an_augmented_set_of_another_split_is_refused(
    recipe: MakeRecipe, few_copies: None, tmp_path: Path
) -> None:
    data = {"offline": str(tmp_path / "set"), "split_seed": 1}
    run, mine = claim_run(tmp_path / "one", recipe(data=data))
    open_train(prepare_data(run, mine), run, mine.data)
    run, mine = claim_run(tmp_path / "two", recipe(data={**data, "split_seed": 2}))
    cache = prepare_data(run, mine)
    with pytest.raises(SplitError, match=r"was made from ISIC_\d+, which is in test of the split"):
        open_train(cache, run, mine.data)


def test_the_cache_is_beside_the_run_by_default(recipe: MakeRecipe, tmp_path: Path) -> None:
    mine = recipe(data={"cache": None})
    assert mine.data.root is not None
    expected = tmp_path / f"{mine.data.root.name}-cache-{mine.data.size}"
    assert find_cache(RunDir(tmp_path / "run"), mine.data) == expected


def test_a_run_has_one_fold(recipe: MakeRecipe, synthetic: Path, tmp_path: Path) -> None:
    table = read_table(synthetic / "HAM10000_metadata.csv")
    folds = kfold_split(table, 0, 3)
    write_split(folds, tmp_path / "folds.csv")
    data = {"split": str(tmp_path / "folds.csv")}
    run, mine = claim_run(tmp_path / "run", recipe(data={**data, "fold": 1}))
    prepare_data(run, mine)
    expected = folds[folds["fold"] == 1]["split"].value_counts().to_dict()
    assert pd.read_csv(run.split)["split"].value_counts().to_dict() == expected
    run, mine = claim_run(tmp_path / "none", recipe(data=data))
    with pytest.raises(SplitError, match=r"Set data\.fold to the fold to test on"):
        prepare_data(run, mine)
    run, mine = claim_run(tmp_path / "paper", recipe(data={"fold": 1}))
    with pytest.raises(SplitError, match=r"data\.fold is 1, and the split has no folds"):
        prepare_data(run, mine)


def test_a_split_file_is_read(recipe: MakeRecipe, synthetic: Path, tmp_path: Path) -> None:
    table = read_table(synthetic / "HAM10000_metadata.csv")
    split = make_split(recipe().data, 0, table)
    write_split(split, tmp_path / "split.csv")
    again = make_split(recipe(data={"split": str(tmp_path / "split.csv")}).data, 5, table)
    assert again.to_csv() == split.to_csv()


@pytest.fixture
def start(
    synthetic: Path, tmp_path: Path, recipe: Callable[..., Recipe]
) -> Callable[..., np.ndarray]:
    """Prepare the inputs of a run with a cache of its own, and return its images."""

    def prepared(**fields: object) -> np.ndarray:
        run = RunDir(tmp_path / "run")
        run.path.mkdir(exist_ok=True)
        data = {"cache": str(tmp_path / "cache"), "root": str(synthetic), **fields}
        return open_cache(prepare_data(run, recipe(data=data))).images

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


def test_a_cache_beside_the_run_is_found_without_the_data_set(
    recipe: MakeRecipe, synthetic: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(synthetic, tmp_path / "set"))
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    mine = recipe(data={"root": str(root), "cache": None})
    cache = prepare_data(run, mine)
    shutil.rmtree(root)
    assert prepare_data(run, mine) == cache


def test_masks_stay_in_a_cache(start, synthetic: Path, tmp_path: Path) -> None:
    size = start().shape[-1]
    prepare(synthetic, tmp_path / "cache", size, masks=True)
    start()
    assert open_cache(tmp_path / "cache").masks is not None


def results(run: RunDir) -> list[str]:
    """Write what a run of two checkpoints and a user have written, and list it."""
    save_step(run, 1, {"step": 1}, keep=1)
    for name in ("tensorboard/events", "evaluation/metrics.json", "predictions-val.csv", "mine/a"):
        path = run.path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return sorted(path.name for path in run.path.iterdir() if not path.name.endswith(".lock"))


def test_a_run_of_another_recipe_is_replaced(recipe: MakeRecipe, tmp_path: Path) -> None:
    assert not replace_run(tmp_path / "run", recipe())
    run, mine = claim_run(tmp_path / "run", recipe())
    prepare_data(run, mine)
    before = results(run)
    assert not replace_run(run.path, recipe(data={"workers": 1}))
    assert (
        sorted(path.name for path in run.path.iterdir() if not path.name.endswith(".lock"))
        == before
    )
    other = recipe(optimizer={"lr": 0.5})
    with pytest.raises(MissingDataError):
        replace_run(run.path, recipe(data={"root": "nowhere", "cache": "nowhere", "size": 32}))
    with lock_run(run.path), pytest.raises(LockedError):
        replace_run(run.path, other)
    assert (
        sorted(path.name for path in run.path.iterdir() if not path.name.endswith(".lock"))
        == before
    )
    assert replace_run(run.path, other)
    left = {path.name for path in run.path.iterdir() if not path.name.endswith(".lock")}
    assert left == {"recipe.yaml", "mine"}
    assert list((run.path / "mine").iterdir())
    prepare_data(*claim_run(run.path, other))
    assert run.images.is_file()


def test_a_run_of_other_images_is_replaced(
    recipe: MakeRecipe, editable: Path, tmp_path: Path
) -> None:
    mine = recipe(data={"root": str(editable), "cache": str(tmp_path / "cache")})
    run, resolved = claim_run(tmp_path / "run", mine)
    prepare_data(run, resolved)
    results(run)
    assert not replace_run(run.path, mine)
    first, second, *_ = sorted(editable.rglob("ISIC_*.jpg"))
    shutil.copy(first, second)
    assert replace_run(run.path, mine)
    assert not run.checkpoints.exists()


def test_a_run_whose_images_are_not_known_is_replaced(recipe: MakeRecipe, tmp_path: Path) -> None:
    run, mine = claim_run(tmp_path / "run", recipe())
    prepare_data(run, mine)
    run.images.unlink()
    save_step(run, 1, {"step": 1}, keep=1)
    prepare_data(run, mine)
    assert replace_run(run.path, mine)
