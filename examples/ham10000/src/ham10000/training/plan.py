"""How an epoch is cut into steps: which batches, how many images each, and where each begins."""

from dataclasses import dataclass

from ham10000.errors import ArgumentError

__all__ = ["EpochPlan"]

_LEAST = 2  # images a rank needs: batch norm has no variance of one


@dataclass(frozen=True)
class EpochPlan:
    """The steps of an epoch, counted over all ranks.

    A step is an update of the weights, of `accumulate` batches. The last batch may be short, but a
    last batch that leaves a rank with fewer than two images is left out: another draw follows.

    Example:
        >>> from ham10000.training.plan import EpochPlan
        >>> plan = EpochPlan(samples=100, batch_size=32, replicas=2)
        >>> plan.steps, [plan.images(step) for step in range(plan.steps)]
        (4, [32, 32, 32, 4])
        >>> EpochPlan(samples=97, batch_size=32, replicas=2).steps
        3

    Args:
        samples: that the sampler draws.
        batch_size: over all ranks.
        replicas: the number of ranks.
        accumulate: batches for a step.

    Raises:
        ArgumentError: the batches can't be shared out evenly, or there is not even one.
    """

    samples: int
    batch_size: int
    replicas: int = 1
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.replicas:
            raise ArgumentError(
                f"sharing a batch out: training.batch_size {self.batch_size} counts the images of "
                f"all processes together, and {self.replicas} processes don't divide it. "
                f"Take {self.batch_size // self.replicas * self.replicas or self.replicas}."
            )
        if not self.batches:
            raise ArgumentError(
                f"planning an epoch: {self.samples} images are too few for {self.replicas} "
                f"processes, each of which needs {_LEAST} in a batch."
            )

    @property
    def batches(self) -> int:
        """How many there are."""
        whole, rest = divmod(self.samples, self.batch_size)
        return whole + (rest >= _LEAST * self.replicas)

    @property
    def steps(self) -> int:
        """How many updates of the weights."""
        return -(-self.batches // self.accumulate)

    def batches_of(self, step: int) -> range:
        """Return which batches belong to a step."""
        first = step * self.accumulate
        return range(first, min(first + self.accumulate, self.batches))

    def done_before(self, step: int) -> int:
        """Return how many images come before a step; where the sampler goes on."""
        return min(step * self.accumulate * self.batch_size, self.samples)

    def images(self, step: int) -> int:
        """Return how many images a step has on all ranks, which its loss is divided by."""
        last = self.batches_of(step)[-1]
        end = min((last + 1) * self.batch_size, self.samples)
        return end - self.done_before(step)
