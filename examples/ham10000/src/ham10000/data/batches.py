"""An epoch as a data set of batches: one read, one augmentation and one hand-over for each.

    batches = Batches(data, sampler, batch_size=64, augment=augment)
    for batch in batches.load(workers=2): ...

A batch is known by its number alone, so that it is the same whoever makes it: this thread, another
one, or a worker of `DataLoader(batches, batch_size=None, num_workers=2)`; and on two ranks of 32
the same images, with the same augmentation, as on one rank of 64.

Threads are the quicker workers here: reading and augmenting let go of Python's lock, there is no
process to start for each epoch, and a batch needn't be handed over from one.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ham10000.data.dataset import HAM10000
from ham10000.data.metadata import metadata_features
from ham10000.data.parallel import on_threads
from ham10000.data.samplers import EpochSampler, SequentialShard
from ham10000.errors import ArgumentError

__all__ = ["Augmentation", "Batch", "Batches", "make_slots"]


AHEAD = 2
"""How many batches a worker makes ahead of their use; that of `DataLoader`."""


class Augmentation(Protocol):
    """What augments a batch; `Augment` does."""

    def __call__(
        self, images: Tensor, positions: Tensor, epoch: int, out: Tensor | None = None
    ) -> Tensor:
        """See `Augment.__call__`."""


class Batch(NamedTuple):
    """What a step of training needs."""

    images: Tensor
    """(B, 3, H, W): uint8, or float32 once augmented."""
    targets: Tensor
    """(B,), int64."""
    positions: Tensor
    """(B,), where in the epoch each sample stands over all ranks; augmentation draws by it."""
    metadata: Tensor | None = None
    """(B, M), float32, from `metadata_features`, if the data set was opened with metadata."""


class Batches(Dataset[Batch]):
    """The batches of one epoch on one rank, by number.

    Where training runs on a GPU, leave `augment` out and call it on the batch there:
    `augment(images.to(device), positions, epoch)`. Where it runs on the CPU, pass it here, and the
    workers do it.

    Build it anew for each epoch, after `sampler.set_epoch`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.data.batches import Batches
        >>> from ham10000.data.dataset import HAM10000
        >>> from ham10000.data.samplers import EpochSampler
        >>> from ham10000.data.synthetic import synthesize
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     synthesize(Path(folder) / "set", images=20, seed=0, width=60)
        ...     data = HAM10000(Path(folder) / "set", size=32)
        ...     batches = Batches(data, EpochSampler(data.targets), batch_size=8)
        ...     [len(batches[number].images) for number in range(len(batches))]
        [8, 8, 4]

    Args:
        data: where images come from.
        sampler: which of them, in which order.
        batch_size: of this rank.
        augment: what is done to each batch.
        drop_last: leave the last batch out if it is short.
        slots: memory for augmented images, from `make_slots`, that batches share in turn. It saves
            the time that the system takes to find memory for each, most of the time where images
            are large; but a batch's images last only until `len(slots)` batches later, so that
            they must be used at once, and not be kept.

    Raises:
        ArgumentError: the batch size is no size, or the slots don't fit it.
    """

    def __init__(
        self,
        data: HAM10000,
        sampler: EpochSampler | SequentialShard,
        batch_size: int,
        augment: Augmentation | None = None,
        *,
        drop_last: bool = False,
        slots: Tensor | None = None,
    ) -> None:
        if batch_size < 1:
            raise ArgumentError(f"making batches: batch_size must be at least 1, not {batch_size}.")
        self.data, self.augment, self.batch_size = data, augment, batch_size
        self.indices = torch.tensor(list(sampler), dtype=torch.long)
        self._slots = slots
        shape = (batch_size, 3, data.size, data.size)
        if slots is not None and slots.shape[1:] != shape:
            raise ArgumentError(
                f"making batches: the slots are for {tuple(slots.shape[1:])}, and a batch is of "
                f"batch_size {batch_size} and size {data.size}."
            )
        self.positions, self.epoch = sampler.positions(), sampler.epoch
        self._metadata = metadata_features(data.metadata) if data.metadata else None
        length = len(self.indices)
        self._length = length // batch_size if drop_last else -(-length // batch_size)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> Batch:
        if not 0 <= number < len(self):
            raise IndexError(f"taking batch {number} of an epoch of {len(self)}")
        part = slice(number * self.batch_size, (number + 1) * self.batch_size)
        indices, positions = self.indices[part].tolist(), self.positions[part]
        metadata = self._metadata[indices] if self._metadata is not None else None
        if self.augment is None:
            return Batch(*self.data.read(indices), positions, metadata)
        images, targets = self.data.read(indices)
        out = None
        if self._slots is not None:
            out = self._slots[number % len(self._slots), : len(indices)]
        images = self.augment(images, positions, self.epoch, out=out)
        return Batch(images, targets, positions, metadata)

    def load(self, workers: int = 2) -> Iterator[Batch]:
        """Yield the batches in their order, made ahead of their use on threads.

        Args:
            workers: how many threads; 0 makes each batch when it is asked for.

        Raises:
            ArgumentError: workers is negative, or there are fewer slots than batches under way.
        """
        if workers < 0:
            raise ArgumentError(f"loading batches: workers must be at least 0, not {workers}.")
        needed = AHEAD * workers + 2
        if self._slots is not None and len(self._slots) < needed:
            raise ArgumentError(
                f"loading batches: {workers} workers need {needed} slots, found "
                f"{len(self._slots)}. Make them with make_slots(..., workers={workers})."
            )
        numbers = range(len(self))
        if workers == 0:
            return map(self.__getitem__, numbers)
        # Left early, the iterator ends its threads as it is collected.
        return on_threads(self.__getitem__, numbers, workers, ahead=AHEAD * workers)


def make_slots(batch_size: int, size: int, workers: int, prefetch_factor: int = AHEAD) -> Tensor:
    """Make memory, shared by processes, for as many batches as are under way, and two more.

    So a batch's images last until the next but one is asked for.

    Example:
        >>> from ham10000.data.batches import make_slots
        >>> make_slots(batch_size=8, size=32, workers=2).shape
        torch.Size([6, 8, 3, 32, 32])

    Args:
        batch_size: of a rank.
        size: of an image, in pixels.
        workers: of `Batches.load`, or a `DataLoader`'s `num_workers`.
        prefetch_factor: the `DataLoader`'s.

    Returns:
        (N, batch_size, 3, size, size), float32, shared.
    """
    number = workers * prefetch_factor + 2
    slots = torch.empty(number, batch_size, 3, size, size)
    slots.share_memory_()  # type: ignore[no-untyped-call]
    return slots
