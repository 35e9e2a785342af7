import torch

from ham10000.training.tally import Tally


def test_two_ranks_count_as_one() -> None:
    generator = torch.Generator().manual_seed(0)
    losses, scores = torch.rand(40, generator=generator), torch.randn(40, 7, generator=generator)
    targets = torch.randint(0, 5, (40,), generator=generator)
    whole = Tally()
    whole.add(losses, scores, targets)
    parts = [Tally(), Tally()]
    for rank, part in enumerate(parts):
        part.add(losses[rank::2], scores[rank::2], targets[rank::2])
    together = Tally.sum([part.state_dict() for part in parts])
    assert torch.equal(together.confusion, whole.confusion)
    right = scores.argmax(1) == targets
    found = together.metrics()
    assert found["accuracy"] == right.double().mean().item()
    recall = [right[targets == label].double().mean().item() for label in range(5)]
    assert abs(found["balanced_accuracy"] - sum(recall) / 5) < 1e-12
    assert abs(found["loss"] - losses.double().mean().item()) < 1e-12


def test_shares_count_as_their_largest_class() -> None:
    tally = Tally()
    shares = torch.tensor([[0.4, 0.6, 0, 0, 0, 0, 0]])
    tally.add(torch.ones(1), torch.eye(7)[1:2], shares)
    assert tally.metrics()["accuracy"] == 1
    assert Tally().metrics()["loss"] == 0
