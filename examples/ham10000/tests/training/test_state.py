import math

import torch

from ham10000.training.state import Counters, RunningMetrics


def test_nan_is_never_better() -> None:
    counters = Counters()
    assert [counters.update_best(value, "min") for value in (math.nan, 2.0, math.nan, 1.0)] == [
        False,
        True,
        False,
        True,
    ]
    assert counters.best == 1.0
    counters.update_patience(math.nan, "min", 0.0)
    assert counters.without_progress == 1


def test_small_steps_are_the_best_but_no_progress() -> None:
    counters = Counters()
    for value in (0.5, 0.54, 0.58, 0.62):  # the third one is 0.12 above the first
        assert counters.update_best(value, "max")
        counters.update_patience(value, "max", 0.1)
    assert (counters.mark, counters.without_progress) == (0.62, 0)


def test_training_ends_after_the_last_epoch_or_enough_without_progress() -> None:
    counters = Counters(epoch=4, without_progress=2)
    assert counters.finished(epochs=4, patience=None)
    assert not counters.finished(epochs=5, patience=3)
    assert counters.finished(epochs=5, patience=2)
    assert not Counters().finished(epochs=5, patience=0)


def test_two_ranks_count_as_one() -> None:
    generator = torch.Generator().manual_seed(0)
    losses, scores = torch.rand(40, generator=generator), torch.randn(40, 7, generator=generator)
    targets = torch.randint(0, 5, (40,), generator=generator)
    whole = RunningMetrics()
    whole.add(losses, scores, targets)
    parts = [RunningMetrics(), RunningMetrics()]
    for rank, part in enumerate(parts):
        part.add(losses[rank::2], scores[rank::2], targets[rank::2])
    together = RunningMetrics.sum([part.state_dict() for part in parts])
    assert torch.equal(together.confusion, whole.confusion)
    right = scores.argmax(1) == targets
    found = together.summarize()
    assert found["accuracy"] == right.double().mean().item()
    recall = [right[targets == label].double().mean().item() for label in range(5)]
    assert abs(found["balanced_accuracy"] - sum(recall) / 5) < 1e-12
    assert abs(found["loss"] - losses.double().mean().item()) < 1e-12


def test_shares_count_as_their_largest_class() -> None:
    metrics = RunningMetrics()
    shares = torch.tensor([[0.4, 0.6, 0, 0, 0, 0, 0]])
    metrics.add(torch.ones(1), torch.eye(7)[1:2], shares)
    assert metrics.summarize()["accuracy"] == 1
    assert RunningMetrics().summarize()["loss"] == 0
