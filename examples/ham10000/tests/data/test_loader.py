"""Batches by number, and from persistent workers in reused memory."""

import signal
import time
from pathlib import Path

import psutil
import pytest
import ranks
import torch
from torch.utils.data import DataLoader

from ham10000.data import (
    HAM10000,
    Augment,
    Batches,
    BatchLoader,
    CachedHAM10000,
    EpochSampler,
    SequentialShard,
    metadata_features,
    prepare,
)
from ham10000.data.loader import blocked_signals
from ham10000.errors import ArgumentError, WriteError

SIZE = 32


@pytest.fixture(scope="module")
def cached(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(synthetic, tmp_path_factory.mktemp("loading") / "cache", SIZE).cache.path


@pytest.fixture(scope="module")
def data(cached: Path) -> CachedHAM10000:
    return CachedHAM10000(cached, metadata=["age"])


def same(one, other) -> bool:
    pairs = list(zip(one, other, strict=True))  # metadata and weights can be None
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("augment", [None, Augment("strong", seed=7)], ids=["bytes", "strong"])
def test_batches_are_those_of_the_data_set_of_batches(data, workers, augment) -> None:
    sampler = EpochSampler(data.targets, "class", 7)
    loader = BatchLoader(data, sampler, 16, augment, workers=workers)
    for epoch, done in ((0, 0), (2, 0), (1, 160), (1, len(sampler) - 3)):
        sampler.set_epoch(epoch, done)
        batches = Batches(data, sampler, 16, augment)
        loaded = list(loader)
        assert len(loaded) == len(loader) == len(batches)
        assert all(same(batch, batches[number]) for number, batch in enumerate(loaded))


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_that_is_used_again_lasts_for_two_batches(data, workers) -> None:
    augment, sampler = Augment("authors"), EpochSampler(data.targets)
    expected = [batch.images for batch in Batches(data, sampler, 16, augment)]
    loader = BatchLoader(data, sampler, 16, augment, workers=workers, reuse_memory=True)
    places = set()
    previous = None
    for number, batch in enumerate(loader):
        assert torch.equal(batch.images, expected[number])
        assert previous is None or torch.equal(previous, expected[number - 1])
        previous = batch.images
        places.add(batch.images.data_ptr())
    assert len(places) == 2 * workers + 2 < len(expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unfinished_epoch_does_not_affect_the_next(data, workers) -> None:
    augment, sampler = Augment("authors"), EpochSampler(data.targets)
    loader = BatchLoader(data, sampler, 16, augment, workers=workers, reuse_memory=True)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert same(next(iter(loader)), Batches(data, sampler, 16, augment)[0])
    sampler.set_epoch(3)
    expected = Batches(data, sampler, 16, augment)
    assert all(same(batch, expected[number]) for number, batch in enumerate(loader))


def test_workers_stay_from_epoch_to_epoch_and_end_with_the_loader(data) -> None:
    def workers() -> set[int]:
        return {child.pid for child in psutil.Process().children()}

    before = workers()
    loader = BatchLoader(data, EpochSampler(data.targets), 16, workers=2)
    # Those that are there before anything is asked for: a run starts threads later.
    seen = [workers() - before]
    for _ in range(2):
        assert len(list(loader)) == len(loader)
        seen.append(workers() - before)
    assert len(seen[0]) == 2
    assert seen[0] == seen[1] == seen[2]
    del loader
    assert not workers() - before


def test_the_random_numbers_of_this_process_are_left_alone(data) -> None:
    loader = BatchLoader(data, EpochSampler(data.targets), 16, Augment("strong"), workers=1)
    state = torch.get_rng_state()
    list(loader)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_short_last_batch_can_be_left_out(data) -> None:
    loader = BatchLoader(data, SequentialShard(len(data), 1, 2), 50, drop_last=True)
    assert [len(batch.images) for batch in loader] == [50] * (len(data) // 2 // 50)
    assert len(loader) == len(data) // 2 // 50


def test_what_cannot_be_loaded_is_refused(data, synthetic: Path) -> None:
    sampler = EpochSampler(data.targets)
    with pytest.raises(ArgumentError, match="workers must be at least 0, not -1"):
        BatchLoader(data, sampler, 16, workers=-1)
    with pytest.raises(ArgumentError, match="batch_size must be at least 1"):
        BatchLoader(data, sampler, 0)
    with pytest.raises(ArgumentError, match="Open the data set with size="):
        BatchLoader(HAM10000(synthetic), sampler, 16)


def test_a_lack_of_shared_memory_is_said(data, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: torch.Tensor) -> None:
        raise RuntimeError("unable to resize file </torch_1> to the right size: No space left")

    monkeypatch.setattr(torch.Tensor, "share_memory_", fail)
    with pytest.raises(WriteError, match=r"no shared memory for 0 MiB .*No space left.*/dev/shm"):
        BatchLoader(data, EpochSampler(data.targets), 4)


def test_an_error_of_a_worker_arrives(data, tmp_path: Path, synthetic: Path) -> None:
    torn = HAM10000(synthetic, size=SIZE)
    torn._paths[torn.rows[3]] = tmp_path / "gone.jpg"
    loader = BatchLoader(torn, SequentialShard(len(torn)), 16, workers=1)
    with pytest.raises(Exception, match=r"gone\.jpg"):
        list(loader)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [None, Augment("authors")])
def test_a_batch_brings_the_metadata_of_its_images(
    cached: Path, workers: int, augment: Augment | None
) -> None:
    data = CachedHAM10000(cached, metadata=["age", "sex", "localization"])
    features = metadata_features(data.metadata)
    sampler = EpochSampler(data.targets, seed=1)
    batches = Batches(data, sampler, 100, augment)
    loader = DataLoader(batches, batch_size=None, num_workers=workers)
    assert torch.equal(torch.cat([batch.metadata for batch in loader]), features[list(sampler)])
    assert Batches(CachedHAM10000(cached), sampler, 100)[0].metadata is None


def epoch(data: HAM10000, *, rank: int, replicas: int, batch: int, workers: int):
    sampler = EpochSampler(data.targets, "class", 7, rank=rank, num_replicas=replicas)
    sampler.set_epoch(2)
    batches = Batches(data, sampler, batch, Augment("strong", seed=7))
    return list(DataLoader(batches, batch_size=None, num_workers=workers))


@pytest.mark.parametrize("count", [2, 4])
def test_one_and_several_ranks_with_and_without_workers_see_the_same(
    cached: Path, count: int
) -> None:
    data = CachedHAM10000(cached)
    one = epoch(data, rank=0, replicas=1, batch=16, workers=0)
    with_workers = epoch(data, rank=0, replicas=1, batch=16, workers=2)
    ranks = [
        epoch(data, rank=rank, replicas=count, batch=16 // count, workers=2)
        for rank in range(count)
    ]
    assert len(one) == len(with_workers) == len(ranks[0]) == 18
    for step, batch in enumerate(one):
        assert torch.equal(batch.images, with_workers[step].images)
        assert torch.equal(batch.targets, with_workers[step].targets)
        for rank in range(count):
            assert torch.equal(batch.images[rank::count], ranks[rank][step].images)
            assert torch.equal(batch.targets[rank::count], ranks[rank][step].targets)
            assert torch.equal(batch.positions[rank::count], ranks[rank][step].positions)


def test_batches_over_jpegs_and_over_the_cache_are_the_same(synthetic: Path, cached: Path) -> None:
    jpegs = epoch(HAM10000(synthetic, size=SIZE), rank=0, replicas=1, batch=64, workers=0)
    cached = epoch(CachedHAM10000(cached), rank=0, replicas=1, batch=64, workers=0)
    assert all(torch.equal(a.images, b.images) for a, b in zip(jpegs, cached, strict=True))


def test_batches_without_augmentation_are_the_pixels(cached: Path) -> None:
    data = CachedHAM10000(cached)
    batches = Batches(data, SequentialShard(280, 1, 2), 50, drop_last=True)
    assert len(batches) == 2
    assert torch.equal(batches[1].images, data.read(range(190, 240))[0])
    with pytest.raises(IndexError):
        batches[2]
    with pytest.raises(ArgumentError, match="batch_size"):
        Batches(data, SequentialShard(280), 0)


def make_loader(root: Path) -> BatchLoader:
    data = HAM10000(root, size=24)
    return BatchLoader(data, EpochSampler(data.targets), 8, Augment("authors"), workers=2)


def read_until_told(root: Path, told: Path) -> int:
    """Go through epochs until `told` exists, with SIGTERM handled, as the trainer does it."""
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    loader = make_loader(root)
    told.with_name("started").touch()
    while not told.exists():
        for _ in loader:
            pass
    return 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_ignore_signals_from_other_processes(
    synthetic: Path, tmp_path: Path, number: signal.Signals
) -> None:
    processes = ranks.start(read_until_told, synthetic, tmp_path / "told")
    ranks.wait_for((tmp_path / "started").exists)
    workers = psutil.Process(processes[0].pid).children()
    assert len(workers) == 2
    for _ in range(20):
        for worker in workers:
            worker.send_signal(number)
        time.sleep(0.01)
    assert all(worker.is_running() for worker in workers)
    (tmp_path / "told").touch()
    assert ranks.wait(processes) == [3]
    assert not [worker for worker in workers if worker.is_running()]


def test_workers_die_with_their_parent_and_by_its_order(synthetic: Path, tmp_path: Path) -> None:
    processes = ranks.start(read_until_told, synthetic, tmp_path / "told")
    ranks.wait_for((tmp_path / "started").exists)
    workers = psutil.Process(processes[0].pid).children()
    ranks.kill(processes)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    loader = make_loader(synthetic)
    worker = psutil.Process().children()[-1]
    assert len(list(loader)) > 0
    worker.terminate()
    _, alive = psutil.wait_procs([worker], timeout=5)
    assert not alive


def test_a_signal_that_arrives_while_blocked_is_delivered_afterwards() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with blocked_signals():
            signal.raise_signal(signal.SIGTERM)  # to this thread, which alone is blocked
            assert not heard
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
