"""Epochs of batches: by number as a data set, or ahead of their use from worker processes.

    loader = BatchLoader(data, sampler, batch_size=64, augment=augment, workers=2)
    for epoch in range(10):
        sampler.set_epoch(epoch)
        for batch in loader: ...

A batch is determined by its number alone, so it does not depend on the process that makes it, and
two ranks of 32 see the same images with the same augmentation as one rank of 64.

A `DataLoader` opens and maps shared memory for each tensor that a worker returns, which takes as
long as reading and augmenting the batch. Workers of a `BatchLoader` write images to memory that all
processes share and return only its number; everything else about a batch is known beforehand.

systemd, Slurm and a terminal's Ctrl-C send their signal to every process of a job. The trainer
handles it: it finishes the step, for which it needs its workers, saves and exits. A worker that
died of the same signal would make the trainer fail instead, so workers obey their parent alone.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ham10000.data.dataset import HAM10000
from ham10000.data.metadata import metadata_features
from ham10000.data.samplers import EpochSampler, SequentialShard
from ham10000.errors import ArgumentError, Ham10000Error, WriteError

__all__ = ["Augmentation", "Batch", "BatchLoader", "Batches", "blocked_signals", "obey_parent_only"]


class Augmentation(Protocol):
    """Interface of an augmentation of batches, such as `Augment`."""

    def __call__(
        self, images: Tensor, positions: Tensor, epoch: int, out: Tensor | None = None
    ) -> Tensor:
        """See `Augment.__call__`."""


class Batch(NamedTuple):
    """The inputs of a training step."""

    images: Tensor
    """(B, 3, H, W), uint8, or float32 after augmentation."""
    targets: Tensor
    """(B,), int64."""
    positions: Tensor
    """(B,), index of each sample in the epoch over all ranks, which seeds its augmentation."""
    metadata: Tensor | None = None
    """(B, M), float32, from `metadata_features`; `None` for a data set without metadata."""
    weights: Tensor | None = None
    """(B,), float32, weights of the images in the loss; `None` for equal ones."""


class Batches(Dataset[Batch]):
    """The batches of one epoch on one rank, as a data set.

    Create a new one for each epoch, after `sampler.set_epoch`. `BatchLoader` is faster over many
    epochs.

    To augment on a GPU, leave `augment` out and call it on the batch there:
    `augment(images.to(device), positions, epoch)`. On a CPU pass it here, so that workers do it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.data import Batches, EpochSampler, HAM10000, synthesize
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     synthesize(Path(folder) / "set", images=20, seed=0, width=60)
        ...     data = HAM10000(Path(folder) / "set", size=32)
        ...     batches = Batches(data, EpochSampler(data.targets), batch_size=8)
        ...     [len(batches[number].images) for number in range(len(batches))]
        [8, 8, 4]

    Args:
        data: The data set.
        sampler: Selects and orders its images.
        batch_size: Batch size of this rank.
        augment: Applied to each batch.
        drop_last: Whether to leave out the last batch if it is short.

    Raises:
        ArgumentError: The batch size is below 1.
    """

    def __init__(
        self,
        data: HAM10000,
        sampler: EpochSampler | SequentialShard,
        batch_size: int,
        augment: Augmentation | None = None,
        *,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ArgumentError(f"making batches: batch_size must be at least 1, not {batch_size}.")
        self.data, self.augment, self.batch_size = data, augment, batch_size
        self.indices = torch.tensor(list(sampler), dtype=torch.long)
        self.positions, self.epoch = sampler.positions(), sampler.epoch
        self._metadata = metadata_features(data.metadata) if data.metadata else None
        self._targets = torch.tensor(data.targets, dtype=torch.long)
        length = len(self.indices)
        self._length = length // batch_size if drop_last else -(-length // batch_size)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> Batch:
        indices, positions = self.members(number)
        images, _ = self.data.read(indices.tolist())
        if self.augment is not None:
            images = self.augment(images, positions, self.epoch)
        return self.make_batch(images, indices, positions)

    def members(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the indices of a batch's images and their positions in the epoch.

        Returns:
            Two tensors (B,), int64.

        Raises:
            IndexError: There is no such batch.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"reading batch {number} of an epoch of {len(self)} batches")
        part = slice(number * self.batch_size, (number + 1) * self.batch_size)
        return self.indices[part], self.positions[part]

    def make_batch(self, images: Tensor, indices: Tensor, positions: Tensor) -> Batch:
        """Return a batch of these images with their targets, metadata and weights."""
        metadata = self._metadata[indices] if self._metadata is not None else None
        weights = None if self.data.weights is None else self.data.weights[indices]
        return Batch(images, self._targets[indices], positions, metadata, weights)


_SIGNALS = (signal.SIGTERM, signal.SIGINT)

AHEAD = 2
"""Number of batches that each worker prepares ahead of use, as in a `DataLoader`."""

Job: TypeAlias = tuple[int, NDArray[np.int64], NDArray[np.int64], int]
"""Slot for the images of a batch, their indices, their positions in the epoch, and the epoch."""


class BatchLoader:
    """Iterable over the batches of the sampler's current epoch, with persistent workers.

    Batches are identical to those of `Batches`, for any number of workers.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.data import Augment, BatchLoader, EpochSampler, HAM10000, synthesize
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     synthesize(Path(folder) / "set", images=20, seed=0, width=60)
        ...     data = HAM10000(Path(folder) / "set", size=32)
        ...     loader = BatchLoader(data, EpochSampler(data.targets), 8, Augment("authors"))
        ...     [tuple(batch.images.shape) for batch in loader]
        [(8, 3, 32, 32), (8, 3, 32, 32), (4, 3, 32, 32)]

    Args:
        data: The data set.
        sampler: Selects and orders its images. Call its `set_epoch` before each iteration.
        batch_size: Batch size of this rank.
        augment: Applied to each batch by the workers; leave it out to augment on a GPU.
        drop_last: Whether to leave out the last batch if it is short.
        workers: Number of worker processes; 0 makes each batch in this process when it is used.
        reuse_memory: Yield the memory that workers write to instead of a copy. The images of a
            batch are overwritten after the next batch, so use them at once and keep none.
        pin_memory: Copy images to page-locked memory, from which a GPU can read asynchronously.

    Raises:
        ArgumentError: An argument is out of range, or images have no common size.
        WriteError: There is not enough shared memory.
    """

    def __init__(
        self,
        data: HAM10000,
        sampler: EpochSampler | SequentialShard,
        batch_size: int,
        augment: Augmentation | None = None,
        *,
        drop_last: bool = False,
        workers: int = 0,
        reuse_memory: bool = False,
        pin_memory: bool = False,
    ) -> None:
        if workers < 0:
            raise ArgumentError(f"loading batches: workers must be at least 0, not {workers}.")
        if data.size is None:
            raise ArgumentError(
                "loading batches: images have their files' sizes, and a batch needs one size. "
                "Open the data set with size=."
            )
        self.data, self.sampler = data, sampler
        self.batch_size, self.drop_last = batch_size, drop_last
        self.reuse_memory, self.pin_memory = reuse_memory, pin_memory
        Batches(data, sampler, batch_size)  # checks the batch size
        # Batches in progress, the one in use, and the one before it.
        number = workers * AHEAD + 2
        dtype = torch.uint8 if augment is None else torch.float32
        self._slots = torch.empty(number, batch_size, 3, data.size, data.size, dtype=dtype)
        try:
            self._slots.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise WriteError(
                f"loading batches: no shared memory for {self._slots.nbytes / 2**20:.0f} MiB "
                f"({error}). Free some in /dev/shm, or lower the number of workers, the size of "
                "images or the batch size."
            ) from error
        self._jobs = _Jobs(number)
        self._filled: DataLoader[int] = DataLoader(
            _Slots(data, augment, self._slots),
            batch_size=None,
            sampler=self._jobs,
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            persistent_workers=workers > 0,
            worker_init_fn=obey_parent_only,
            # A generator of its own, so that it doesn't draw from the one that dropout uses.
            generator=torch.Generator(),
        )
        if workers:
            # Start the workers now, with an empty epoch: a process forked while other threads run
            # can inherit a locked lock, and a run has more threads later.
            with blocked_signals():
                iter(self._filled)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.sampler), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        batches = Batches(self.data, self.sampler, self.batch_size, drop_last=self.drop_last)
        self._jobs.batches = batches
        for number, slot in enumerate(_with_own_messages(self._filled)):
            indices, positions = batches.members(number)
            images = self._slots[slot, : len(indices)]
            if self.pin_memory:
                images = images.pin_memory()
            elif not self.reuse_memory:
                images = images.clone()
            yield batches.make_batch(images, indices, positions)


def _with_own_messages(filled: Iterable[int]) -> Iterator[int]:
    # DataLoader puts the traceback of a worker into the message of its error.
    try:
        yield from filled
    except Ham10000Error as error:
        kind = type(error)
        last = str(error).splitlines()[-1]
        raise kind(last.removeprefix(f"{kind.__module__}.{kind.__name__}: ")) from error


class _Jobs(Sampler[Job]):
    """Sampler of the jobs of an epoch, one per batch."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.batches: Batches | None = None

    def __iter__(self) -> Iterator[Job]:
        batches = self.batches
        for number in range(len(batches) if batches is not None else 0):
            assert batches is not None
            indices, positions = batches.members(number)
            yield number % self.slots, indices.numpy(), positions.numpy(), batches.epoch


