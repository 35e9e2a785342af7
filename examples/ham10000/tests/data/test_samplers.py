from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ham10000.data import EpochSampler, SequentialShard
from ham10000.data.samplers import uniform
from ham10000.errors import ArgumentError

GOLDEN = [[15818310, 1740951], [9414747, 11489141], [2042702, 11457025]]
TARGETS = [0] * 60 + [1] * 25 + [2] * 4


@settings(max_examples=40, deadline=None)
@given(
    balance=st.sampled_from(["none", "sqrt", "class"]),
    replicas=st.integers(1, 5),
    number=st.integers(1, 200),
    done=st.integers(0, 100),
    seed=st.integers(0, 1000),
)
def test_the_ranks_together_draw_what_one_process_draws(
    balance, replicas: int, number: int, done: int, seed: int
) -> None:
    done = min(done, number)

    def sampler(rank: int, of: int) -> EpochSampler:
        made = EpochSampler(TARGETS, balance, seed, num_samples=number, rank=rank, num_replicas=of)
        made.set_epoch(3, done)
        return made

    one = list(sampler(0, 1))
    ranks = [list(sampler(rank, replicas)) for rank in range(replicas)]
    assert len(one) == number - done
    for rank, drawn in enumerate(ranks):
        assert drawn == one[rank::replicas]
        assert len(sampler(rank, replicas)) == len(drawn)


@pytest.mark.parametrize(
    ("balance", "expected"),
    [("class", [30, 30, 30]), ("sqrt", [53, 34, 14]), ("none", [61, 25, 4])],
)
def test_each_class_has_its_share_to_the_image(balance, expected: list[int]) -> None:
    number = sum(expected)
    drawn = EpochSampler(TARGETS, balance, seed=1, num_samples=number)
    counts = Counter(TARGETS[index] for index in drawn)
    assert [counts[label] for label in range(3)] == pytest.approx(expected, abs=1)
    if balance == "class":
        of_rare = Counter(index for index in drawn if TARGETS[index] == 2)
        assert set(of_rare.values()) <= {7, 8}  # 30 draws of 4 images, as evenly as can be


def test_every_image_once_without_balance() -> None:
    assert sorted(EpochSampler(TARGETS, seed=2)) == list(range(len(TARGETS)))


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def drawn(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(TARGETS, "class", seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert drawn(0, 1) == drawn(0, 1)
    assert drawn(0, 1) != drawn(0, 2)
    assert drawn(0, 1) != drawn(1, 0)


def test_equal_lengths_where_ddp_needs_them() -> None:
    lengths = [
        len(EpochSampler(TARGETS, rank=rank, num_replicas=4, drop_last=True)) for rank in range(4)
    ]
    assert lengths == [22, 22, 22, 22]


def test_a_run_goes_on_where_it_stopped_on_another_number_of_ranks() -> None:
    whole = EpochSampler(TARGETS, "sqrt", seed=5)
    whole.set_epoch(2)
    expected = list(whole)
    whole.set_epoch(2, done=40)
    state = whole.state_dict()
    ranks = [EpochSampler(TARGETS, "sqrt", 5, rank=rank, num_replicas=3) for rank in range(3)]
    for sampler in ranks:
        sampler.load_state_dict(state)
    rest = [list(sampler) for sampler in ranks]
    assert [rest[place % 3][place // 3] for place in range(len(expected) - 40)] == expected[40:]
    other = EpochSampler(TARGETS, "sqrt", seed=6)
    with pytest.raises(ArgumentError, match="its seed is 6, and that of the state is 5"):
        other.load_state_dict(state)


@given(length=st.integers(0, 50), replicas=st.integers(1, 9))
def test_a_shard_pads_nothing_and_repeats_nothing(length: int, replicas: int) -> None:
    shards = [list(SequentialShard(length, rank, replicas)) for rank in range(replicas)]
    assert [index for shard in shards for index in shard] == list(range(length))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_impossible_samplers_are_refused() -> None:
    with pytest.raises(ArgumentError, match="rank 2 of 2"):
        SequentialShard(5, 2, 2)
    with pytest.raises(ArgumentError, match="Closest: class"):
        EpochSampler(TARGETS, "clas")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="no image"):
        EpochSampler([])
    with pytest.raises(ArgumentError, match="num_samples"):
        EpochSampler(TARGETS, num_samples=0)


def test_draws_are_those_of_every_other_run() -> None:
    drawn = uniform(1, 2, torch.tensor([0, 1, 2**40]), columns=2, stream=3)
    assert (drawn * 2**24).long().tolist() == GOLDEN


def test_draws_are_uniform_and_belong_to_their_position() -> None:
    drawn = uniform(7, 3, torch.arange(20_000), columns=3)
    assert drawn.dtype == torch.float32
    assert 0 <= drawn.min() < 1e-3 < 0.999 < drawn.max() < 1
    assert drawn.mean(0).tolist() == pytest.approx([0.5] * 3, abs=0.01)
    assert torch.corrcoef(drawn.T).fill_diagonal_(0).abs().max() < 0.03
    assert abs(torch.corrcoef(torch.stack([drawn[1:, 0], drawn[:-1, 0]]))[0, 1]) < 0.03
    for other in (uniform(8, 3, torch.arange(9), 3), uniform(7, 4, torch.arange(9), 3)):
        assert not torch.equal(other, drawn[:9])
    assert not torch.equal(uniform(7, 3, torch.arange(9), 3, stream=1), drawn[:9])
