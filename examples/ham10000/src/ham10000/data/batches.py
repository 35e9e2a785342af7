"""An epoch as a data set of batches: one read and one augmentation for each.

    batches = Batches(data, sampler, batch_size=64, augment=augment)
    loader = DataLoader(batches, batch_size=None, num_workers=2)

A batch is known by its number alone, so that it is the same whoever makes it, and on two ranks of
32 the same images, with the same augmentation, as on one rank of 64. For many epochs there is
`loading.BatchLoader`, which is quicker.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ham10000.data.dataset import HAM10000
from ham10000.data.metadata import metadata_features
from ham10000.data.samplers import EpochSampler, SequentialShard
from ham10000.errors import ArgumentError

__all__ = ["Augmentation", "Batch", "Batches"]


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

    Raises:
        ArgumentError: the batch size is no size.
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
        return self.around(images, indices, positions)

    def members(self, number: int) -> tuple[Tensor, Tensor]:
        """Return which images a batch holds, and their positions in the epoch: (B,), int64, each.

        Raises:
            IndexError: there is no such batch.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"taking batch {number} of an epoch of {len(self)}")
        part = slice(number * self.batch_size, (number + 1) * self.batch_size)
        return self.indices[part], self.positions[part]

    def around(self, images: Tensor, indices: Tensor, positions: Tensor) -> Batch:
        """Put what else is known of these images beside them."""
        metadata = self._metadata[indices] if self._metadata is not None else None
        return Batch(images, self._targets[indices], positions, metadata)
