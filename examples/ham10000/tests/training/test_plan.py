import pytest
from hypothesis import given
from hypothesis import strategies as st

from ham10000.data import EpochSampler
from ham10000.errors import ArgumentError
from ham10000.training.plan import EpochPlan


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
    assert plan.done_before(plan.steps - 1) + plan.images(plan.steps - 1) <= samples


def test_what_can_not_be_shared_out_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"training.batch_size 32 .* 3 processes.* Take 30\."):
        EpochPlan(100, 32, 3)
    with pytest.raises(ArgumentError, match="3 images are too few for 2 processes"):
        EpochPlan(3, 32, 2)
