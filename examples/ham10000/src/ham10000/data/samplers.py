"""Samplers: the images of an epoch, their order, the part of this rank, and random numbers.

Every rank computes the draw of the whole epoch and takes every n-th image of it, so in each step
all ranks together have the batch that one process would have.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from ham10000.errors import ArgumentError, closest

__all__ = ["BALANCES", "EpochSampler", "SequentialShard", "uniform"]

Balance = Literal["none", "sqrt", "class"]

BALANCES: dict[str, float] = {"none": 1.0, "sqrt": 0.5, "class": 0.0}
"""Exponent of the count of a class, to which its share of an epoch is proportional."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class EpochSampler(Sampler[int]):
    """Shuffled sampler with balanced classes, whose draw doesn't depend on the number of ranks.

    Each class has its exact share of the epoch, rounded to an image, and the images of a class are
    drawn equally often, up to one. With `balance="none"` and the default length each is drawn once.

    Example:
        >>> from ham10000.data import EpochSampler
        >>> targets = [0] * 90 + [1] * 10
        >>> one = list(EpochSampler(targets, balance="class", seed=3))
        >>> sum(targets[index] for index in one)
        50
        >>> two = [list(EpochSampler(targets, "class", 3, rank=r, num_replicas=2)) for r in (0, 1)]
        >>> one == [index for pair in zip(*two) for index in pair]
        True

    Args:
        targets: Class of each image.
        balance: "class" draws every class equally often, "sqrt" in proportion to the square root
            of its count, "none" in proportion to its count.
        seed: Seed of the run.
        num_samples: Length of an epoch over all ranks; by default the number of targets.
        rank: Index of this process.
        num_replicas: Number of processes.
        drop_last: Whether to give each rank equally many images, as DDP needs in training, by
            leaving out the end of the draw. Otherwise the first ranks may have one more.

    Raises:
        ArgumentError: An argument is out of range.
    """

    def __init__(
        self,
        targets: Sequence[int],
        balance: Balance = "none",
        seed: int = 0,
        *,
        num_samples: int | None = None,
        rank: int = 0,
        num_replicas: int = 1,
        drop_last: bool = False,
    ) -> None:
        check_rank(rank, num_replicas)
        if balance not in BALANCES:
            raise ArgumentError(
                f"building a sampler: unknown balance {balance!r}. {closest(balance, BALANCES)}"
            )
        if len(targets) == 0:
            raise ArgumentError("building a sampler: found no images. Pass at least one target.")
        self.num_samples = len(targets) if num_samples is None else num_samples
        if self.num_samples < 1:
            raise ArgumentError(
                f"building a sampler: num_samples must be at least 1, found {num_samples}."
            )
        self.targets = torch.as_tensor(targets)
        self.balance, self.seed = balance, seed
        self.rank, self.num_replicas, self.drop_last = rank, num_replicas, drop_last
        self.epoch, self.done = 0, 0

    def set_epoch(self, epoch: int, done: int = 0) -> None:
        """Set the epoch, and the number of its samples that all ranks have already processed."""
        self.epoch, self.done = epoch, done

    def state_dict(self) -> dict[str, int | str]:
        """Return the state of the sampler, which is the same on every rank.

        `done` is the value passed to `set_epoch`: a loader reads batches ahead of their use, so
        only the training loop knows which are done.
        """
        return {
            "epoch": self.epoch,
            "done": self.done,
            "seed": self.seed,
            "balance": self.balance,
            "num_samples": self.num_samples,
            "num_images": len(self.targets),
        }

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Load the state of a sampler, which may have had another number of ranks.

        Raises:
            ArgumentError: That sampler has another seed, balance, length or number of images.
        """
        own = self.state_dict()
        for name in ("seed", "balance", "num_samples", "num_images"):
            if state.get(name) != own[name]:
                raise ArgumentError(
                    f"resuming a sampler: its {name} is {own[name]!r}, and that of the state is "
                    f"{state.get(name)!r}. Build it with the same arguments."
                )
        self.set_epoch(int(state["epoch"]), int(state["done"]))

    def draw(self) -> Tensor:
        """Return the indices of the whole epoch over all ranks, (num_samples,)."""
        generator = torch.Generator().manual_seed(_seed(self.seed, self.epoch))
        counts = torch.bincount(self.targets)
        weights = torch.where(counts > 0, counts.double() ** BALANCES[self.balance], 0.0)
        quotas = _apportion(weights, self.num_samples)
        drawn = [
            _cycle((self.targets == label).nonzero()[:, 0], quota, generator)
            for label, quota in enumerate(quotas)
        ]
        whole = torch.cat(drawn)
        return whole[torch.randperm(len(whole), generator=generator)]

    def positions(self) -> Tensor:
        """Return the positions of this rank's samples in the epoch, counted over all ranks."""
        stop = self.num_samples
        if self.drop_last:
            stop -= (stop - self.done) % self.num_replicas
        # Unlike torch.arange, a range may start after its end: then this rank has none left.
        return torch.tensor(range(self.done + self.rank, stop, self.num_replicas), dtype=torch.long)

    def __iter__(self) -> Iterator[int]:
        return iter(self.draw()[self.positions()].tolist())

    def __len__(self) -> int:
        return len(self.positions())


