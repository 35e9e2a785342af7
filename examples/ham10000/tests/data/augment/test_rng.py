import pytest
import torch

from ham10000.data.augment.rng import uniform

GOLDEN = [[15818310, 1740951], [9414747, 11489141], [2042702, 11457025]]


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
