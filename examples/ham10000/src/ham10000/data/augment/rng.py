"""Counter-based random numbers, which are the same on any number of ranks.

The numbers that a sample gets from a sequential generator depend on the number of processes. Here
each number is a function of the seed, the epoch, the sample's position in the epoch and a column.
The mixing function is the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014,
doi:10.1145/2714064.2660195).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["uniform"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniform(seed: int, epoch: int, positions: Tensor, columns: int, stream: int = 0) -> Tensor:
    """Return uniform random numbers for samples, determined by their positions in the epoch.

    Example:
        >>> import torch
        >>> from ham10000.data.augment.rng import uniform
        >>> whole = uniform(0, 0, torch.arange(6), columns=2)
        >>> every_second = uniform(0, 0, torch.arange(6)[1::2], columns=2)
        >>> bool((whole[1::2] == every_second).all())
        True

    Args:
        seed: seed of the run.
        epoch: counted from 0.
        positions: (B,), position of each sample in the epoch over all ranks.
        columns: count of numbers per sample.
        stream: purpose of the numbers, so that two uses don't share them.

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


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    result: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return result
