"""Which images an epoch draws, in which order, and which of them are this rank's.

Every rank computes the draw of the whole epoch and takes every n-th of it, so that step for step
the ranks together have what one process would have.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ham10000.errors import ArgumentError, closest

__all__ = ["BALANCES", "EpochSampler", "SequentialShard"]

Balance = Literal["none", "sqrt", "class"]

BALANCES: dict[str, float] = {"none": 1.0, "sqrt": 0.5, "class": 0.0}
"""The power of a class's count that its share of an epoch is proportional to."""


class EpochSampler(Sampler[int]):
    """A shuffled draw of an epoch, with the classes balanced as asked, exact across ranks.

    Each class has its share of the epoch to the image, and all images of a class are drawn equally
    often, to one. With `balance="none"` and the default length that is every image once.

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
        targets: the class of each image.
        balance: "class" draws every class equally often, "sqrt" in proportion to the square root
            of its count, "none" as often as it is there.
        seed: of the run.
        num_samples: the length of an epoch over all ranks; that of `targets` unless given.
        rank: which process this is.
        num_replicas: how many there are.
        drop_last: give each rank equally many, leaving out the few last of the draw; what DDP
            needs in training. Otherwise the first ranks may have one more.

    Raises:
        ArgumentError: an argument can't be.
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
                f"building a sampler: there is no balance {balance!r}. {closest(balance, BALANCES)}"
            )
        if len(targets) == 0:
            raise ArgumentError("building a sampler: there is no image to draw.")
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
        """Go to an epoch, and in it past the samples that are done, counted over all ranks."""
        self.epoch, self.done = epoch, done

    def state_dict(self) -> dict[str, int | str]:
        """Return where the sampler is, which is the same on every rank.

        `done` is what `set_epoch` was told: a loader asks for batches ahead of their use, so only
        the training loop knows what is done.
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
        """Go where another sampler was, maybe one of another number of ranks.

        Raises:
            ArgumentError: that one draws otherwise.
        """
        own = self.state_dict()
        for name in ("seed", "balance", "num_samples", "num_images"):
            if state.get(name) != own[name]:
                raise ArgumentError(
                    f"resuming a sampler: its {name} is {own[name]!r}, and the state has "
                    f"{state.get(name)!r}. Build it as it was built."
                )
        self.set_epoch(int(state["epoch"]), int(state["done"]))

    def draw(self) -> Tensor:
        """Return the whole epoch of all ranks, (num_samples,)."""
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
        """Return where in the epoch this rank's samples stand, counted over all ranks."""
        stop = self.num_samples
        if self.drop_last:
            stop -= (stop - self.done) % self.num_replicas
        # A range, unlike torch.arange, may begin beyond its end: then this rank has none left.
        return torch.tensor(range(self.done + self.rank, stop, self.num_replicas), dtype=torch.long)

    def __iter__(self) -> Iterator[int]:
        return iter(self.draw()[self.positions()].tolist())

    def __len__(self) -> int:
        return len(self.positions())


class SequentialShard(Sampler[int]):
    """A rank's part of a data set in order: nothing twice, nothing left out, nothing padded.

    A padded sampler counts some images twice, and metrics over it are wrong.

    Example:
        >>> from ham10000.data import SequentialShard
        >>> [list(SequentialShard(5, rank, 2)) for rank in (0, 1)]
        [[0, 1], [2, 3, 4]]

    Args:
        length: of the data set.
        rank: which process this is.
        num_replicas: how many there are.

    Raises:
        ArgumentError: an argument can't be.
    """

    def __init__(self, length: int, rank: int = 0, num_replicas: int = 1) -> None:
        check_rank(rank, num_replicas)
        self.range = range(length * rank // num_replicas, length * (rank + 1) // num_replicas)
        self.epoch = 0

    def positions(self) -> Tensor:
        """Return where in the data set this rank's samples stand, counted over all ranks."""
        return torch.tensor(self.range, dtype=torch.long)

    def __iter__(self) -> Iterator[int]:
        return iter(self.range)

    def __len__(self) -> int:
        return len(self.range)


def check_rank(rank: int, num_replicas: int) -> None:
    """Refuse a rank that isn't one of `num_replicas`."""
    if not 0 <= rank < num_replicas:
        raise ArgumentError(
            f"building a sampler: rank must be one of 0 to num_replicas - 1, "
            f"found rank {rank} of {num_replicas}."
        )


def _seed(seed: int, epoch: int) -> int:
    # Neighbouring epochs of neighbouring seeds must not meet, as they do in seed + epoch.
    return (seed * 1_000_003 + epoch) % 2**63


def _apportion(weights: Tensor, total: int) -> list[int]:
    """Share out a total in whole numbers by the largest remainder."""
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