class SequentialShard(Sampler[int]):
    """Sequential sampler of a rank's part of a data set, without padding.

    A padded sampler repeats some images, so metrics over its samples are wrong.

    Example:
        >>> from ham10000.data import SequentialShard
        >>> [list(SequentialShard(5, rank, 2)) for rank in (0, 1)]
        [[0, 1], [2, 3, 4]]

    Args:
        length: Length of the data set.
        rank: Index of this process.
        num_replicas: Number of processes.

    Raises:
        ArgumentError: An argument is out of range.
    """

    def __init__(self, length: int, rank: int = 0, num_replicas: int = 1) -> None:
        check_rank(rank, num_replicas)
        self.range = range(length * rank // num_replicas, length * (rank + 1) // num_replicas)
        self.epoch = 0

    def positions(self) -> Tensor:
        """Return the positions of this rank's samples in the data set."""
        return torch.tensor(self.range, dtype=torch.long)

    def __iter__(self) -> Iterator[int]:
        return iter(self.range)

    def __len__(self) -> int:
        return len(self.range)


def uniform(seed: int, epoch: int, positions: Tensor, columns: int, stream: int = 0) -> Tensor:
    """Return uniform random numbers for samples, determined by their positions in the epoch.

    The numbers that a sample gets from a sequential generator depend on the number of processes.
    Here each number is a function of the seed, the epoch, the sample's position in the epoch and a
    column. The mixing function is the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014,
    doi:10.1145/2714064.2660195).

    Example:
        >>> import torch
        >>> from ham10000.data.samplers import uniform
        >>> whole = uniform(0, 0, torch.arange(6), columns=2)
        >>> every_second = uniform(0, 0, torch.arange(6)[1::2], columns=2)
        >>> bool((whole[1::2] == every_second).all())
        True

    Args:
        seed: Seed of the run.
        epoch: Counted from 0.
        positions: (B,), position of each sample in the epoch over all ranks.
        columns: Count of numbers per sample.
        stream: Purpose of the numbers, so that two uses don't share them.

    Returns:
        (B, columns), float32 on the CPU, uniform in [0, 1).
    """
    key = np.array(seed & (2**64 - 1), dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic is modulo 2 ** 64
        for number in (epoch, stream):
            key = _mix(np.asarray(key + _GOLDEN * np.uint64(number + 1)))
        rows = _mix(positions.cpu().numpy().astype(np.uint64) * _GOLDEN + key)
        table = _mix(rows[:, None] + _GOLDEN * np.arange(1, columns + 1, dtype=np.uint64))
    # The upper 24 bits, which a float32 represents exactly.
    return torch.from_numpy((table >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24))


def check_rank(rank: int, num_replicas: int) -> None:
    """Check that a rank is below `num_replicas`.

    Raises:
        ArgumentError: It is not.
    """
    if not 0 <= rank < num_replicas:
        raise ArgumentError(
            f"building a sampler: rank must be one of 0 to num_replicas - 1, "
            f"found rank {rank} of {num_replicas}."
        )


def _seed(seed: int, epoch: int) -> int:
    # With seed + epoch, epoch 1 of seed 0 would equal epoch 0 of seed 1.
    return (seed * 1_000_003 + epoch) % 2**63


def _apportion(weights: Tensor, total: int) -> list[int]:
    # The largest remainder method: integers that add up to the total.
    exact = weights / weights.sum() * total
    quotas = exact.floor().long()
    order = torch.argsort(quotas - exact, stable=True)
    quotas[order[: total - int(quotas.sum())]] += 1
    return [int(quota) for quota in quotas]


def _cycle(members: Tensor, count: int, generator: torch.Generator) -> Tensor:
    if len(members) == 0 or count == 0:
        return members[:0]
    passes = -(-count // len(members))
    shuffled = [members[torch.randperm(len(members), generator=generator)] for _ in range(passes)]
    return torch.cat(shuffled)[:count]


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    result: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return result