class _Slots(Dataset[int]):
    """Data set whose items are side effects: it writes a batch to its slot and returns the slot."""

    def __init__(self, data: HAM10000, augment: Augmentation | None, slots: Tensor) -> None:
        self.data, self.augment, self.slots = data, augment, slots

    def __getitem__(self, job: Job) -> int:
        slot, indices, positions, epoch = job
        out = self.slots[slot, : len(indices)]
        if self.augment is None:
            out.copy_(self.data.read(indices.tolist())[0])
        else:
            images, _ = self.data.read(indices.tolist())
            self.augment(images, torch.from_numpy(positions), epoch, out=out)
        return slot


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Block SIGTERM and SIGINT; processes that are started meanwhile keep them blocked.

    A signal that arrives in the meantime is delivered at the end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent_only(worker: int) -> None:
    """Ignore SIGINT in this worker, and SIGTERM unless the parent process sent it.

    Pass it as `worker_init_fn` to a `DataLoader` whose workers start within `blocked_signals`. The
    parent uses SIGTERM to end workers that don't end by themselves. Workers whose parent has died
    end within seconds, since torch's worker loop checks for it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    while True:
        received = signal.sigwaitinfo({signal.SIGTERM})
        if parent is not None and received.si_pid == parent.pid:
            os._exit(0)
